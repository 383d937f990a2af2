"""PNGs with more metadata than Pillow takes (a colour profile or a text of over 1 MiB, texts of over 64 MiB)."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

from PIL import PngImagePlugin

_MAGIC = b"\x89PNG\r\n\x1a\n"
#: Texts and the colour profile.
_METADATA = (b"iCCP", b"iTXt", b"tEXt", b"zTXt")
#: Texts that may say which way is up.
_ORIENTED = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")


def without_metadata(file: Path | bytes) -> bytes | None:
    """Returns a PNG without its texts and its colour profile, which change no pixel here; None if the file, by path or
    bytes, is no PNG that has any. A text that may hold the orientation stays if it is small enough.
    """
    with open(file, "rb") if isinstance(file, Path) else io.BytesIO(file) as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            return None
        data = _MAGIC + opened.read()
    kept, place = [_MAGIC], len(_MAGIC)
    while place + 8 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        chunk = data[place:end]
        if chunk[4:8] not in _METADATA or _is_needed(chunk[4:8], chunk[8:-4]):
            kept.append(chunk)
        place = end
    kept.append(data[place:])
    slim = b"".join(kept)
    return slim if len(slim) < len(data) else None


def _is_needed(kind: bytes, content: bytes) -> bool:
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
