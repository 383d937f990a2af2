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

#: Unit coordinates are written with this many decimals.
UNIT_DECIMALS = 4
#: How far beyond an edge a box may reach and is cut off there, as a share of the image's side. Models overshoot by a
#: pixel or two, and mean the edge.
OVERSHOOT = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One coordinate frame.

    Args:
        name: "unit", "pixel" or "permille".
        limit: the number at the right and at the lower edge, or None for the shown size in pixels.
        decimals: decimals of the numbers written in this frame.
        description: the sentence about it in the system prompt.
        clipped: where boxes and points are noted that were cut off at an edge; None to note nothing.
    """

    name: str
    limit: int | None
    decimals: int
    description: str
    clipped: list[Sequence[float]] | None = field(default=None, compare=False, repr=False)

    def extent(self, size: Size) -> Size:
        """Returns the numbers at the right and the lower edge of an image shown at `size`."""
        return size if self.limit is None else (self.limit, self.limit)

    def region(self, numbers: Sequence[float], view: View, *, padding: float = 0.0) -> Region:
        """Returns what is inside a box that the model wrote for `view`.

        What overshoots an edge by at most `OVERSHOOT` is cut off there, and noted in `clipped`.

        Args:
            numbers: the box.
            view: the shown image it refers to.
            padding: what is added on each side, as a share of the picture's width and height; cut off at its edges.

        Raises:
            OperationError: it is no box inside the view, lies across both pictures of a comparison, or covers less
                than one source pixel. The text is for the model.
        """
        width, height = self.extent(view.size)
        rule = f"expected [x1, y1, x2, y2] with 0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height} ({self.name})"
        if len(numbers) != 4:
            raise OperationError(f"the box has {len(numbers)} numbers; {rule}.")
        x1, y1, x2, y2 = self._inside(numbers, view, "box", rule)
        for low, high, what in ((x1, x2, "x1 is not less than x2"), (y1, y2, "y1 is not less than y2")):
            if low >= high:
                raise OperationError(f"the box {show(list(numbers))} is empty, {what}; {rule}.")
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
        """Returns the source point of a point [x, y] that the model wrote for a view of a single region.

        What overshoots an edge is cut off as in `region`.

        Raises:
            OperationError: it is no point inside the view. The text is for the model.
        """
        width, height = self.extent(view.size)
        rule = f"expected [x, y] with 0 <= x <= {width} and 0 <= y <= {height} ({self.name})"
        if len(numbers) != 2:
            raise OperationError(f"the point has {len(numbers)} numbers; {rule}.")
        x, y = self._inside(numbers, view, "point", rule)
        return view.only_region().quad.at((x, y), (width, height))

    def from_source(self, box: Box, view: View, *, source: int | None = None) -> list[float]:
        """Writes a box of source pixels in this frame: the smallest one that covers the part of it inside `view`.

        Args:
            box: x1, y1, x2, y2 in source pixels.
            view: the shown image the numbers refer to.
            source: number of the source; by default that of the view.

        Raises:
            ValueError: `box` and `view` do not overlap.
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

        return [
            outward(min(xs), math.floor),
            outward(min(ys), math.floor),
            outward(max(xs), math.ceil),
            outward(max(ys), math.ceil),
        ]

    def _inside(self, numbers: Sequence[float], view: View, what: str, rule: str) -> list[float]:
        """Returns x, y, x, y, ... cut off at the edges of the view.

        Raises:
            OperationError: they are not finite, or overshoot an edge by more than `OVERSHOOT`.
        """
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


FRAMES: dict[str, Frame] = {
    frame.name: frame
    for frame in (
        Frame(
            name="unit",
            limit=1,
            decimals=UNIT_DECIMALS,
            description="Boxes are [x1, y1, x2, y2] in fractions of the target image's width and height, from 0 to 1.",
        ),
        Frame(
            name="pixel",
            limit=None,
            decimals=0,
            description="Boxes are [x1, y1, x2, y2] in pixels of the target image as shown.",
        ),
        Frame(
            name="permille",
            limit=1000,
            decimals=0,
            description="Boxes are [x1, y1, x2, y2] in integers from 0 to 1000, relative to the target image.",
        ),
    )
}


def get_frame(name: str) -> Frame:
    """Returns the frame of that name.

    Raises:
        ValueError: there is no such frame.
    """
    return choose(FRAMES, name, "coordinates=", "Choose the frame the model was trained with.")
