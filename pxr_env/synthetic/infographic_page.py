"""How a procedural infographic looks: where everything is, and how it is drawn at four times that size.

Places are in pixels of the overview. A label in fine print stands on a strip of one colour, and `hide` draws it: the
overview shows an empty strip.
"""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pxr_env.synthetic.scenes import Colour, Place, around, hide
from pxr_env.views import Box, Size

#: A piece of text on a page: number of its section, row, column ("name" or "value", or the number of a table's column).
Key = tuple[int, int, str]
SMALL_PRINT = "small print"


class Template(NamedTuple):
    """What a section may be about: names of its rows, and of the columns of a table, to draw from.

    The questions are about a number, with {name} and, in tables, {column}; and about the rows with the largest and the
    smallest number, if anybody would ask.
    """

    title: str
    names: tuple[str, ...]
    of_value: str
    of_most: str | None = None
    of_least: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a page: names of its rows and columns (one without a name outside of tables), numbers by both.

    `kind` is "bars", "pie", "table", "line", "facts" or `SMALL_PRINT`. If it is `fine`, the first view does not show
    what decides a question about it.
    """

    kind: str
    template: Template
    names: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    fine: bool

    def as_dict(self) -> dict[str, Any]:
        """Returns the section as a dict of plain values."""
        return {"title": self.template.title} | {
            name: getattr(self, name) for name in self.__slots__ if name != "template"
        }

    def text(self, row: int, column: int = 0) -> str:
        """Returns a number as it is written on the page."""
        value = self.values[row][column]
        return f"{value}%" if self.kind in ("bars", "pie") else f"{value:,}"


#: Source pixels per overview pixel, on each axis.
REDUCTION = 4
#: What pages say.
WORDS = tomllib.loads(Path(__file__).with_name("infographic.toml").read_text(encoding="utf-8"))
MONTHS: tuple[str, ...] = tuple(WORDS["months"])
INK, WHITE = (38, 42, 52), (255, 255, 255)
#: Height of plain text in overview pixels, and of fine print in source pixels.
TEXT, FINE_PRINT = 10, 18
_STRIP_HEIGHT = 9


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A filled rectangle, its corners rounded by `radius`."""

    place: Place
    fill: Colour
    radius: int = 0


@dataclass(frozen=True, slots=True)
class Wedge:
    """A slice of a disc, from one angle to another in degrees clockwise from the top."""

    place: Place
    start: float
    end: float
    fill: Colour


@dataclass(frozen=True, slots=True)
class Polyline:
    """A line through points, with a dot on each."""

    points: tuple[tuple[float, float], ...]
    fill: Colour


@dataclass(frozen=True, slots=True)
class TextLabel:
    """A piece of text, `size` overview pixels high inside a place, made smaller where it would not fit.

    `align` is "l", "m" or "r"; questions know it by its `key`; `strip` is the colour of the strip below fine print.
    """

    text: str
    place: Place
    size: int = TEXT
    colour: Colour = INK
    align: str = "l"
    key: Key | None = None
    strip: Colour | None = None


#: What a page is made of.
Shape = Rectangle | Wedge | Polyline | TextLabel


#: Least width of a page, and room for each section, in overview pixels.
PAGE_WIDTH, SECTION_HEIGHT = 224, 96
_HEADER, _FOOTER, _GAP, _MARGIN = 50, 24, 8, 10
# Heights of text; the widths of strips do not tell how long the text on them is.
_TITLE, _HEADING, _NUMBER = 17, 11, 17
_NAME_STRIP, _NUMBER_STRIP, _SENTENCE_STRIP = 32, 24, 104
GREY: Colour = (112, 116, 126)


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of a page: header, paper, strips of fine print (of middle brightness), and charts."""

    header: Colour
    paper: Colour
    strip: Colour
    chart: tuple[Colour, ...]


PALETTES = (
    Palette(
        *((32, 74, 112), (232, 239, 244), (122, 138, 154)),
        ((46, 110, 166), (240, 148, 62), (84, 168, 104), (198, 84, 80), (134, 112, 176)),
    ),
    Palette(
        *((122, 52, 64), (246, 238, 232), (156, 134, 126)),
        ((186, 82, 76), (232, 174, 84), (96, 146, 132), (110, 96, 150), (150, 160, 90)),
    ),
    Palette(
        *((28, 96, 84), (234, 242, 236), (122, 146, 132)),
        ((42, 140, 116), (226, 184, 74), (70, 116, 168), (206, 104, 82), (150, 112, 152)),
    ),
    Palette(
        *((78, 62, 118), (240, 238, 246), (138, 132, 154)),
        ((118, 94, 176), (80, 160, 186), (236, 150, 96), (112, 164, 92), (206, 96, 134)),
    ),
)


def lay_out(size: Size, title: str, sections: Sequence[Section], palette: Palette) -> list[Shape]:
    """Returns the shapes of a page in the order in which they are drawn; of the sections the small print is the last.

    `size` is that of the overview in pixels.
    """
    width, height = size
    inner = (_MARGIN, width - _MARGIN)
    shapes: list[Shape] = [
        Rectangle((0, 0, width, height), palette.paper),
        Rectangle((0, 0, width, _HEADER), palette.header),
        Rectangle((0, _HEADER, width, _HEADER + 3), palette.chart[1]),
        TextLabel(title, (inner[0], 6, inner[1], 30), size=_TITLE, colour=WHITE),
        TextLabel("An overview in pictures", (inner[0], 30, inner[1], 44), colour=palette.paper),
    ]
    *upper, last = sections
    room = height - _HEADER - _FOOTER - _GAP * (len(upper) + 2)
    top = _HEADER + _GAP + 3
    for number, section in enumerate(upper):
        bottom = top + room // len(upper)
        shapes.append(Rectangle((inner[0] - 4, top, inner[1] + 4, bottom), WHITE, radius=5))
        heading = (inner[0] + 2, top + 3, inner[1], top + 17)
        shapes.append(TextLabel(section.template.title, heading, size=_HEADING, colour=palette.header))
        content = _LAYOUTS[section.kind](section, number, (inner[0] + 2, top + 19, inner[1] - 2, bottom - 5), palette)
        shapes += _in_fine_print(content, palette) if section.fine else content
        top = bottom + _GAP
    place = (inner[0], height - _FOOTER + 3, inner[1], height - _FOOTER + 17)
    (adults,), (month,) = last.values
    text = f"Survey of {adults:,} adults, held in {MONTHS[month]}."
    sentence = TextLabel(text, place, colour=GREY, key=(len(upper), 0, "value"))
    return [*shapes, fine_print(sentence, palette.strip, _SENTENCE_STRIP) if last.fine else sentence]


def least_height(n_sections: int) -> int:
    """Returns the height in overview pixels that a page with that many sections beside the small print needs."""
    return _HEADER + _FOOTER + _GAP * (n_sections + 2) + SECTION_HEIGHT * n_sections


def _in_fine_print(shapes: Sequence[Shape], palette: Palette) -> list[Shape]:
    """What questions may ask for, on strips; the rest as it is."""
    return [
        fine_print(shape, palette.strip, _NAME_STRIP if shape.key[2] == "name" else _NUMBER_STRIP)
        if isinstance(shape, TextLabel) and shape.key
        else shape
        for shape in shapes
    ]


def _texts(section: Section, number: int, row: int) -> tuple[Callable[..., TextLabel], Callable[..., TextLabel]]:
    """Makers of the labels of a row, which questions know by their keys: its name and its value."""
    name = functools.partial(TextLabel, text=section.names[row], key=(number, row, "name"))
    return name, functools.partial(TextLabel, text=section.text(row), key=(number, row, "value"))


def _bars(section: Section, number: int, place: Place, palette: Palette) -> list[Shape]:
    x1, y1, x2, y2 = place
    row_height = (y2 - y1) // len(section.names)
    height = min(row_height - 2, 16)
    left, right = x1 + (x2 - x1) * 3 // 10, x2 - 32
    largest = max(values[0] for values in section.values)
    fill = palette.chart[number % len(palette.chart)]
    shapes: list[Shape] = []
    for row, (value,) in enumerate(section.values):
        name, number_of = _texts(section, number, row)
        top = y1 + row * row_height + (row_height - height) // 2
        length = max(4, (right - left - 4) * value // largest)
        shapes += [
            name(place=(x1, top, left - 4, top + height)),
            Rectangle((left, top + 1, left + length, top + height - 1), fill, radius=2),
            number_of(place=(right, top, x2, top + height), align="r"),
        ]
    return shapes


def _pie(section: Section, number: int, place: Place, palette: Palette) -> list[Shape]:
    x1, y1, x2, y2 = place
    side = min(y2 - y1, (x2 - x1) * 2 // 5)
    top, left = y1 + (y2 - y1 - side) // 2, x1 + 4
    legend = left + side + 14
    row_height = min((y2 - y1) // len(section.names), 24)
    height, first = min(row_height - 3, 15), y1 + (y2 - y1 - row_height * len(section.names)) // 2
    shapes: list[Shape] = []
    angle = 0.0
    for row, (share,) in enumerate(section.values):
        name, number_of = _texts(section, number, row)
        y, fill = first + row * row_height, palette.chart[row % len(palette.chart)]
        shapes += [
            Wedge((left, top, left + side, top + side), angle, angle + 3.6 * share, fill),
            Rectangle((legend, y + height // 2 - 4, legend + 8, y + height // 2 + 4), fill, radius=2),
            name(place=(legend + 13, y, x2 - 32, y + height)),
            number_of(place=(x2 - 28, y, x2, y + height), align="r"),
        ]
        angle += 3.6 * share
    hole = side // 4
    middle = (left + hole, top + hole, left + side - hole, top + side - hole)
    return [*shapes, Wedge(middle, 0, 360, WHITE)]


def _table(section: Section, number: int, place: Place, palette: Palette) -> list[Shape]:
    x1, y1, x2, y2 = place
    row_height = min((y2 - y1) // (len(section.names) + 1), 22)
    height = row_height - 3
    edges = [x1 + (x2 - x1) * part // 100 for part in (34, 67, 100)]
    shapes: list[Shape] = [Rectangle((x1, y1, x2, y1 + row_height - 1), palette.paper, radius=2)]
    for column, name in enumerate(section.columns):
        head = (edges[column] + 4, y1, edges[column + 1] - 3, y1 + row_height - 1)
        shapes.append(TextLabel(name.capitalize(), head, align="r", colour=palette.header))
    for row, name in enumerate(section.names):
        y = y1 + (row + 1) * row_height
        shapes.append(TextLabel(name, (x1 + 3, y, edges[0], y + height)))
        shapes.append(Rectangle((x1, y + height + 1, x2, y + height + 2), palette.paper))
        for column in range(len(section.columns)):
            cell = (edges[column] + 10, y, edges[column + 1] - 3, y + height)
            shapes.append(TextLabel(section.text(row, column), cell, align="r", key=(number, row, str(column))))
    return shapes


def _line(section: Section, number: int, place: Place, palette: Palette) -> list[Shape]:
    x1, y1, x2, y2 = place
    values = [row[0] for row in section.values]
    step = (x2 - x1) // len(values)
    # A number above each point, the year below the axis.
    high, low = y1 + 16, y2 - 17
    spread = max(values) - min(values)
    points = [
        (x1 + step * (row + 0.5), low - 5 - (low - high - 5) * (value - min(values)) / spread)
        for row, value in enumerate(values)
    ]
    shapes: list[Shape] = [
        Rectangle((x1, low, x2, low + 1), GREY),
        Polyline(tuple(points), palette.chart[(number + 2) % len(palette.chart)]),
    ]
    for row, (_, y) in enumerate(points):
        name, number_of = _texts(section, number, row)
        left, right, top = x1 + row * step + 3, x1 + (row + 1) * step - 3, math.floor(y) - 17
        shapes.append(number_of(place=(left, top, right, top + 12), align="m"))
        shapes.append(name(place=(left, y2 - 14, right, y2 - 1), align="m"))
    return shapes


def _facts(section: Section, number: int, place: Place, palette: Palette) -> list[Shape]:
    x1, y1, x2, y2 = place
    step, middle = (x2 - x1) // len(section.names), (y1 + y2) // 2
    large = {"size": _NUMBER, "colour": palette.header, "align": "m"}
    shapes: list[Shape] = []
    for row, name in enumerate(section.names):
        _, number_of = _texts(section, number, row)
        left, right = x1 + row * step + 2, x1 + (row + 1) * step - 2
        shapes += [
            Rectangle((left, y1 + 2, right, y2 - 2), palette.paper, radius=4),
            Rectangle((left, y1 + 2, right, y1 + 6), palette.chart[row], radius=2),
            number_of(place=(left + 5, middle - 18, right - 5, middle + 2), **large),
            TextLabel(name, (left + 2, middle + 7, right - 2, middle + 20), align="m"),
        ]
    return shapes


_LAYOUTS = {"bars": _bars, "pie": _pie, "table": _table, "line": _line, "facts": _facts}


def fine_print(label: TextLabel, colour: Colour, width: int) -> TextLabel:
    """Returns a label as fine print on a strip of some width and colour, at the same side of the label's place."""
    x1, y1, x2, y2 = label.place
    width, height = min(width, x2 - x1), min(_STRIP_HEIGHT, y2 - y1)
    left = {"l": x1, "m": (x1 + x2 - width) // 2, "r": x2 - width}[label.align]
    top = (y1 + y2 - height) // 2
    return replace(label, place=(left, top, left + width, top + height), strip=colour)


def box_of(shapes: Sequence[Shape], keys: Collection[Key]) -> Box:
    """Returns the box around the labels of some keys in source pixels."""
    places = [shape.place for shape in shapes if isinstance(shape, TextLabel) and shape.key in keys]
    return around(places, REDUCTION)


def draw_page(size: Size, shapes: Sequence[Shape], *, without: Collection[Key] = ()) -> Image.Image:
    """Draws a page, whose overview has that size, at its full resolution, RGB.

    The text of labels with the keys `without` is left out; their strips stay.
    """
    image = Image.new("RGB", (size[0] * REDUCTION, size[1] * REDUCTION))
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        if isinstance(shape, TextLabel):
            _draw_label(image, draw, shape, is_empty=shape.key in without)
        elif isinstance(shape, Rectangle):
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


def _draw_label(image: Image.Image, draw: ImageDraw.ImageDraw, label: TextLabel, *, is_empty: bool) -> None:
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
