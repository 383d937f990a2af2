"""Any picture of Pillow as upright 8-bit RGB: its colours, which way is up, metadata in its way."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from pxr_env.errors import MediaError
from pxr_env.views import Size

#: Tags of a TIFF: its sides, bits of a sample, and what its 0 means (0: white, 1: black).
_WIDTH_TAG, _HEIGHT_TAG, _BITS_TAG, _PHOTOMETRIC_TAG = 256, 257, 258, 262
#: How Pillow unpacks greys of few bits -> what makes a colour of the file one of the picture.
_GREY_SCALES = {"L;2": 85, "L;4": 17}


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns `image` as new 8-bit RGB, without metadata, what is transparent over white. Greys:

    - of 16 bits: the upper 8;
    - whole numbers of 32 bits (`I`): as they are if none is above 255, the upper 8 of 16 bits if none is above 65535,
      else scaled so that the largest is white;
    - floating point (`F`): times 255 if none is above 1, as they are up to 255, divided by 256 up to 65535, else
      scaled so that the largest is white.

    Negative numbers and NaN are black.
    """
    key = _transparent_colour(image)  # knows more before the picture is loaded
    image.load()
    has_transparent_palette = image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")
    if image.mode.startswith("I;16"):
        rgb = _of_sixteen_bits(image, key)
    elif image.mode in ("I", "F"):
        rgb = Image.fromarray(_eight_bits(image)).convert("RGB")
    elif key is not None or image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or has_transparent_palette:
        rgb = _over_white(image, key)
    else:
        rgb = image.copy() if image.mode == "RGB" else image.convert("RGB")
    rgb.info = {}
    return rgb


def is_plain(image: Image.Image) -> bool:
    """Whether a picture is opaque 8-bit RGB already."""
    return image.mode == "RGB" and _transparent_colour(image) is None


def _transparent_colour(image: Image.Image) -> Any:
    """The colour of a picture that is transparent, as its mode writes colours; of a palette also bytes."""
    key = image.info.get("transparency")
    # How Pillow is going to unpack a PNG, such as "L;4"; it does not say so any more once the picture is loaded.
    tiles = getattr(image, "tile", None) if image.format == "PNG" else None
    how = tiles[0][3] if tiles else None
    if image.mode == "P" and isinstance(key, int | bytes):
        return key
    if image.mode == "RGB" and isinstance(key, tuple) and len(key) == 3:
        key = tuple(value >> 8 for value in key) if how == "RGB;16B" else key
        return key if max(key) <= 255 else None
    if image.mode in ("1", "L") and isinstance(key, int):
        key *= _GREY_SCALES.get(str(how), 1)
        return key if key <= 255 else None
    return key if image.mode.startswith("I;16") and isinstance(key, int) else None


def _over_white(image: Image.Image, key: Any) -> Image.Image:
    image = image.convert("LA") if image.mode == "La" else image.copy()
    # A colour that its mode cannot have is not transparent.
    image.info.pop("transparency", None)
    if key is not None:
        image.info["transparency"] = key
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, (255, 255, 255, 255)), over).convert("RGB")


def _of_sixteen_bits(image: Image.Image, key: int | None) -> Image.Image:
    grey = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    shown = grey >> 4 if tags.get(_BITS_TAG) in (12, (12,)) else grey >> 8
    if tags.get(_PHOTOMETRIC_TAG) == 0:
        shown = 255 - shown
    if key is not None:
        shown = np.where(grey == key, 255, shown)
    return Image.fromarray(shown.astype(np.uint8)).convert("RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image)
    largest = float(grey.max(initial=0, where=np.isfinite(grey)))
    # Pillow reads these formats into 32 bits, and they hold 16.
    holds_sixteen = image.mode == "I" and image.format in ("PNG", "PPM")
    if image.mode == "F" and largest <= 1:
        scale = 255.0
    elif holds_sixteen or 255 < largest <= 65535:
        scale = 1 / 256
    else:
        scale = 255 / max(largest, 255)
    shown = np.nan_to_num(grey * scale, nan=0, posinf=255, neginf=0).clip(0, 255)
    # Whole numbers are cut, as if their lower bits were left out.
    return (shown if image.mode == "I" else np.rint(shown)).astype(np.uint8)


# Which way is up: read from what a camera wrote beside the pixels, and nothing else of that. The other tags are neither
# checked nor written again, so none of them can keep a picture from being shown.
_TAG = 0x0112
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
#: Whether a video's rows and columns are exchanged -> its orientation where the rest is mirrored: not at all, left and
#: right, top and bottom, both.
_MIRRORED = {False: (1, 2, 4, 3), True: (5, 6, 8, 7)}
#: Types of tags -> how `struct` calls what they hold. Source: TIFF 6.0, section 2.
_KINDS = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 6: "b", 7: "c", 8: "h", 9: "i", 10: "ii"}
_ENTRY_BYTES = 12


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
            return 1
    if isinstance(value, tuple | list):
        value = value[0] if value else None
    if isinstance(value, bytes):
        value = value[0] if len(value) == 1 and value[0] < ord("0") else value.decode("latin-1")
    if isinstance(value, str):
        text = value.strip("\0 ")
        value = int(text) if len(text) == 1 and text in "12345678" else None
    # Fractions and floats compare, too.
    return next((number for number in range(1, 9) if value == number), 1)


def video_orientation(side_data: Any, path: str) -> int:
    """Returns the Exif orientation of a frame from its side data in PyAV: phones write a display matrix into videos.

    Source: libavutil/display.h: x' = a x + c y, y' = b x + d y for the matrix a b u, c d v, x y w.

    Raises:
        MediaError: it is tilted, not turned by quarters.
    """
    matrices = [bytes(data) for data in side_data if data.type.name == "DISPLAYMATRIX"]
    if not matrices:
        return 1
    a, b, _, c, d = struct.unpack("=5i", matrices[0][:20])
    for is_sideways, across, down, others in ((False, a, d, (b, c)), (True, c, b, (a, d))):
        if others == (0, 0) and across and down:
            return _MIRRORED[is_sideways][(across < 0) + 2 * (down < 0)]
    matrix = " ".join(f"{value / 2**16:.2f}" for value in (a, b, c, d))  # fixed-point numbers
    raise MediaError(
        f'video file "{path}" is to be shown tilted (display matrix {matrix}); expected a turn by 0, 90, 180 or 270 '
        "degrees. Convert it."
    )


def upright_size(image: Image.Image) -> Size:
    """Returns the size that a picture, opened but not loaded, has when it is upright."""
    width, height = image.size
    tags = getattr(image, "tag_v2", {})
    if _WIDTH_TAG in tags and _HEIGHT_TAG in tags:
        # As stored: Pillow has exchanged those in `image.size` already, for some orientations.
        width, height = tags[_WIDTH_TAG], tags[_HEIGHT_TAG]
    return turned_size((width, height), orientation(image))


def turned_size(size: Size, turned: int) -> Size:
    """Returns the size of a picture of that orientation when it is upright."""
    return (size[1], size[0]) if turned >= 5 else size


def turn(pixels: Image.Image, turned: int) -> Image.Image:
    """Returns a picture of that orientation upright; itself where it is."""
    return pixels.transpose(_TURNS[turned]) if turned in _TURNS else pixels


def _in_exif(exif: bytes) -> object:
    """The orientation in a block of EXIF, read entry by entry, so that a broken one does not hide the others; None
    where there is none that can be read.
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
    """The first number of a tag, or the beginning of its text."""
    if kind not in _KINDS:
        return None
    size = struct.calcsize(_KINDS[kind])
    if count * size > 4:
        # What does not fit into the entry lies elsewhere.
        (place,) = struct.unpack_from(order + "I", exif, place)
    held = exif[place : place + min(count * size, 8)]
    if _KINDS[kind] == "c":
        return held
    if len(held) < size:
        return None
    number, *denominator = struct.unpack_from(order + _KINDS[kind], held)
    if denominator:
        return number / denominator[0] if denominator[0] else None
    return number


# Metadata that Pillow refuses, though every viewer shows the pixels: of a PNG a colour profile or text of over 1 MiB,
# and texts of over 64 MiB; of a JPEG a broken JFIF, Adobe, ICC or multi-picture segment.
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
#: Texts and the colour profile of a PNG, and texts that may say which way is up.
_PNG_METADATA = (b"iCCP", b"iTXt", b"tEXt", b"zTXt")
_ORIENTED = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
#: Markers of a JPEG: the applications' segments and comments, and where pixels begin.
_JPEG_METADATA, _START_OF_SCAN = (*range(0xE0, 0xF0), 0xFE), 0xDA
#: Segments that say which way is up or what the colours are: how they begin, and their least length in bytes.
_JPEG_NEEDED = ((b"Exif\0\0", 14), (b"http://ns.adobe.com/xap/", 30), (b"JFIF\0", 14), (b"Adobe", 12))


def without_metadata(file: Path | bytes) -> bytes | None:
    """Returns a PNG or JPEG without the metadata that change no pixel here; None if the file, by path or bytes, is
    neither or has none.
    """
    with open(file, "rb") if isinstance(file, Path) else io.BytesIO(file) as opened:
        start = opened.read(len(_PNG))
        if not start.startswith((_PNG, _JPEG)):
            return None
        data = start + opened.read()
    slim = b"".join(_png_parts(data) if start == _PNG else _jpeg_parts(data))
    return slim if len(slim) < len(data) else None


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    yield _JPEG
    place = len(_JPEG)
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _START_OF_SCAN:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == 0xFF:
            end = place + 1  # a byte that only fills
        segment = data[place:end]
        needed = any(segment[4:].startswith(begin) and len(segment) - 4 >= least for begin, least in _JPEG_NEEDED)
        if data[place + 1] not in _JPEG_METADATA or needed:
            yield segment
        place = end
    yield data[place:]


def _png_parts(data: bytes) -> Iterator[bytes]:
    yield _PNG
    place = len(_PNG)
    while place + 8 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        chunk = data[place:end]
        if chunk[4:8] not in _PNG_METADATA or _is_needed(chunk[4:8], chunk[8:-4]):
            yield chunk
        place = end
    yield data[place:]


def _is_needed(kind: bytes, content: bytes) -> bool:
    """Whether a text of a PNG may hold the orientation, and is small enough to be read."""
    if kind == b"iCCP" or not content.startswith(_ORIENTED):
        return False
    rest = content[content.index(b"\0") + 1 :]
    limit = PngImagePlugin.MAX_TEXT_CHUNK
    if kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1"):
        # Behind the method; in iTXt behind language and translated keyword, too.
        packed = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
        unpacker = zlib.decompressobj()
        try:
            unpacker.decompress(packed, limit)
        except zlib.error:
            return False
        return not unpacker.unconsumed_tail
    return len(rest) <= limit
