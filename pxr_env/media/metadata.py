"""Images whose metadata Pillow refuses, though every viewer shows their pixels.

Of a PNG it takes no colour profile or text of over 1 MiB, and no texts of over 64 MiB; of a JPEG no broken JFIF, Adobe,
ICC or multi-picture segment.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import PngImagePlugin

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
#: Texts and the colour profile of a PNG.
_PNG_METADATA = (b"iCCP", b"iTXt", b"tEXt", b"zTXt")
#: Texts that may say which way is up.
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
        try:
            unpacker = zlib.decompressobj()
            unpacker.decompress(packed, limit)
        except zlib.error:
            return False
        return not unpacker.unconsumed_tail
    return len(rest) <= limit
