"""MVBench in both of its published layouts."""

import json
import os
import shutil

import pytest

from pxr_env.datasets import MVBench
from pxr_env.datasets.media import VideoFile
from pxr_env.errors import DataError

MP4 = b"\0\0\0\x18ftypisom" + bytes(20)


def row(**other):
    return {
        "video": "a.mp4",
        "question": "What happened?",
        "candidates": ["ran", "sat", "stood"],
        "answer": "sat",
    } | other


def write(directory, task, rows):
    (directory / "json").mkdir(exist_ok=True)
    (directory / "json" / f"{task}.json").write_text(json.dumps(rows))


def put(directory, name, content=MP4):
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content)
    return f"{os.path.realpath(directory)}/{name}"


def test_the_first_release(directory):
    whole = put(directory, "video/perception/videos/a.mp4")
    clip = put(directory, "video/star/Charades_v1_480/a.mp4")
    shutil.copytree(directory / "clip", directory / "video/tvqa/frames_fps3_hq/castle_clip_25")
    write(directory, "action_count", [row(), row(question="And then?", answer="stood", candidates=["sat", "stood"])])
    write(directory, "action_sequence", [row(start=1.5, end=4)])
    write(directory, "episodic_reasoning", [row(video="castle_clip_25", start=0.5, end=1.2)])
    data = MVBench(directory)
    assert data.scorer == "multiple_choice"
    assert list(data.sample_ids()) == ["action_count-0", "action_count-1", "action_sequence-0", "episodic_reasoning-0"]
    record = data.record("action_count-1")
    assert record.question == "And then?\n(A) sat\n(B) stood"
    assert (record.options, record.answers, record.category) == (("sat", "stood"), ("B",), "action_count")
    assert record.media == (VideoFile(path=whole),)
    assert data.record("action_sequence-0").media == (VideoFile(path=clip, start=1.5, end=4.0),)
    folder = f"{os.path.realpath(directory)}/video/tvqa/frames_fps3_hq/castle_clip_25"
    assert data.record("episodic_reasoning-0").media == (VideoFile(path=folder, fps=3.0, start=0.5, end=1.2),)


def test_frames_of_a_clip(directory):
    shutil.copytree(directory / "clip", directory / "tvqa/frames_fps3_hq/castle")
    write(directory, "episodic_reasoning", [row(video="castle", start=0.6, end=1.4)])
    (source,) = MVBench(directory).get("episodic_reasoning-0").sources
    # Six frames at 0, 1/3, 2/3, 1, 4/3, 5/3 seconds; the clip holds the third to the fifth.
    assert source.n_frames == 3
    assert [source.frame(index).getpixel((0, 0))[0] for index in range(3)] == [120, 160, 200]


def test_a_clip_of_a_video_file(directory, write_mp4):
    write_mp4(directory / "star/Charades_v1_480/a.mp4")
    write(directory, "action_sequence", [row(start=0.5, end=1.0)])
    (source,) = MVBench(directory).get("action_sequence-0").sources
    assert (source.n_frames, source.size) == (5, (64, 48))
    levels = [source.frame(index).getpixel((32, 24))[0] for index in range(5)]
    assert all(abs(level - 12 * number) < 6 for number, level in enumerate(levels, start=5))


def test_the_second_release_has_clips_that_are_cut_already(directory):
    clip = put(directory, "star/Charades_segment/ZS9XR_11.1_19.6.mp4")
    converted = put(directory, "nturgbd_convert/S002.mp4")
    webm = put(directory, "ssv2_video_mp4/7.mp4")
    patched = put(directory, "data0613/clevrer/video_validation/v.mp4")
    write(directory, "action_sequence", [row(video="ZS9XR_11.1_19.6.mp4", start=11.1, end=19.6)])
    write(directory, "fine_grained_pose", [row(video="S002.avi")])
    write(directory, "action_antonym", [row(video="7.webm")])
    write(directory, "moving_count", [row(video="v.mp4")])
    data = MVBench(directory)
    assert data.record("action_sequence-0").media == (VideoFile(path=clip),)
    assert data.record("fine_grained_pose-0").media == (VideoFile(path=converted),)
    assert data.record("action_antonym-0").media == (VideoFile(path=webm),)
    assert data.record("moving_count-0").media == (VideoFile(path=patched),)


def test_tasks_can_be_chosen_and_added(directory):
    put(directory, "my_task/a.mp4")
    for task in ("my_task", "other"):
        (directory / f"{task}.json").write_text(json.dumps([row()]))
    assert list(MVBench(directory, tasks=["my_task"]).sample_ids()) == ["my_task-0"]
    with pytest.raises(DataError, match=r'tasks has "my_tusk".*Did you mean "my_task"'):
        MVBench(directory, tasks=["my_tusk"])
    with pytest.raises(DataError, match="holds no json files"):
        MVBench(directory / "clip")


def test_bad_rows_are_named(directory, causes):
    put(directory, "perception/videos/a.mp4")
    put(directory, "perception/videos/empty.mp4", b"")
    put(directory, "perception/videos/page.mp4", b"<html>not found</html>")
    expected = [
        (
            row(answer="jumped"),
            'answer is "jumped"; expected a letter from A to C, the text of one of the options ["ran", "sat", "stood"]',
        ),
        (row(candidates=["sat"]), "it has 1 options"),
        (row(candidates=["sat", "ran", "sat"]), "options A and C are both"),
        (row(candidates=None), "candidates is null"),
        (row(video="no.mp4"), 'video "no.mp4" does not exist'),
        (row(video="empty.mp4"), "is empty; expected a video file"),
        (row(video="page.mp4"), "is no video file"),
        (row(video="../a.mp4"), "leaves the directory"),
        (row(start=5, end=4), "expected 0 <= start < end"),
        (row(start="1"), 'start is "1"; expected a number'),
    ]
    write(directory, "action_count", [row(), *(bad for bad, _ in expected), "text"])
    with pytest.raises(
        DataError, match=r'"action_count\.json" row 11 \(line 1\) \(id missing\): it is "text"; expected an'
    ):
        MVBench(directory)
    found = causes(lambda: MVBench(directory))
    del found[None]
    assert list(found) == [f"action_count-{number}" for number in range(1, 11)]
    for number, (_, cause) in enumerate(expected, start=1):
        assert cause in found[f"action_count-{number}"]
