"""Coordinate frames: what the four numbers of a box mean. An environment declares one and never guesses.

All frames refer to the image as it was *shown* to the model: `unit` from 0 to 1, `permille` from 0 to 1000,
`pixel` from 0 to the shown width and height.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pxr_env.errors import OperationError, did_you_mean, quote, show
from pxr_env.media import Box, Size
from pxr_env.types import View

#: Unit coordinates are written with this many decimals.
UNIT_DECIMALS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One coordinate frame.

    Args:
        name: "unit", "pixel" or "permille".
        limit: the number at the right and at the lower edge, or None for the shown size in pixels.
        decimals: decimals of the numbers written in this frame.
        description: the sentence about it in the system prompt.
    """

    name: str
    limit: int | None
    decimals: int
    description: str

    def extent(self, size: Size) -> Size:
        """Returns the numbers at the right and the lower edge of an image shown at `size`."""
        return size if self.limit is None else (self.limit, self.limit)

    def to_source(self, numbers: Sequence[float], view: View) -> Box:
        """Maps a box the model wrote for `view` to source pixels.

        Raises:
            OperationError: it is no box inside the view, or covers less than one source pixel. The text is for
                the model.
        """
        width, height = self.extent(view.size)
        rule = f"expected [x1, y1, x2, y2] with 0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height} ({self.name})"
        if len(numbers) != 4:
            raise OperationError(f"the box has {len(numbers)} numbers; {rule}.")
        if not all(math.isfinite(number) for number in numbers):
            raise OperationError(f"the box {show(list(numbers))} is not finite; {rule}.")
        x1, y1, x2, y2 = numbers
        if not all(0 <= x <= width for x in (x1, x2)) or not all(0 <= y <= height for y in (y1, y2)):
            raise OperationError(f"the box {show(list(numbers))} leaves image {view.index}; {rule}.")
        if x1 >= x2 or y1 >= y2:
            raise OperationError(f"the box {show(list(numbers))} is empty; {rule}.")
        left, top, right, bottom = view.box
        # Interpolating from the nearer edge keeps the edges of the view exact.
        box = (
            _between(left, right, x1, width),
            _between(top, bottom, y1, height),
            _between(left, right, x2, width),
            _between(top, bottom, y2, height),
        )
        if box[2] - box[0] < 1 or box[3] - box[1] < 1:
            raise OperationError(
                f"the box {show(list(numbers))} covers {box[2] - box[0]:.2f}x{box[3] - box[1]:.2f} pixels of the "
                "original image; expected at least 1x1. Choose a larger box."
            )
        return box

    def from_source(self, box: Box, view: View) -> list[float]:
        """Writes a box of source pixels in this frame: the smallest one that covers the part of it inside `view`.

        Args:
            box: x1, y1, x2, y2 in source pixels of `view.source`.
            view: the shown image the numbers refer to.

        Raises:
            ValueError: `box` and `view` do not overlap.
        """
        left, top, right, bottom = view.box
        x1, y1, x2, y2 = max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom)
        if x1 >= x2 or y1 >= y2:
            raise ValueError(f"the box {box} came; expected one that overlaps the view {view.box}.")
        width, height = self.extent(view.size)
        scale = 10**self.decimals

        def outward(number: float, rounding: Callable[[float], int]) -> float:
            # What is a hair beside a grid line because of floating point lies on it.
            steps = number * scale
            whole = round(steps) if abs(steps - round(steps)) < 1e-6 else rounding(steps)
            return whole / scale if self.decimals else whole

        return [
            outward((x1 - left) * width / (right - left), math.floor),
            outward((y1 - top) * height / (bottom - top), math.floor),
            outward((x2 - left) * width / (right - left), math.ceil),
            outward((y2 - top) * height / (bottom - top), math.ceil),
        ]


def _between(low: float, high: float, number: float, limit: int) -> float:
    if number == limit:
        return high
    return min(low + (high - low) * number / limit, high)


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
    if name not in FRAMES:
        raise ValueError(
            f'coordinates="{quote(name)}" came; expected one of {", ".join(FRAMES)}.{did_you_mean(name, FRAMES)} '
            "Choose the frame the model was trained with."
        )
    return FRAMES[name]
