"""The format of this project, and with it what all formats share."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pxr_env.datasets import JSONL
from pxr_env.datasets.media import ImageFile, VideoFile
from pxr_env.errors import DataError


def line(name="q", **other):
    return {"id": name, "question": "What is it?", "images": "images/small.png", "answers": "a dog"} | other


def without(name, *keys):
    return {key: value for key, value in line(name).items() if key not in keys}


def clip(name, video="clip", **other):
    return without(name, "images") | {"video": video} | other


def test_lines_become_samples(directory, write_lines):
    rows = [
        line("q1", images=["images/china.jpg", "images/flower.png"], answers=["temple", "a temple"], category="scenes"),
        line(7, evidence_box=[10, 20, 30.5, 40], needs_operation=True),
    ]
    data = JSONL(write_lines(directory / "data.jsonl", rows))
    assert list(data.sample_ids()) == ["q1", "7"]
    assert (len(data), data.skipped, data.warnings, data.scorer) == (2, (), (), "auto")
    first, second = data.get("q1"), data.get("7")
    assert [source.size for source in first.sources] == [(640, 427), (427, 640)]
    with Image.open(directory / "images" / "flower.png") as picture:
        assert np.array_equal(first.sources[1].image, picture.convert("RGB"))
    assert (first.answers, first.category, first.options) == (("temple", "a temple"), "scenes", ())
    assert (second.evidence_box, second.needs_operation) == ((10, 20, 30.5, 40), True)
    assert second.metadata == {"row": 1}


def test_options_are_written_below_the_question_and_answers_become_letters(directory, write_lines):
    rows = [
        line("letter", options=["a cat", "a dog"], answers="B"),
        line("text", options=["a cat", "a dog"], answers=["a dog", "B", "a cat"]),
        line("clear", options=["A", "B"], answers="B"),
    ]
    data = JSONL(write_lines(directory / "data.jsonl", rows))
    assert data.get("letter").question == "What is it?\n(A) a cat\n(B) a dog"
    assert data.get("letter").options == ("a cat", "a dog")
    assert data.get("letter").answers == ("B",)
    assert data.get("text").answers == ("B", "A")
    assert data.get("clear").answers == ("B",)


def test_the_three_kinds_of_video(directory, write_lines):
    (directory / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(20))
    frames = [f"clip/{number}.png" for number in (3, 1, 2)]
    rows = [
        clip("file", "a.mp4", start=1.5, end=4, evidence_time=[1, 2.5]),
        clip("folder", "clip", fps=2, end=2.5),
        clip("list", frames, fps=0.5),
    ]
    data = JSONL(write_lines(directory / "data.jsonl", rows))
    root = os.path.realpath(directory)
    assert data.record("file").media == (VideoFile(path=f"{root}/a.mp4", start=1.5, end=4.0),)
    assert data.record("file").evidence_time == (1.0, 2.5)
    assert data.record("folder").media == (VideoFile(path=f"{root}/clip", fps=2.0, end=2.5),)
    assert data.record("list").media == (VideoFile(paths=tuple(f"{root}/{name}" for name in frames), fps=0.5),)


def test_videos_of_frames_show_their_frames_in_order(directory, write_lines):
    (directory / "clip" / "6.png").rename(directory / "clip" / "10.png")
    (directory / "clip" / "notes.txt").touch()
    rows = [clip("folder", fps=2), clip("list", ["clip/3.png", "clip/1.png"])]
    data = JSONL(write_lines(directory / "data.jsonl", rows))
    (folder,), (listed,) = data.get("folder").sources, data.get("list").sources
    assert (folder.n_frames, folder.size, folder.duration) == (6, (40, 30), 3.0)
    assert [folder.frame(index).getpixel((0, 0))[0] for index in range(6)] == [40, 80, 120, 160, 200, 240]
    assert [listed.frame(index).getpixel((0, 0))[0] for index in range(2)] == [120, 40]


def test_a_video_file_shows_its_clip(directory, write_lines):
    frames = [Image.new("L", (40, 30), 40 * number) for number in range(1, 7)]
    frames[0].save(directory / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    data = JSONL(
        write_lines(directory / "data.jsonl", [clip("whole", "a.gif"), clip("part", "a.gif", start=0.9, end=2)])
    )
    (whole,), (part,) = data.get("whole").sources, data.get("part").sources
    assert (whole.n_frames, whole.duration) == (6, 3.0)
    assert [part.frame(index).getpixel((0, 0))[0] for index in range(part.n_frames)] == [120, 160]


LONG = "x" * 600
BAD = [
    (line("missing", images="images/no.png"), 'image "images/no.png" does not exist'),
    (line("folder", images="images"), 'image "images" is no file'),
    (line("no image", images="images/text.png"), 'image "images/text.png" cannot be decoded'),
    (line("narrow", images="images/narrow.png"), "is 2010x10; expected sides with a ratio of at most 200"),
    (line("up", images="../secret.png"), 'image "../secret.png" leaves the directory'),
    (line("absolute", images="/etc/passwd"), "is absolute and leaves the directory"),
    (line("backslash", images="images\\a.png"), "has a backslash"),
    (line("nul", images="images/small.png\0"), "has a control character"),
    (line("no images", images=[]), "images is []; expected at least one image"),
    (line("half", images=["images/small.png", None]), "image 2 is null; expected a path"),
    (line("both", video="clip"), "both images and video, or neither"),
    (without("neither", "images"), "both images and video, or neither"),
    (line("blank", question=" \n"), "expected text"),
    (without("no question", "question"), "question is null; expected text"),
    (line("unknown", anwsers="a"), 'unknown field "anwsers"'),
    (line("one option", options=["a dog"]), "it has 1 options; expected 2 to 26"),
    (line("27 options", options=[str(number) for number in range(27)]), "it has 27 options"),
    (line("empty option", options=["a dog", ""]), "options is"),
    (
        line("same options", options=["a dog", "a cat", "a dog "]),
        'options A and C are both "a dog"; expected different',
    ),
    (line("flag", needs_operation="yes"), 'needs_operation is "yes"; expected true or false'),
    (line("box", evidence_box=[1, 2, 3]), "evidence_box is [1, 2, 3]; expected 4 numbers"),
    (line("empty box", evidence_box=[5, 5, 5, 9]), "expected x1, y1, x2, y2 with 0 <= x1 < x2"),
    (line("fractions", evidence_box=[0.1, 0.1, 0.5, 0.5]), "which are fractions; expected x1, y1, x2, y2 in pixels"),
    (line("whole by fractions", evidence_box=[0, 0, 1, 1]), "Multiply x by the width and y by the height"),
    (line("corner and size of fractions", evidence_box=[0.6, 0.6, 0.2, 0.2]), "which are fractions"),
    (line("corner and size", evidence_box=[30, 20, 10, 10]), "If it is x, y, width, height, write x, y, x + width"),
    (line("thousandths", evidence_box=[100, 100, 500, 500]), "If they are thousandths, or pixels of a resized picture"),
    (line("outside", evidence_box=[5, 5, 61, 9]), "expected it inside its picture of 60x40"),
    (line("bool box", evidence_box=[0, 0, True, 9]), "evidence_box is true; expected a number"),
    (line("huge box", evidence_box=[0, 0, 10**400, 9]), "expected a finite number"),
    (line("time of image", evidence_time=[0, 1]), "it has evidence_time and images"),
    (line("start of image", start=1), "it has start and images"),
    (clip("no video", "no.mp4"), 'video "no.mp4" does not exist'),
    (clip("text video", "images/text.png"), "is no video file; expected mp4"),
    (clip("empty folder", "empty"), "holds no image"),
    (clip("frame missing", ["clip/1.png", "clip/9.png"]), 'frame 2 "clip/9.png" does not exist'),
    (clip("frames differ", ["clip/1.png", "images/small.png"]), "frame 2 is 60x40 and frame 1 40x30"),
    (clip("backwards", start=3, end=2), "expected 0 <= start < end"),
    (clip("negative", start=-1), "expected 0 <= start < end"),
    (clip("late", start=6), "start is 6 s and the video ends at 6 s"),
    (clip("still", fps=0), "fps is 0; expected frames per second, above 0"),
    (clip("time outside", evidence_time=[1, 3], end=2), "expected seconds inside the clip of 2 s"),
    (clip("backwards time", evidence_time=[2, 1]), "expected 0 <= from < to, inside the clip"),
    (clip("milliseconds", evidence_time=[1000, 3000]), "of 6 s, from its first frame on. If they are milliseconds"),
    (line("good"), "the id is that of line 1; expected a new one"),
    (line(" "), 'id is " "; expected text'),
    (line(True), "id is true; expected text"),
    (line(LONG), "expected at most 512 characters"),
    (line("a\x1bb"), "without control ones"),
]
UNREADABLE = [
    ("{broken", "column 2 is no JSON"),
    ("[" * 100_000, "it is no JSON"),
    ('["a"]', 'it is ["a"]; expected an object'),
    ('{"id": "a", "id": "b"}', 'the field "id" comes twice'),
    ('{"id": NaN}', "it holds NaN"),
    ('{"id": ' + "9" * 5000 + "}", "it is no JSON"),
    ("\udcff", "column 1 is no UTF-8"),
]


def test_every_bad_row_is_named_with_its_cause(directory, write_lines):
    (directory / "empty").mkdir()
    path = directory / "data.jsonl"
    write_lines(path, [line("good"), *(row for row, _ in BAD)])
    with open(path, "ab") as file:
        for text, _ in UNREADABLE:
            file.write(text.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(DataError) as caught:
        JSONL(path)
    bad_rows = caught.value.bad_rows
    assert [bad.row for bad in bad_rows] == list(range(1, len(BAD) + len(UNREADABLE) + 1))
    for bad, (_, cause) in zip(bad_rows, [*BAD, *UNREADABLE], strict=True):
        assert cause in bad.cause
    named = [row["id"] if isinstance(row["id"], str) and 0 < len(row["id"].strip()) < 600 else None for row, _ in BAD]
    named[-1] = None
    assert [bad.sample_id for bad in bad_rows] == named + [None] * len(UNREADABLE)
    message = str(caught.value).splitlines()
    assert message[0].endswith(f"has {len(bad_rows)} bad rows beside 1 good ones:")
    assert message[-1] == "Mend them, or pass skip_bad_rows=True to leave them out."
    assert 'Did you mean "answers"?' in str(caught.value)
    assert not any(ord(character) < 32 for character in "".join(message))


def test_pipes_are_no_files(directory, write_lines, causes):
    os.mkfifo(directory / "pipe.mp4")
    os.mkfifo(directory / "pipe.png")
    path = write_lines(directory / "data.jsonl", [clip("video", "pipe.mp4"), line("image", images="pipe.png")])
    assert [cause.split(";")[0] for cause in causes(lambda: JSONL(path)).values()] == [
        'video "pipe.mp4" is no file',
        'image "pipe.png" is no file',
    ]


def test_skipped_rows_are_kept_by_name(directory, write_lines):
    path = write_lines(directory / "data.jsonl", [BAD[0][0], line("good"), "{", BAD[1][0]])
    data = JSONL(path, skip_bad_rows=True)
    assert (list(data.sample_ids()), data.n_rows) == (["good"], 4)
    assert [(bad.row, bad.sample_id) for bad in data.skipped] == [(0, "missing"), (2, None), (3, "folder")]
    assert str(data.skipped[1]).startswith("line 3 (id missing): column 2 is no JSON")
    write_lines(path, [BAD[0][0]])
    with pytest.raises(DataError, match=r"no usable row \(1 bad ones\)"):
        JSONL(path, skip_bad_rows=True)


def test_thousands_of_bad_rows_make_a_bounded_message(directory, write_lines):
    path = write_lines(directory / "data.jsonl", [line(f"q{number}", images="no.png") for number in range(3000)])
    with pytest.raises(DataError, match="  and 2800 more") as caught:
        JSONL(path)
    assert len(str(caught.value)) < 50_000
    assert len(caught.value.bad_rows) == 3000


def test_warnings_name_duplicates_and_what_was_neutralized(directory, write_lines):
    rows = [
        line("a"),
        line("b", answers="a cat"),
        line("other options", options=["a dog", "a cat"]),
        line("token", question="<|im_end|><image> What?", answers="<|im_start|>", category="x\0"),
        line("other image", images="images/china.jpg"),
    ]
    data = JSONL(write_lines(directory / "data.jsonl", rows))
    assert [(warning.row, warning.sample_id, warning.kind) for warning in data.warnings] == [
        (1, "b", "duplicate"),
        (3, "token", "neutralized"),
    ]
    assert str(data.warnings[0]) == 'line 2 (id "b"): its question and media are those of "a"'
    assert "4 special tokens or control characters were replaced" in str(data.warnings[1])
    sample = data.get("token")
    assert sample.question == "\u2039|im_end|\u203a\u2039image\u203a What?"
    assert (sample.answers, sample.category) == (("\u2039|im_start|\u203a",), "x\ufffd")


def test_limit_progress_and_unchecked_media(directory, write_lines):
    rows = [line(f"q{number}") for number in range(2500)] + [BAD[0][0]]
    path = write_lines(directory / "data.jsonl", rows)
    told = []
    assert len(JSONL(path, limit=2000, progress=told.append)) == 2000
    assert told == [1000, 2000]
    with pytest.raises(ValueError, match="got limit=0"):
        JSONL(path, limit=0)
    write_lines(path, [line("cut", images="images/text.png"), line("missing", images="no.png")])
    data = JSONL(path, check_media=False, skip_bad_rows=True)
    assert (list(data.sample_ids()), [bad.sample_id for bad in data.skipped]) == (["cut"], ["missing"])


def test_records_hold_no_pixels(directory, write_lines):
    data = JSONL(write_lines(directory / "data.jsonl", [line("q", images="images/china.jpg")]))
    path = os.path.join(os.path.realpath(directory), "images/china.jpg")
    assert data.record("q").media == (ImageFile(path=path),)
    assert data.get("q").sources[0] is not data.get("q").sources[0]


def test_unknown_ids_and_unusable_directories_say_what_to_do(directory, write_lines, tmp_path):
    with pytest.raises(DataError, match=r"holds 0 \*\.jsonl files \(none\); expected exactly one"):
        JSONL(directory)
    data = JSONL(write_lines(directory / "data.jsonl", [line("question-1")]).parent)
    with pytest.raises(DataError, match=r'"question1", expected an id of .*Did you mean "question-1"'):
        data.get("question1")
    write_lines(directory / "more.jsonl", [line("a")])
    with pytest.raises(DataError, match=r"holds 2 \*\.jsonl files \(data\.jsonl, more\.jsonl\)"):
        JSONL(directory)
    with pytest.raises(DataError, match="no directory"):
        JSONL(tmp_path / "nowhere")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@given(field=st.sampled_from(sorted(line())), value=VALUES)
def test_any_value_anywhere_is_a_sample_or_a_named_bad_row(tmp_path_factory, pictures, field, value):
    directory = tmp_path_factory.getbasetemp() / "any_value"
    directory.mkdir(exist_ok=True)
    (directory / "data.jsonl").write_text(json.dumps(line("q", images="none.png") | {field: value}) + "\n")
    with pytest.raises(DataError) as caught:
        JSONL(directory)
    assert len(caught.value.bad_rows) == 1
