"""Any mode of Pillow as 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

#: Tags of a TIFF: bits of a sample, and what its 0 means (0: white, 1: black).
_BITS_TAG, _PHOTOMETRIC_TAG = 258, 262
#: Formats that are read into 32 bits and hold 16.
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
#: How Pillow unpacks greys of few bits, and 16-bit colours -> what makes a colour of the file one of the picture.
_GREY_SCALES = {"L;2": 85, "L;4": 17}
_SIXTEEN_BIT_RGB = "RGB;16B"
_WHITE = (255, 255, 255, 255)


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns `image` as new 8-bit RGB, without metadata.

    Transparency, of a channel, a palette or one colour, is shown over white. Greys:

    - of 16 bits: the upper 8;
    - whole numbers of 32 bits (`I`): as they are if none is above 255, the upper 8 of 16 bits if none is above 65535,
      else scaled so that the largest is white;
    - floating point (`F`): times 255 if none is above 1, as they are up to 255, divided by 256 up to 65535, else
      scaled so that the largest is white.

    Negative numbers and NaN are black.
    """
    key = _transparent_colour(image)  # knows more before the picture is loaded
    image.load()
    if image.mode.startswith("I;16"):
        rgb = _of_sixteen_bits(image, key)
    elif image.mode in ("I", "F"):
        rgb = Image.fromarray(_eight_bits(image)).convert("RGB")
    elif key is not None or image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or _has_transparent_palette(image):
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
    how = _unpacking(image)
    if image.mode == "P" and isinstance(key, int | bytes):
        return key
    if image.mode == "RGB" and isinstance(key, tuple) and len(key) == 3:
        key = tuple(value >> 8 for value in key) if how == _SIXTEEN_BIT_RGB else key
        return key if max(key) <= 255 else None
    if image.mode in ("1", "L") and isinstance(key, int):
        key *= _GREY_SCALES.get(how, 1)
        return key if key <= 255 else None
    return key if image.mode.startswith("I;16") and isinstance(key, int) else None


def _unpacking(image: Image.Image) -> str:
    """How Pillow is going to unpack a PNG, such as "L;4"; nothing after that."""
    tiles = getattr(image, "tile", None) if image.format == "PNG" else None
    how = tiles[0][3] if tiles else None
    return how if isinstance(how, str) else ""


def _has_transparent_palette(image: Image.Image) -> bool:
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def _over_white(image: Image.Image, key: Any) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    if key is not None:
        image = image.copy()
        image.info["transparency"] = key
    elif "transparency" in image.info:
        # A colour that its mode cannot have: nothing is transparent.
        image = image.copy()
        del image.info["transparency"]
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, _WHITE), over).convert("RGB")


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
    if image.mode == "F" and largest <= 1:
        scale = 255.0
    elif (image.mode == "I" and image.format in _SIXTEEN_BIT_FORMATS) or 255 < largest <= 65535:
        scale = 1 / 256
    else:
        scale = 255 / max(largest, 255)
    shown = np.nan_to_num(grey * scale, nan=0, posinf=255, neginf=0).clip(0, 255)
    # Whole numbers are cut, as if their lower bits were left out.
    return (shown if image.mode == "I" else np.rint(shown)).astype(np.uint8)
