"""The released RL format and the authors' evaluation sets."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from pxr_env.datasets import EvaluationData, RLData
from pxr_env.datasets.media import ImageFile, VideoFile
from pxr_env.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TASK = "pxr_env:pxr/RLData-v0"


def write(directory, rows, name="release.parquet"):
    parquet.write_table(pyarrow.Table.from_pylist(rows), directory / name)
    return str(directory)


def row(qid, image=("images/small.png",), **other):
    return {"question": "What is it?", "answer": ["B"], "image": list(image), "is_video": False, "qid": qid} | other


@pytest.fixture
def data_directory(directory):
    """Pictures in `images`, a clip of six frames in `videos/clip`."""
    (directory / "videos").mkdir()
    (directory / "clip").rename(directory / "videos" / "clip")
    return directory


def test_a_task_plays_and_scores_rows(data_directory):
    """Whole numbers as answers, letters with options in the question, a picture at its full resolution."""
    write(
        data_directory,
        [
            row("q0", ["images/china.jpg"], answer=["3"]),
            row("pair", ["images/flower.png", "images/small.png"], question="(A) one (B) two"),
        ],
    )
    env = gymnasium.make(TASK, data=data_directory, min_pixels=56 * 56, max_pixels=224 * 224)
    observation, info = env.reset(options={"sample_id": "q0"})
    assert [image.shape for image in observation["images"]] == [(168, 252, 3)]  # 640x427 inside 50,176 pixels
    assert (info["views"][0]["box"], "needs_operation" in info) == ((0, 0, 640, 427), False)
    assert env.unwrapped.sample.metadata == {"row": 0}
    for sample_id, answer, reward in (("q0", "3.0", 1.0), ("q0", "4", 0.0), ("pair", "two", 1.0), ("pair", "(b)", 1.0)):
        env.reset(options={"sample_id": sample_id})
        assert env.step(f"<answer>{answer}</answer>")[1] == reward
    other = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert all(map(np.array_equal, env.reset(seed=5)[0]["images"], other.reset(seed=5)[0]["images"]))


FRAMES = [f"videos/clip/{number}.png" for number in range(1, 7)]
BAD = {
    "missing": (row("missing", ["images/no.png"]), 'image "images/no.png" does not exist'),
    "frame": (
        row("frame", [*FRAMES, "videos/clip/7.png"], is_video=True),
        'frame 7 "videos/clip/7.png" does not exist',
    ),
    "size": (row("size", [FRAMES[0], "images/china.jpg"], is_video=True), "frame 2 is 640x427 and frame 1 40x30"),
    "video": (row("video", ["images/x.mp4"], is_video=True), 'video "images/x.mp4" does not exist'),
    "no answer": (row("no answer", answer=[]), "answer is []; expected text or a number"),
    "null question": (row("null question", question=None), "question is null"),
    "good": (row("good"), "the id is that of row 0;"),
    None: (row(None), "qid is null; expected text"),
}


def test_every_bad_row_is_named_at_once(data_directory, causes):
    write(data_directory, [row("good"), *(bad for bad, _ in BAD.values())])
    assert causes(lambda: RLData(data_directory), BAD) == {}


def test_videos_are_lists_of_frames_or_files(data_directory):
    (data_directory / "videos" / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(20))
    rows = [
        row("frames", FRAMES, is_video=True),
        row("below videos", ["clip/2.png", "clip/1.png"], is_video=True),
        row("one frame", FRAMES[:1], is_video=True),
        row("file", ["videos/a.mp4"], is_video=True),
        row("image", is_video=None),
    ]
    data = RLData(write(data_directory, rows), fps=2)
    (frames,) = data.record("frames").media
    assert ([path[-5:] for path in frames.paths], frames.fps) == ([f"{number}.png" for number in range(1, 7)], 2)
    assert [path[-5:] for path in data.record("below videos").media[0].paths] == ["2.png", "1.png"]
    assert data.record("file").media == (VideoFile(path=str(data_directory.resolve() / "videos" / "a.mp4")),)
    assert [type(data.record(name).media[0]) for name in ("one frame", "image")] == [VideoFile, ImageFile]


def test_values_of_wrong_type_are_bad_rows(data_directory):
    for column, value, cause in (
        ("answer", [[3]], r"answer is \[3\]; expected text or a number"),
        ("image", 3, "image is 3; expected a path"),
        ("is_video", "no", 'is_video is "no"; expected true or false'),
    ):
        write(data_directory, [row("a") | {column: value}])
        with pytest.raises(DataError, match=cause):
            RLData(data_directory)


def test_unusable_directories_say_what_to_do(data_directory):
    with pytest.raises(DataError, match=r"holds 0 \*\.parquet files \(none\)"):
        RLData(data_directory)
    write(data_directory, [row("a")])
    write(data_directory, [row("a")], "second.parquet")
    with pytest.raises(
        DataError, match=r"2 \*\.parquet files \(release\.parquet, second\.parquet\); expected exactly one"
    ):
        RLData(data_directory)
    (data_directory / "second.parquet").unlink()
    write(data_directory, [{"questions": "?", "answer": "A", "image": ["images/small.png"], "qid": "1"}])
    with pytest.raises(DataError, match=r'no column "question".*Did you mean "questions"'):
        RLData(data_directory)
    (data_directory / "release.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(DataError, match=r"cannot be read .*Download or convert it again"):
        RLData(data_directory)


def test_is_video_may_be_missing_and_whole_numbers_are_ids(data_directory):
    bare = {name: value for name, value in row(3, answer="B").items() if name != "is_video"}
    data = RLData(write(data_directory, [bare]))
    assert list(data.sample_ids()) == ["3"]
    assert data.get("3").answers == ("B",)
    with pytest.raises(DataError, match='"b", expected an id'):
        data.get("b")


def test_pyarrow_is_asked_for_by_name(data_directory, monkeypatch):
    write(data_directory, [row("a")])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install pxr-gym\[data\]"):
        RLData(data_directory)


def test_evaluation_sets_share_a_directory(data_directory):
    (data_directory / "vstar_images").mkdir()
    (data_directory / "images" / "flower.png").rename(data_directory / "vstar_images" / "flower.png")
    rows = [row("moved", ["images/flower.png"]), row("in place", ["images/china.jpg"]), row("bare", ["china.jpg"])]
    write(data_directory, rows, "vstar.parquet")
    data = EvaluationData(data_directory)
    assert [data.get(name).sources[0].size for name in data.sample_ids()] == [(427, 640), (640, 427), (640, 427)]
    write(data_directory, rows[1:2], "tallyqa_mini3200.parquet")
    with pytest.raises(DataError, match=r"holds 2 \*\.parquet files"):
        EvaluationData(data_directory)
    assert len(EvaluationData(data_directory, name="tallyqa_mini3200")) == 1
    with pytest.raises(DataError, match=r'got name="tally", expected .*: tallyqa_mini3200, vstar'):
        EvaluationData(data_directory, name="tally")
    write(data_directory, [row("absolute", [str(data_directory / "vstar_images" / "flower.png")])], "vstar.parquet")
    with pytest.raises(DataError, match="is absolute and leaves the directory"):
        EvaluationData(data_directory, name="vstar")
