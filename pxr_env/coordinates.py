"""Coordinate frames: what the four numbers of a box mean. An environment declares one and never guesses.

All frames refer to the image as it was *shown* to the model: `unit` from 0 to 1, `permille` from 0 to 1000,
`pixel` from 0 to the shown width and height.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pxr_env.errors import OperationError, choose, show
from pxr_env.views import Box, Panel, Point, Region, Size, View, overlap

#: How far beyond an edge a box may reach and is cut off there, as a share of the image's side. Models overshoot by a
#: pixel or two, and mean the edge.
OVERSHOOT = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One coordinate frame. Boxes and points that were cut off at an edge are noted in `clipped`, unless it is None."""

    name: str  # "unit", "pixel" or "permille"
    limit: int | None  # the number at the right and at the lower edge, None for the shown size in pixels
    decimals: int  # of the numbers written in this frame
    description: str  # the sentence about it in the system prompt
    clipped: list[Sequence[float]] | None = field(default=None, compare=False, repr=False)

    def extent(self, size: Size) -> Size:
        """The numbers at the right and the lower edge of an image shown at `size`."""
        return size if self.limit is None else (self.limit, self.limit)

    def region(self, numbers: Sequence[float], view: View, *, padding: float = 0.0) -> Region:
        """What is inside a box that the model wrote for `view`; an OperationError for the model if it is none.

        What overshoots an edge by at most `OVERSHOOT` is cut off there, and noted in `clipped`. `padding` is added on
        each side, as a share of the picture's width and height, and cut off at its edges.
        """
        width, height = self.extent(view.size)
        rule = f"expected [x1, y1, x2, y2] with 0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height} ({self.name})"
        if len(numbers) != 4:
            raise OperationError(f"the box has {len(numbers)} numbers; {rule}.")
        x1, y1, x2, y2 = self._inside(numbers, view, "box", rule)
        for low, high, axis in ((x1, x2, "x"), (y1, y2, "y")):
            if low >= high:
                empty = f"the box {show(list(numbers))} is empty, {axis}1 is not less than {axis}2"
                raise OperationError(f"{empty}; {rule}.")
        panel, (left, top, right, bottom) = self._panel((x1 + x2) / 2, (y1 + y2) / 2, view)
        across, down = padding * (right - left), padding * (bottom - top)
        padded = (x1 - left - across, y1 - top - down, x2 - left + across, y2 - top + down)
        inside = overlap(padded, (0, 0, right - left, bottom - top))
        assert inside is not None, "the centre of the box lies in the panel"
        region = panel.region.part(inside, (right - left, bottom - top))
        if region.quad.width < 1 or region.quad.height < 1:
            raise OperationError(
                f"the box {show(list(numbers))} covers {region.quad.width:.2f}x{region.quad.height:.2f} pixels of the "
                "original image; expected at least 1x1. Choose a larger box."
            )
        return region

    def point(self, numbers: Sequence[float], view: View) -> Point:
        """The source point of a point [x, y] that the model wrote for a view of a single region, read as a box is."""
        width, height = self.extent(view.size)
        rule = f"expected [x, y] with 0 <= x <= {width} and 0 <= y <= {height} ({self.name})"
        if len(numbers) != 2:
            raise OperationError(f"the point has {len(numbers)} numbers; {rule}.")
        x, y = self._inside(numbers, view, "point", rule)
        return view.only_region().quad.at((x, y), (width, height))

    def from_source(self, box: Box, view: View, *, source: int | None = None) -> list[float]:
        """Writes a box of source pixels in this frame: the smallest one that covers the part of it inside `view`.

        `source` is by default that of the view. ValueError where the view shows nothing of the box.
        """
        number = view.source if source is None else source
        for panel in view.panels:
            if panel.region.source == number and (inside := overlap(box, panel.region.box)) is not None:
                return self._write(inside, panel, view)
        raise ValueError(f"got the box {box}; expected one that overlaps the view {view.box}.")

    def _write(self, inside: Box, panel: Panel, view: View) -> list[float]:
        left, top, right, bottom = self._place(panel, view)
        x1, y1, x2, y2 = inside
        extent = (right - left, bottom - top)
        corners = [panel.region.quad.locate(corner, extent) for corner in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
        # A tilted view shows less than the box around it.
        xs = [min(max(x, 0), extent[0]) + left for x, _ in corners]
        ys = [min(max(y, 0), extent[1]) + top for _, y in corners]
        scale = 10**self.decimals

        def outward(number: float, rounding: Callable[[float], int]) -> float:
            # What is a hair beside a grid line because of floating point lies on it.
            steps = number * scale
            whole = round(steps) if abs(steps - round(steps)) < 1e-6 else rounding(steps)
            return whole / scale if self.decimals else whole

        low = [outward(min(numbers), math.floor) for numbers in (xs, ys)]
        return [*low, *(outward(max(numbers), math.ceil) for numbers in (xs, ys))]

    def _inside(self, numbers: Sequence[float], view: View, what: str, rule: str) -> list[float]:
        """x, y, x, y, ... cut off at the edges of the view; an OperationError if that is more than `OVERSHOOT`."""
        if not all(math.isfinite(number) for number in numbers):
            raise OperationError(f"the {what} {show(list(numbers))} is not finite; {rule}.")
        inside = []
        for place, number in enumerate(numbers):
            most = self.extent(view.size)[place % 2]
            if not -OVERSHOOT * most <= number <= (1 + OVERSHOOT) * most:
                raise OperationError(f"the {what} {show(list(numbers))} leaves image {view.index}; {rule}.")
            inside.append(min(max(number, 0), most))
        if self.clipped is not None and inside != list(numbers):
            self.clipped.append(tuple(numbers))
        return inside

    def _panel(self, x: float, y: float, view: View) -> tuple[Panel, Box]:
        """The panel at a point and its place, both in this frame."""
        for panel in view.panels:
            left, top, right, bottom = place = self._place(panel, view)
            if left <= x <= right and top <= y <= bottom:
                return panel, place
        raise OperationError(
            f"the box lies across both pictures of image {view.index}; expected one inside a single picture. "
            "Choose a box in one of them."
        )

    def _place(self, panel: Panel, view: View) -> Box:
        if not view.is_comparison:
            return (0, 0, *self.extent(view.size))
        (width, height), (left, top, right, bottom) = self.extent(view.size), panel.place
        across, down = width / view.size[0], height / view.size[1]
        return left * across, top * down, right * across, bottom * down


_BOXES = "Boxes are [x1, y1, x2, y2] in"
FRAMES: dict[str, Frame] = {
    name: Frame(name=name, limit=limit, decimals=decimals, description=f"{_BOXES} {meaning}.")
    for name, limit, decimals, meaning in (
        ("unit", 1, 4, "fractions of the target image's width and height, from 0 to 1"),
        ("pixel", None, 0, "pixels of the target image as shown"),
        ("permille", 1000, 0, "integers from 0 to 1000, relative to the target image"),
    )
}


def get_frame(name: str) -> Frame:
    """The frame of that name; ValueError if there is none."""
    return choose(FRAMES, name, "coordinates=", "Choose the frame the model was trained with.")
