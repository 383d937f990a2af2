"""Pictures are shown upright, wherever they come from and however the camera wrote which way is up."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from pxr_env.media import ImageSource, VideoSource
from pxr_env.media.images import decode, probe

TAG = 0x0112
#: What makes a stored picture upright, from the definition of the tag: which side of the scene row 0 and column 0 are.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored[::-1].transpose(1, 0, 2),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
}
#: Suffix -> how it is saved, and by how much its pixels may differ.
CONTAINERS = {
    "jpg": ({"quality": 95, "subsampling": 0}, 6),
    "png": ({}, 0),
    "webp": ({"lossless": True}, 0),
    "tif": ({}, 0),
    "tiff": ({"compression": "tiff_lzw"}, 0),
    "avif": ({"quality": 95, "subsampling": "4:4:4"}, 12),
}


def scene(width=48, height=32):
    """Four corners of four colours."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 250, 20, 20
    pixels[: height // 2, width // 2 :] = 20, 200, 20
    pixels[height // 2 :, : width // 2] = 20, 20, 250
    return pixels


def exif_block(*entries, order="<"):
    """A block of EXIF as it lies in a JPEG; an entry is (tag, type, count, the four bytes of its value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    table = b"".join(struct.pack(order + "HHI", tag, kind, count) + raw for tag, kind, count, raw in entries)
    return b"Exif\0\0" + head + table + bytes(4)


def jpeg(exif=None, xmp=None):
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "JPEG", quality=95, subsampling=0)
    data = buffer.getvalue()
    parts = [part for part in (exif, xmp and b"http://ns.adobe.com/xap/1.0/\0" + xmp) if part]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
    return data[:2] + segments + data[2:]


def assert_shown(image, expected, tolerance):
    assert image.mode == "RGB"
    assert image.size == (expected.shape[1], expected.shape[0])
    # The corners; compression blurs the lines between them.
    got, expected = (np.asarray(pixels, np.int64)[4::8, 4::8] for pixels in (image, expected))
    assert np.abs(got - expected).max() <= tolerance


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("number", UPRIGHT)
def test_every_orientation_in_every_container_from_every_origin(tmp_path, suffix, number):
    options, tolerance = CONTAINERS[suffix]
    exif = Image.Exif()
    exif[TAG] = number
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(scene()).save(path, exif=exif, **options)
    upright = UPRIGHT[number](scene())
    shown = {
        "path": ImageSource(path=path).image,
        "bytes": decode(path.read_bytes(), "these bytes"),
        "a picture in memory": ImageSource(image=Image.open(path)).image,
        "load": ImageSource(load=lambda: Image.open(path), key=("orientation", str(path))).image,
        "a frame": VideoSource(frames=[path]).frame(0),
    }
    loaded = Image.open(path)
    loaded.load()
    shown["a loaded picture"] = ImageSource(image=loaded).image
    if suffix == "webp":
        shown["a video"] = VideoSource(path=path).frame(0)
        assert VideoSource(path=path).size == shown["a video"].size
    for image in shown.values():
        assert_shown(image, upright, tolerance)
        # Who passes it on does not turn it again.
        assert_shown(ImageSource(image=image).image, upright, tolerance)
    assert probe(path) == probe(path.read_bytes()) == VideoSource(frames=[path]).size == shown["path"].size


#: How a 6 has been found written.
SIX = {
    "short": (3, 1, b"\6\0\0\0"),
    "two shorts": (3, 2, b"\6\0\1\0"),
    "long": (4, 1, b"\6\0\0\0"),
    "signed": (9, 1, b"\6\0\0\0"),
    "byte": (1, 1, b"\6\0\0\0"),
    "undefined": (7, 1, b"\6\0\0\0"),
    "text": (2, 2, b"6\0\0\0"),
}
#: What is no orientation.
NONE = {
    "zero": (3, 1, b"\0\0\0\0"),
    "nine": (3, 1, b"\x09\0\0\0"),
    "minus one": (9, 1, b"\xff\xff\xff\xff"),
    "a word": (2, 4, b"top\0"),
    "nothing": (3, 0, bytes(4)),
    "a rational beyond the end": (5, 1, b"\xff\xff\xff\x7f"),
    "many shorts beyond the end": (3, 2**31, b"\xff\xff\xff\x7f"),
    "an unknown type": (99, 1, b"\6\0\0\0"),
}


#: Entries whose type, count or place is wrong; the orientation stands beside them.
ODD = {
    "text beyond the end, before it": [(0x010E, 2, 400, struct.pack("<I", 10_000)), (TAG, *SIX["short"])],
    "no type": [(TAG, *SIX["short"]), (0x9999, 0, 1, bytes(4))],
    "resolution as text": [(TAG, *SIX["short"]), (0x011A, 2, 4, b"72\0\0")],
    "resolution beyond the end": [(TAG, *SIX["short"]), (0x011A, 5, 1, struct.pack("<I", 10_000))],
    "width as text": [(0x0100, 2, 4, b"400\0"), (TAG, *SIX["short"])],
    "negative width": [(0x0100, 9, 1, struct.pack("<i", -5)), (TAG, *SIX["short"])],
    "a table inside itself": [(TAG, *SIX["short"]), (0x8769, 4, 1, struct.pack("<I", 8))],
    "a table that is text": [(TAG, *SIX["short"]), (0x8769, 2, 4, b"abc\0")],
    "a place that is a rational": [(TAG, *SIX["short"]), (0x8825, 5, 1, struct.pack("<I", 8))],
}


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
SHORT = exif_block((TAG, *SIX["short"]))
CUT = exif_block((TAG, *SIX["short"]), (0x011A, 5, 1, bytes(4)))
#: How a JPEG may say which way is up -> the number it says.
WRITTEN = {
    **{name: (jpeg(exif_block((TAG, *entry))), 6) for name, entry in SIX.items()},
    **{name: (jpeg(exif_block((TAG, *entry))), 1) for name, entry in NONE.items()},
    **{name: (jpeg(exif_block(*entries)), 6) for name, entries in ODD.items()},
    "a rational": (jpeg(exif_block((TAG, 5, 1, struct.pack("<I", 26))) + struct.pack("<II", 12, 2)), 6),
    "big endian": (jpeg(exif_block((TAG, 3, 1, b"\0\6\0\0"), order=">")), 6),
    "a table that is cut off": (jpeg(CUT[:-10]), 6),
    "a table that is cut off before": (jpeg(CUT[:20]), 1),
    "no block": (jpeg(b"Exif\0\0"), 1),
    "no table": (jpeg(b"Exif\0\0II*\0"), 1),
    "a table beyond the end": (jpeg(b"Exif\0\0II*\0\xff\xff\xff\xff"), 1),
    "no kind of table": (jpeg(b"Exif\0\0nonsense" * 9), 1),
    "XMP": (jpeg(xmp=XMP), 8),
    "EXIF before XMP": (jpeg(SHORT, XMP), 6),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_number_may_be_written_in_any_way_beside_anything(name):
    data, number = WRITTEN[name]
    expected = UPRIGHT[number](scene())
    assert_shown(decode(data), expected, 6)
    assert_shown(ImageSource(image=Image.open(io.BytesIO(data))).image, expected, 6)
    assert probe(data) == decode(data).size


def multi_picture(*entries):
    """A segment that says which pictures follow in the file, as phones write it."""
    return b"\xff\xe2", b"MPF\0" + exif_block(*entries)[6:] + bytes(60)


#: Segments of a JPEG besides Exif: marker and content.
SEGMENTS = {
    "pictures that do not follow": multi_picture((0xB001, 4, 1, struct.pack("<I", 3)), (0xB002, 7, 32, bytes(4))),
    "a short table of pictures": multi_picture((0xB001, 4, 1, struct.pack("<I", 2)), (0xB002, 7, 16, bytes(4))),
    "half of a colour profile": (b"\xff\xe2", b"ICC_PROFILE\0"),
    "half of Adobe's": (b"\xff\xee", b"Adobe"),
    "half of JFIF": (b"\xff\xe0", b"JFIF"),
    "half of Photoshop's": (b"\xff\xed", b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\xff\xff"),
    "an empty comment": (b"\xff\xfe", b""),
}


@pytest.mark.parametrize("segment", SEGMENTS.values(), ids=SEGMENTS)
def test_other_segments_do_not_matter(tmp_path, segment):
    marker, content = segment
    whole = jpeg(SHORT)
    data = whole[:2] + b"\xff" + marker + struct.pack(">H", len(content) + 2) + content + whole[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    for file in (data, path):
        assert_shown(decode(file), UPRIGHT[6](scene()), 6)
        assert probe(file) == (32, 48)


@pytest.mark.parametrize(
    "entry", [entry for entry in (*SIX.values(), *NONE.values()) if entry[0] != 5 and entry[1] <= 2]
)
def test_tiffs_are_never_turned_twice(tmp_path, entry):
    """Pillow turns them itself, but not for every way of writing the number. The table has to be whole here: it says
    where the pixels are.
    """
    path = tmp_path / "a.tif"
    exif = Image.Exif()
    exif[TAG] = 6
    Image.fromarray(scene()).save(path, exif=exif)
    data = path.read_bytes()
    plain = struct.pack("<HHI", TAG, 3, 1) + b"\6\0\0\0"
    assert data.count(plain) == 1
    kind, count, raw = entry
    path.write_bytes(data.replace(plain, struct.pack("<HHI", TAG, kind, count) + raw))
    image = ImageSource(path=path).image
    assert_shown(image, UPRIGHT[6 if entry in SIX.values() else 1](scene()), 0)
    assert probe(path) == image.size
