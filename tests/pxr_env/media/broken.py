"""Image files that decoders choke on, each in its own way; of most the header is whole."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def saved(kind: str, **options: object) -> bytes:
    """Noise as a file, so that every part of it matters."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def animation() -> bytes:
    """A GIF of four frames."""
    frames = [Image.effect_noise((32, 24), 60 + number) for number in range(4)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=50)
    return buffer.getvalue()


def _png_of_bad_pixels() -> bytes:
    """Its lines are filtered by a method that does not exist."""
    data = saved("PNG")
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    content = b"IDAT" + zlib.compress(b"\x09" + bytes(180) * 40)
    changed = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return data[: start - 4] + changed + data[start + length + 8 :]


#: Name -> content. The names say what is wrong.
BROKEN = {
    "cut.jpg": saved("JPEG")[:-300],
    "cut.png": saved("PNG")[:-300],
    "bad_pixels.png": _png_of_bad_pixels(),
    "cut.webp": saved("WEBP", lossless=True)[:-300],
    "cut.avif": saved("AVIF")[:-200],
    "cut.tif": saved("TIFF", compression="tiff_lzw")[:-300],
    "no_strips.tif": saved("TIFF").replace(struct.pack("<HHI", 273, 4, 1), struct.pack("<HHI", 273, 2, 1)),
    "cut.bmp": saved("BMP")[:-300],
    "cut.ppm": saved("PPM")[:-300],
    "cut.jp2": saved("JPEG2000")[:-300],
    "cut.gif": saved("GIF")[:-300],
    "text.png": b"no image",
    "empty.jpg": b"",
}
