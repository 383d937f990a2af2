"""Which way is up: read from what a camera wrote beside the pixels, and nothing else of that.

The other tags are neither checked nor written again, so none of them can keep a picture from being shown.
"""

from __future__ import annotations

import struct

from PIL import Image

from pxr_env.geometry import Size

_TAG = 0x0112
_WIDTH_TAG, _HEIGHT_TAG = 256, 257
#: Orientation -> what makes the picture upright. Source: Exif 2.32, tag 0x0112; 1 is upright already.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Orientations from this one on exchange width and height.
_FIRST_SIDEWAYS = 5
#: Types of tags -> how `struct` calls what they hold. Source: TIFF 6.0, section 2.
_KINDS = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 6: "b", 7: "c", 8: "h", 9: "i", 10: "ii"}
_ENTRY_BYTES = 12
#: Of a text so much is read.
_MOST_BYTES = 8


def orientation(image: Image.Image) -> int:
    """Returns the Exif orientation of a picture, 1 to 8; 1 where it says none, or none that exists.

    It may be written as any type of number or as text. EXIF counts before XMP, as in Pillow's `exif_transpose`.
    """
    exif = image.info.get("exif")
    value = _in_exif(exif) if isinstance(exif, bytes) else None
    if value is None:
        try:
            # The tags of a TIFF, XMP, EXIF inside of a PNG's texts.
            value = image.getexif().get(_TAG)
        except Exception:  # of any kind, and about tags that are not needed
            value = None
    return _valid(value)


def upright_size(image: Image.Image) -> Size:
    """Returns the size that a picture, opened but not loaded, has when it is upright."""
    width, height = image.size
    tags = getattr(image, "tag_v2", {})
    if _WIDTH_TAG in tags and _HEIGHT_TAG in tags:
        # As stored: Pillow has exchanged those in `image.size` already, for some orientations.
        width, height = tags[_WIDTH_TAG], tags[_HEIGHT_TAG]
    return (height, width) if orientation(image) >= _FIRST_SIDEWAYS else (width, height)


def turn(pixels: Image.Image, turned: int) -> Image.Image:
    """Returns a picture of that orientation upright; itself where it is."""
    return pixels.transpose(_TURNS[turned]) if turned in _TURNS else pixels


def _valid(value: object) -> int:
    if isinstance(value, tuple | list):
        value = value[0] if value else None
    if isinstance(value, bytes):
        value = value[0] if len(value) == 1 and value[0] < ord("0") else value.decode("latin-1")
    if isinstance(value, str):
        text = value.strip("\0 ")
        value = int(text) if len(text) == 1 and text in "12345678" else None
    # Fractions and floats compare, too.
    return next((number for number in range(1, 9) if value == number), 1)


def _in_exif(exif: bytes) -> object:
    """The orientation in a block of EXIF; None where it has none that can be read.

    The table is read entry by entry, so that a broken one does not hide the others.
    """
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return None
    (n_entries,) = struct.unpack_from(order + "H", exif, start)
    for place in range(start + 2, start + 2 + n_entries * _ENTRY_BYTES, _ENTRY_BYTES):
        if place + _ENTRY_BYTES > len(exif):
            return None
        tag, kind, count = struct.unpack_from(order + "HHI", exif, place)
        if tag == _TAG and count:
            return _value(exif, order, kind, count, place + 8)
    return None


def _value(exif: bytes, order: str, kind: int, count: int, place: int) -> object:
    """The first number of a tag, or its text."""
    if kind not in _KINDS:
        return None
    n_bytes = count * struct.calcsize(_KINDS[kind])
    if n_bytes > 4:
        # What does not fit into the entry lies elsewhere.
        (place,) = struct.unpack_from(order + "I", exif, place)
    held = exif[place : place + min(n_bytes, _MOST_BYTES)]
    if _KINDS[kind] == "c":
        return held
    if len(held) < struct.calcsize(_KINDS[kind]):
        return None
    number, *denominator = struct.unpack_from(order + _KINDS[kind], held)
    if denominator:
        return number / denominator[0] if denominator[0] else None
    return number
