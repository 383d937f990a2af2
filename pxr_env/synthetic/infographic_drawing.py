"""How a procedural infographic looks: shapes and labels, drawn at four times their size.

Places are in pixels of the overview. A label in fine print stands on a strip of one colour, and `hide` draws it: the
overview shows an empty strip.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pxr_env.geometry import Box, Size
from pxr_env.synthetic.hiding import hide
from pxr_env.synthetic.infographic_content import Key

#: Source pixels per overview pixel, on each axis.
REDUCTION = 4
Colour = tuple[int, int, int]
#: x1, y1, x2, y2 in overview pixels.
Place = tuple[int, int, int, int]

INK, WHITE = (38, 42, 52), (255, 255, 255)
#: Height of plain text in overview pixels, and of fine print in source pixels.
TEXT, FINE_PRINT = 10, 18
_STRIP_HEIGHT = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A filled rectangle, its corners rounded by `radius`."""

    place: Place
    fill: Colour
    radius: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Wedge:
    """A slice of a disc, from one angle to another in degrees clockwise from the top."""

    place: Place
    start: float
    end: float
    fill: Colour


@dataclass(frozen=True, kw_only=True, slots=True)
class Polyline:
    """A line through points, with a dot on each."""

    points: tuple[tuple[float, float], ...]
    fill: Colour


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """A piece of text inside a place, made smaller where it would not fit.

    Args:
        text: what it says.
        place: where it is.
        size: height of the text in overview pixels.
        colour: of the text.
        align: "l", "m" or "r".
        key: what questions know it by.
        strip: the colour of the strip below fine print; None for a plain label.
    """

    text: str
    place: Place
    size: int = TEXT
    colour: Colour = INK
    align: str = "l"
    key: Key | None = None
    strip: Colour | None = None


#: What a page is made of.
Shape = Panel | Wedge | Polyline | Label


def fine_print(label: Label, colour: Colour, width: int) -> Label:
    """Returns a label as fine print on a strip of some width and colour, at the same side of the label's place."""
    x1, y1, x2, y2 = label.place
    width, height = min(width, x2 - x1), min(_STRIP_HEIGHT, y2 - y1)
    left = {"l": x1, "m": (x1 + x2 - width) // 2, "r": x2 - width}[label.align]
    top = (y1 + y2 - height) // 2
    return replace(label, place=(left, top, left + width, top + height), strip=colour)


def box_of(shapes: Sequence[Shape], keys: Collection[Key]) -> Box:
    """Returns the box around the labels of some keys in source pixels."""
    places = [shape.place for shape in shapes if isinstance(shape, Label) and shape.key in keys]
    x1, y1, x2, y2 = zip(*places, strict=True)
    scale = float(REDUCTION)
    return scale * min(x1), scale * min(y1), scale * max(x2), scale * max(y2)


def draw_page(size: Size, shapes: Sequence[Shape], *, without: Collection[Key] = ()) -> Image.Image:
    """Draws a page at its full resolution, RGB.

    Args:
        size: width and height of the overview in pixels.
        shapes: what `lay_out` returned.
        without: keys of labels whose text is left out; their strips stay.
    """
    image = Image.new("RGB", (size[0] * REDUCTION, size[1] * REDUCTION))
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        if isinstance(shape, Label):
            _draw_label(image, draw, shape, is_empty=shape.key in without)
        elif isinstance(shape, Panel):
            draw.rounded_rectangle(_scaled(shape.place), radius=shape.radius * REDUCTION, fill=shape.fill)
        elif isinstance(shape, Wedge):
            draw.pieslice(
                _scaled(shape.place), shape.start - 90, shape.end - 90, fill=shape.fill, outline=WHITE, width=4
            )
        else:
            points = [(x * REDUCTION, y * REDUCTION) for x, y in shape.points]
            draw.line(points, fill=shape.fill, width=2 * REDUCTION, joint="curve")
            for x, y in points:
                draw.ellipse((x - 10, y - 10, x + 10, y + 10), fill=shape.fill, outline=WHITE, width=3)
    return image


def _scaled(place: Place) -> Place:
    """In source pixels, the last row and column included, as Pillow draws it."""
    x1, y1, x2, y2 = (value * REDUCTION for value in place)
    return x1, y1, x2 - 1, y2 - 1


def _draw_label(image: Image.Image, draw: ImageDraw.ImageDraw, label: Label, *, is_empty: bool) -> None:
    x1, y1, x2, y2 = (value * REDUCTION for value in label.place)
    if label.strip is None:
        if not is_empty:
            x = {"l": x1, "m": (x1 + x2) // 2, "r": x2}[label.align]
            font = fitting_font(label.text, label.size * REDUCTION, x2 - x1)
            draw.text((x, (y1 + y2) // 2), label.text, font=font, fill=label.colour, anchor=f"{label.align}m")
        return
    cover = Image.new("L", (x2 - x1, y2 - y1))
    if not is_empty:
        font = fitting_font(label.text, FINE_PRINT, x2 - x1 - 8)
        x = {"l": 6, "m": (x2 - x1) // 2, "r": x2 - x1 - 6}[label.align]
        ImageDraw.Draw(cover).text((x, (y2 - y1) // 2), label.text, font=font, fill=255, anchor=f"{label.align}m")
    red, green, blue = label.strip
    ink = (red // 8, green // 8, blue // 8)
    image.paste(Image.fromarray(hide(label.strip, ink, np.asarray(cover) / 255, reduction=REDUCTION)), (x1, y1))


@functools.lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ImportError(
            "got a Pillow without FreeType, expected one that can write text. Reinstall Pillow from PyPI."
        )
    return font


def fitting_font(text: str, size: int, width: int) -> ImageFont.FreeTypeFont:
    """Returns the font of that height in source pixels, or the largest smaller one in which the text fits the width."""
    while size > 8 and _font(size).getlength(text) > width:
        size -= 1
    return _font(size)
