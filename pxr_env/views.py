"""Views: what the model is shown, and where every pixel of it comes from.

An operation answers with a `Region`, a part of a source and how it is to be shown. The environment decides its size
and makes it a `View`, an image with a number. A view holds no pixels, and everything in it is stated in pixels of the
source, so that an operation on the result of an operation reads the source again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pxr_env.errors import OperationError

#: x, y in pixels, x to the right and y down.
Point = tuple[float, float]
#: x1, y1, x2, y2 in pixels, x to the right and y down, edges (not pixel centres).
Box = tuple[float, float, float, float]
#: width, height in pixels.
Size = tuple[int, int]

#: Width in pixels of the line between the two pictures of a comparison.
SEPARATOR = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Quad:
    """A rectangle in a source, given by where three corners of the *shown* picture lie, in source pixels.

    Turns and mirrorings only exchange corners, and a part is interpolated along the sides, so that provenance is exact
    through any nesting of operations as long as no angle in between is used.
    """

    top_left: Point
    top_right: Point
    bottom_left: Point

    @classmethod
    def from_box(cls, box: Box) -> Quad:
        """The upright rectangle of a box."""
        x1, y1, x2, y2 = map(float, box)
        return cls(top_left=(x1, y1), top_right=(x2, y1), bottom_left=(x1, y2))

    @property
    def corners(self) -> tuple[Point, Point, Point, Point]:
        """The corners in the order upper left, upper right, lower right, lower left of the shown picture."""
        return self.top_left, self.top_right, self.at((1.0, 1.0), (1, 1)), self.bottom_left

    @property
    def box(self) -> Box:
        """The smallest upright box around it, in source pixels; the rectangle itself where it is not tilted."""
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def is_tilted(self) -> bool:
        """Whether its sides are neither horizontal nor vertical in the source."""
        (x, y), (right_x, right_y), (below_x, below_y) = self.top_left, self.top_right, self.bottom_left
        return not ((y == right_y and x == below_x) or (x == right_x and y == below_y))

    @property
    def is_upright(self) -> bool:
        """Whether it shows its box as it is: not turned, mirrored or tilted."""
        (x, y), (right, _), (_, below) = self.top_left, self.top_right, self.bottom_left
        return not self.is_tilted and x < right and y < below

    @property
    def width(self) -> float:
        """Length of the shown picture's upper side in source pixels."""
        return math.dist(self.top_left, self.top_right)

    @property
    def height(self) -> float:
        """Length of the shown picture's left side in source pixels."""
        return math.dist(self.top_left, self.bottom_left)

    def at(self, point: Point, extent: Point) -> Point:
        """The source point of a point of the shown picture, given on a scale that ends at `extent` (w, h)."""
        x, y = zip(point, extent, strict=True)
        corners = zip(self.top_left, self.top_right, self.bottom_left, strict=True)
        across, down = (_affine(*axis, x, y) for axis in corners)
        return across, down

    def locate(self, point: Point, extent: Point) -> Point:
        """Where a source point lies in the shown picture, on a scale that ends at `extent`; inverse of `at`."""
        across, down, offset = (self._along(end) for end in (self.top_right, self.bottom_left, point))
        area = _cross(across, down)
        return _cross(offset, down) * extent[0] / area, _cross(across, offset) * extent[1] / area

    def _along(self, point: Point, length: float = 1.0) -> Point:
        """From the upper left corner to a source point, as a share of a length."""
        return (point[0] - self.top_left[0]) / length, (point[1] - self.top_left[1]) / length

    def part(self, box: Box, extent: Point) -> Quad:
        """The part inside a box of the shown picture, given on a scale that ends at `extent`."""
        x1, y1, x2, y2 = box
        top_left, top_right, bottom_left = (self.at(corner, extent) for corner in ((x1, y1), (x2, y1), (x1, y2)))
        return Quad(top_left=top_left, top_right=top_right, bottom_left=bottom_left)

    def rotated(self, degrees: float) -> Quad:
        """The picture turned clockwise about its centre, enlarged to hold all of it.

        Multiples of 90 degrees are exact. Other angles show, in the corners, what lies beside it in the source.
        """
        quarters, rest = divmod(degrees % 360, 90)
        if rest == 0:
            turned = self
            for _ in range(int(quarters)):
                upper_left, _, lower_right, lower_left = turned.corners
                turned = Quad(top_left=lower_left, top_right=upper_left, bottom_left=lower_right)
            return turned
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        width, height = self.width, self.height
        right, down = self._along(self.top_right, width), self._along(self.bottom_left, height)
        # What points to the right after the turn pointed up and to the right before it.
        new_right = (cosine * right[0] - sine * down[0], cosine * right[1] - sine * down[1])
        new_down = (sine * right[0] + cosine * down[0], sine * right[1] + cosine * down[1])
        new_width = abs(width * cosine) + abs(height * sine)
        new_height = abs(width * sine) + abs(height * cosine)
        x, y = self.at((0.5, 0.5), (1, 1))

        def corner(across: float, along: float) -> Point:
            return (
                x + across * new_width * new_right[0] + along * new_height * new_down[0],
                y + across * new_width * new_right[1] + along * new_height * new_down[1],
            )

        return Quad(top_left=corner(-0.5, -0.5), top_right=corner(0.5, -0.5), bottom_left=corner(-0.5, 0.5))

    def mirrored(self, *, horizontally: bool) -> Quad:
        """The picture with left and right exchanged, or else with top and bottom exchanged."""
        top_left, top_right, bottom_right, bottom_left = self.corners
        if horizontally:
            return Quad(top_left=top_right, top_right=top_left, bottom_left=bottom_right)
        return Quad(top_left=bottom_left, top_right=bottom_right, bottom_left=top_left)


def overlap(first: Box, second: Box) -> Box | None:
    """What two boxes have in common, or None."""
    x1, y1 = max(first[0], second[0]), max(first[1], second[1])
    x2, y2 = min(first[2], second[2]), min(first[3], second[3])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _affine(origin: float, across: float, down: float, x: Point, y: Point) -> float:
    # Along a single side, interpolating between its ends keeps both of them exact.
    if across == origin:
        return _between(origin, down, *y)
    if down == origin:
        return _between(origin, across, *x)
    return origin + (across - origin) * x[0] / x[1] + (down - origin) * y[0] / y[1]


def _between(start: float, end: float, number: float, limit: float) -> float:
    if number == limit:
        return end
    between = start + (end - start) * number / limit
    return min(between, end) if start < end else max(between, end)


def _cross(first: Point, second: Point) -> float:
    return first[0] * second[1] - first[1] * second[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """Something drawn onto a source, with a text beside it."""

    kind: str  # "box", "point" or "line"
    points: tuple[Point, ...]  # the corners of a box, or the ends and bends of a line, in source pixels
    label: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The mark as a new dict of plain values."""
        return {"kind": self.kind, "points": list(self.points), **({"label": self.label} if self.label else {})}


@dataclass(frozen=True, kw_only=True, slots=True)
class Adjustment:
    """Factors as in `PIL.ImageEnhance`: 1 changes nothing, 0 is flat grey, black or blurred, larger is more."""

    contrast: float = 1.0
    brightness: float = 1.0
    sharpness: float = 1.0

    def as_dict(self) -> dict[str, float]:
        """The factors that change something."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) != 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """So many lines in each direction over a view, with the coordinates they lie at in the named coordinate frame."""

    lines: int
    frame: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A part of a source and how it is to be shown."""

    source: int  # its number in the sample, from 1
    quad: Quad
    frame: int | None = None  # index of the frame of a video, from 0; None for an image
    time: float | None = None  # when that frame is shown, in seconds from the beginning; None for an image
    adjustments: tuple[Adjustment, ...] = ()  # in this order
    marks: tuple[Mark, ...] = ()
    grid: Grid | None = None  # lines over this view; they are not part of what is cut from it
    overview: bool = False  # shown within the pixel budget of one frame of a video instead of that of an image

    @classmethod
    def from_box(cls, source: int, box: Box) -> Region:
        """The region of an upright box of an image."""
        return cls(source=source, quad=Quad.from_box(box))

    @property
    def box(self) -> Box:
        """The smallest upright box around the shown rectangle, in source pixels."""
        return self.quad.box

    def part(self, box: Box, extent: Point) -> Region:
        """What is inside a box of this region, given on a scale that ends at `extent` (w, h).

        What was turned, adjusted or drawn stays so; a grid does not, its numbers would be wrong.
        """
        return replace(self, quad=self.quad.part(box, extent), grid=None, overview=False)

    def as_dict(self) -> dict[str, Any]:
        """The region as a new dict of plain values; what does not apply is left out."""
        facts: dict[str, Any] = {"source": self.source, "box": self.box}
        if self.frame is not None:
            facts |= {"frame": self.frame, "time": self.time}
        if not self.quad.is_upright:
            facts["corners"] = list(self.quad.corners)
        if self.adjustments:
            facts["adjustments"] = [adjustment.as_dict() for adjustment in self.adjustments]
        if self.marks:
            facts["marks"] = [mark.as_dict() for mark in self.marks]
        if self.grid:
            facts["grid"] = self.grid.lines
        return facts


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two regions to be shown side by side in one view."""

    left: Region
    right: Region


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A region and the place x1, y1, x2, y2 in pixels of the view where it is shown."""

    region: Region
    place: tuple[int, int, int, int]

    @property
    def size(self) -> Size:
        """Width and height of the place in pixels."""
        x1, y1, x2, y2 = self.place
        return x2 - x1, y2 - y1


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """An image shown to the model. `source`, `box`, `frame` and `time` are those of its `region`."""

    index: int  # its number in the episode, from 1
    size: Size  # as shown
    panels: tuple[Panel, ...]  # one that fills the view, or two side by side
    turn: int = 0  # number of the turn whose operation showed it, 0 for what came with the question

    @classmethod
    def of(cls, index: int, shown: Region | Comparison, size: Size, turn: int = 0) -> View:
        """The view of a region, or of two side by side, at a size."""
        width, height = size
        if isinstance(shown, Region):
            panel = Panel(region=shown, place=(0, 0, width, height))
            return cls(index=index, size=size, panels=(panel,), turn=turn)
        first, second = (region.quad.width / region.quad.height for region in (shown.left, shown.right))
        middle = min(max(round(width * first / (first + second)), SEPARATOR), width - SEPARATOR)
        left = Panel(region=shown.left, place=(0, 0, middle - SEPARATOR // 2, height))
        right = Panel(region=shown.right, place=(middle + SEPARATOR // 2, 0, width, height))
        return cls(index=index, size=size, panels=(left, right), turn=turn)

    @property
    def region(self) -> Region:
        """What is shown: of two, the left one."""
        return self.panels[0].region

    @property
    def source(self) -> int:
        return self.region.source

    @property
    def box(self) -> Box:
        return self.region.box

    @property
    def frame(self) -> int | None:
        return self.region.frame

    @property
    def time(self) -> float | None:
        return self.region.time

    @property
    def is_comparison(self) -> bool:
        """Whether two regions are shown side by side."""
        return len(self.panels) > 1

    def only_region(self) -> Region:
        """What is shown; an `OperationError` for the model where that is two regions."""
        if self.is_comparison:
            raise OperationError(
                f"image {self.index} shows two images side by side; expected one that shows a single image. "
                "Name one of the two, or zoom into one half first."
            )
        return self.region

    def as_dict(self) -> dict[str, Any]:
        """The view as a new dict of plain values, as it stands in `info["views"]`."""
        facts = {"index": self.index, "turn": self.turn, "size": self.size, **self.region.as_dict()}
        if self.is_comparison:
            facts["panels"] = [{"place": panel.place, **panel.region.as_dict()} for panel in self.panels]
        return facts


def regions(views: Sequence[View]) -> Iterator[Region]:
    """Every region that any of the views shows."""
    for view in views:
        for panel in view.panels:
            yield panel.region
