"""A directory of pictures for data sets: real photographs where a package that carries them is installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _photographs() -> dict[str, Image.Image]:
    """A wide and a tall photograph, or generated pictures of the same sizes."""
    try:
        from sklearn.datasets import load_sample_images

        china, flower = (Image.fromarray(image) for image in load_sample_images().images)
    except ImportError:
        ramp = np.add.outer(np.arange(427), np.arange(640)) % 256
        china = Image.fromarray(np.stack([ramp, ramp // 2, 255 - ramp], axis=2).astype(np.uint8))
        flower = china.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return {"china.jpg": china, "flower.png": flower.rotate(90, expand=True)}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A read-only folder with china.jpg (640x427), flower.png (427x640), small.png, narrow.png, text.png, cut.jpg."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, picture in _photographs().items():
        picture.save(folder / name)
    Image.new("RGB", (60, 40), "red").save(folder / "small.png")
    Image.new("RGB", (2010, 10), "red").save(folder / "narrow.png")
    (folder / "text.png").write_text("no image")
    # Its header is whole, its pixels are not.
    (folder / "cut.jpg").write_bytes((folder / "china.jpg").read_bytes()[:9000])
    return folder


@pytest.fixture
def directory(tmp_path, pictures):
    """A data directory of its own with the pictures in `images` and six frames of a clip in `clip`."""
    shutil.copytree(pictures, tmp_path / "data" / "images")
    (tmp_path / "data" / "clip").mkdir()
    for number in range(1, 7):
        Image.new("RGB", (40, 30), (40 * number, 0, 0)).save(tmp_path / "data" / "clip" / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def write_lines():
    """A function that writes objects as JSON lines; text is written as it is."""

    def write(path: Path, rows: list) -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def causes():
    """A function that opens data, expects bad rows, and returns their causes by id.

    With `expected`, id -> (row, part of its cause), these have to be among them; it returns the others.
    """
    from pxr_env.errors import DataError

    def find(open_data, expected=None) -> dict:
        with pytest.raises(DataError) as caught:
            open_data()
        assert all(str(bad) in str(caught.value) for bad in caught.value.bad_rows)
        found = {bad.sample_id: bad.cause for bad in caught.value.bad_rows}
        for name, (_, cause) in (expected or {}).items():
            assert cause in found.pop(name)
        return found

    return find


@pytest.fixture
def write_mp4():
    """A function that writes 20 grey frames of 64x48, 10 per second, each 12 levels brighter than the one before."""
    av = pytest.importorskip("av")

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(20):
                grey = np.full((48, 64, 3), 12 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write
