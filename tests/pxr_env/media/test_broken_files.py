"""Whatever a decoder raises on a file is a `MediaError` that names it, whichever way the file comes."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from PIL import Image

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_env.datasets import check_dataset, open_dataset
from pxr_env.errors import DataError, MediaError
from pxr_env.media import ImageSource, VideoSource
from pxr_env.media.images import decode, decoding, probe
from tests.pxr_env.media.broken import BROKEN, animation, saved

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", BROKEN)
def test_every_way_to_a_broken_image_names_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    ways = {
        name: lambda: ImageSource(path=path).image,
        "these bytes": lambda: decode(BROKEN[name], "these bytes"),
        "'a key'": lambda: ImageSource(load=lambda: Image.open(path), key=("broken", name, "a key")).image,
        f'{name}"': lambda: VideoSource(frames=[path]).frame(0),
    }
    for named, look in ways.items():
        with pytest.raises(MediaError, match="cannot be decoded") as caught:
            look()
        assert named in str(caught.value)
        assert " at 0x" not in str(caught.value)  # what differs from run to run cannot be counted
    with contextlib.suppress(MediaError):
        probe(path)
    if name == "cut.jpg":
        with pytest.raises(MediaError, match="a picture in memory cannot be decoded"):
            ImageSource(image=Image.open(path))


@pytest.mark.parametrize("place", range(14, len(animation()), 61))
def test_a_gif_that_is_cut_anywhere(tmp_path, place):
    path = tmp_path / "a.gif"
    path.write_bytes(animation()[:place])
    with contextlib.suppress(MediaError):
        video = VideoSource(path=path)
        video.frame(video.n_frames - 1)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (IndexError("index out of range"), "IndexError: index out of range"),
        (TypeError("no"), "TypeError: no"),
        (MemoryError(), "MemoryError"),
        (RecursionError("deep"), "RecursionError: deep"),
        (OSError("truncated"), "(truncated)"),
        (ValueError(), "ValueError"),
        (Image.DecompressionBombError("huge"), "too large to be decoded (huge)"),
    ],
)
def test_exceptions_of_every_kind(error, text):
    with pytest.raises(MediaError, match="this file") as caught, decoding("this file", "Expected another."):
        raise error
    assert text in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ImportError("av"), KeyboardInterrupt(), MediaError("said before")])
def test_what_is_no_fault_of_the_file_passes(error):
    with pytest.raises(type(error)) as caught, decoding("this file", "Expected another."):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (lambda: {}["missing"], "KeyError: 'missing'"),
        (lambda: None, "got NoneType, expected a PIL image"),
        (lambda: Image.new("RGB", (3, 3)), "was made as 3x3; expected 4x4"),
    ],
)
def test_a_function_that_makes_no_picture(load, text):
    with pytest.raises(MediaError) as caught:
        _ = ImageSource(load=load, key=("no picture", text), size=(4, 4)).image
    assert text in str(caught.value)
    drawn = VideoSource(load_frame=lambda index: load(), key=("none", text), n_frames=1, fps=1, size=(4, 4))
    with pytest.raises(MediaError):
        drawn.frame(0)


@pytest.fixture
def directory(tmp_path):
    """A data set with a good row, and one for every broken file."""
    (tmp_path / "good.png").write_bytes(saved("PNG"))
    names = ["good.png", *BROKEN]
    for name in BROKEN:
        (tmp_path / name).write_bytes(BROKEN[name])
    rows = [{"id": name, "question": "What is it?", "images": name, "answers": "noise"} for name in names]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path


def test_checks_name_every_broken_row_and_nothing_else(directory):
    report = check_dataset(directory, deep=True)
    assert {bad.sample_id for bad in report.bad_rows} == set(BROKEN)
    assert report.n_good == 1
    # Without --deep those whose header is whole pass.
    passed = set(BROKEN) - {bad.sample_id for bad in check_dataset(directory).bad_rows}
    assert {"cut.jpg", "cut.png", "bad_pixels.png"} <= passed
    command = [sys.executable, "-m", "pxr_env", "check", str(directory), "--deep"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{len(BROKEN)} bad rows" in done.stdout


def test_an_environment_goes_on_after_a_broken_row(directory):
    with pytest.raises(DataError) as caught:
        open_dataset(directory)
    skipped = {bad.sample_id for bad in caught.value.bad_rows}
    env = gymnasium.make("pxr/JSONL-v0", data=str(directory), skip_bad_rows=True)
    for name in set(BROKEN) - skipped:
        with pytest.raises(MediaError, match=name):
            env.reset(options={"sample_id": name})
        _, info = env.reset(options={"sample_id": "good.png"})
        assert info["sample_id"] == "good.png"
