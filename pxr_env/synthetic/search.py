"""Procedural samples: "What letter is in the red box?", easy at first sight or certified to need an operation.

The source is a square, four times the side of its overview. One *unit* is one pixel of the overview, a block of 4x4
source pixels. Easy letters are dark. Hard ones are a texture around the fill colour whose mean over every 4x4 block
*is* the fill colour, so that no model, however good its eyes, can read them in an overview that is the exact 4x4 mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pxr_env.media import ImageSource
from pxr_env.synthetic.scenes import (
    COLOURS,
    LETTER_BOX,
    LETTERS,
    Budget,
    Place,
    ProceduralSamples,
    around,
    check_range,
    draw_letter_box,
    grainy,
    needs_operation,
    noise_corner,
    scene_of,
    square_side,
)
from pxr_env.types import Sample
from pxr_env.views import Box

#: Source pixels per overview pixel, on each axis.
REDUCTION = 4
#: The letter that hard answers are more often than others (`letter_prior`).
FREQUENT_LETTER = "T"
# Scenes grow in steps of this many units per cell. In the smallest a box is 56x72 source pixels.
_CELL_STEP = 28
_CLUTTER = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class _PlacedBox:
    colour: str
    letter: str
    hard: bool
    cell: tuple[int, int]
    box: Place

    def told(self) -> dict[str, Any]:
        """What the metadata of a sample say of it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class _SearchScene:
    """A scene as numbers; clutter is x, y, width, height, grey, and the box that is asked for comes first."""

    corner: tuple[int, int]
    shade: int
    clutter: tuple[tuple[int, int, int, int, int], ...]
    boxes: tuple[_PlacedBox, ...]


@dataclass(frozen=True, kw_only=True)
class SyntheticSearch(ProceduralSamples):
    """The data of `pxr/SyntheticSearch-v0`: read a letter in a coloured box, at first sight or after a zoom.

    ## Description
    A counterpart of visual search in photographs (V*). The source is a square with `grid` x `grid` cells. Boxes in
    distinct cells and colours carry one letter each, over noise and grey clutter. A sample is a pure function of the
    arguments (except `num_samples`), the split and the index. Train and test have no scene in common.

    ## Observation
    One image of 84x84 pixels by default, one vision token per cell, and "What letter is in the red box?".

    ## Action
    `zoom_in`. One zoom into the cell of the box is enough.

    ## Reward
    1 for the letter (scorer "exact"), else 0. Letters are equally frequent, except that a hard letter is "T" with an
    extra chance of `letter_prior`, so that guessing pays a little.

    ## Difficulty
    `hard_fraction`; `grid` and `n_boxes` (more places to look); `letter_prior` (what guessing yields).

    ## Certified need
    A hard letter is a texture whose mean over every 4x4 block of the source is the colour around it, and the first
    view is the exact 4x4 mean: it has the same bytes whatever the letter. `needs_operation` is computed from the bytes
    of each sample. A budget that shows another scale gives this up: it warns, and `needs_operation` becomes False
    where the letter leaves a trace.

    ## Oracle
    `evidence_box` is the box with the letter. `metadata` holds "boxes" (the one asked for first; each with "colour",
    "letter", "hard", "cell" as column and row, and "box" in source pixels) and "cell_size" in source pixels.

    Args:
        hard_fraction: chance that the letter asked for is hard; each other letter is hard with chance 0.5.
        letter_prior: extra chance that a hard letter asked for is a "T", so that guessing pays a little.
        grid: cells per side.
        n_boxes: boxes in a scene, 1 to 3.
        min_pixels: pixel budget of the environment that shows the samples, see `fit_size`.
        max_pixels: the same; the side of the scenes follows from it.
        size_multiple: the same.

    Raises:
        ValueError: an argument is out of range, or the cells are too small for letters.
    """

    scorer: ClassVar[str] = "exact"
    seed: ClassVar[tuple[int, ...]] = ()

    letter_prior: float = 0.3
    grid: int = 3
    n_boxes: int = 3
    min_pixels: int = 84 * 84
    max_pixels: int = 84 * 84
    size_multiple: int = 28

    def _check(self) -> None:
        check_range("letter_prior", self.letter_prior, 0, 1, integer=False)
        check_range("grid", self.grid, 1, 16)
        check_range("n_boxes", self.n_boxes, 1, min(len(COLOURS), self.grid**2))
        budget, side = self.budget, self.side
        if side // self.grid < _CELL_STEP:
            raise ValueError(
                f"got size_multiple={self.size_multiple} and max_pixels={self.max_pixels} with grid={self.grid}, cells "
                f"of {side // self.grid} pixels; expected at least {_CELL_STEP}, the room a letter needs. Raise "
                "max_pixels."
            )
        remedy = f"Use min_pixels=max_pixels={side}**2 for certified ones."
        budget.warn_if_inexact((side, side), REDUCTION, "hard letters", remedy)

    @property
    def budget(self) -> Budget:
        return Budget(min_pixels=self.min_pixels, max_pixels=self.max_pixels, size_multiple=self.size_multiple)

    @property
    def side(self) -> int:
        """Side of the overview in pixels."""
        return _overview_side(self.grid, self.max_pixels, self.size_multiple)

    @property
    def cell(self) -> int:
        """Side of a cell in source pixels."""
        return self.side * REDUCTION // self.grid

    @property
    def unit(self) -> int:
        """Source pixels of a unit of a letter's box: it grows with the scene."""
        return self.side // self.grid // _CELL_STEP * REDUCTION

    @classmethod
    def budget_of(cls, given: Mapping[str, Any]) -> Budget:
        """Returns the budget of an environment that shows samples made with `given`.

        By default one vision token per cell. A larger `max_pixels` is narrowed to the overview that fits into it, since
        a view in between would be no exact mean of its source. A `min_pixels` beyond the overview is left as it is (and
        the samples warn).
        """
        grid, size_multiple = given.get("grid", 3), given.get("size_multiple", 28)
        least, most = given.get("min_pixels"), given.get("max_pixels")
        most = (grid * size_multiple) ** 2 if most is None else most
        overview = _overview_side(grid, most, size_multiple) ** 2
        least = overview if least is None else least
        most = overview if least <= overview else most
        return Budget(min_pixels=least, max_pixels=most, size_multiple=size_multiple)

    @classmethod
    def environment_defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return cls.budget_of(given).defaults(max_turns=3)

    def _sample(self, index: int) -> Sample:
        boxes = scene_of(self, index).boxes
        target = boxes[0]
        return Sample(
            sample_id=f"{self.split}-{index}",
            sources=(self._source(index),),
            needs_operation=needs_operation(self, index),
            question=f"What letter is in the {target.colour} box?",
            answers=(target.letter,),
            evidence_box=around([target.box]),
            category="hard" if target.hard else "easy",
            metadata={"boxes": [box.told() for box in boxes], "cell_size": self.cell},
        )

    def _source(self, index: int) -> ImageSource:
        return self._image(index, self.draw, (self.side * REDUCTION, self.side * REDUCTION))

    def _is_hidden(self, index: int) -> bool:
        target, image = scene_of(self, index).boxes[0], self._source(index).image
        blank = image.copy()
        blank.paste(COLOURS[target.colour], target.box)
        return np.array_equal(self.budget.show(image), self.budget.show(blank))

    def _scene(self, index: int) -> _SearchScene:
        rng, side = self._rng(index), self.side * REDUCTION
        corner, shade = noise_corner(rng, side, self.split), int(rng.integers(110, 170))
        smallest, largest = side // 56, side * 60 // 336
        clutter = []
        for _ in range(_CLUTTER):
            width, height = rng.integers(smallest, largest, 2).tolist()
            x, y = rng.integers(0, side - largest, 2).tolist()
            clutter.append((x, y, width, height, int(rng.integers(70, 220))))
        return _SearchScene(corner=corner, shade=shade, clutter=tuple(clutter), boxes=tuple(self._place_boxes(rng)))

    def _place_boxes(self, rng: np.random.Generator) -> list[_PlacedBox]:
        """Boxes of distinct colours in distinct cells, aligned to half of their cell; the target first."""
        names = list(COLOURS)
        colours, cells = rng.permutation(len(names)), rng.permutation(self.grid**2)
        # Half a cell, on the grid of the reduction.
        unit, half = self.unit, self.cell // (2 * REDUCTION) * REDUCTION
        boxes = []
        for number in range(self.n_boxes):
            is_target = number == 0
            hard = bool(rng.random() < (self.hard_fraction if is_target else 0.5))
            letter = LETTERS[int(rng.integers(len(LETTERS)))]
            if is_target and hard and rng.random() < self.letter_prior:
                letter = FREQUENT_LETTER
            width, height = (side * unit for side in LETTER_BOX)
            row, column = divmod(int(cells[number]), self.grid)
            x, y = (
                self.cell * cell + half * int(rng.integers(0, 1 + (side <= half)))
                for cell, side in ((column, width), (row, height))
            )
            box = (x, y, x + width, y + height)
            colour = names[int(colours[number])]
            boxes.append(_PlacedBox(colour=colour, letter=letter, hard=hard, cell=(column, row), box=box))
        return boxes

    def draw(self, index: int) -> np.ndarray:
        """Draws a scene, (S, S, 3) uint8."""
        scene, side = scene_of(self, index), self.side * REDUCTION
        pixels = grainy((side, side), scene.corner, (scene.shade,) * 3)
        for x, y, width, height, grey in scene.clutter:
            pixels[y : y + height, x : x + width] = grey
        for placed in scene.boxes:
            fill, unit = COLOURS[placed.colour], self.unit
            draw_letter_box(pixels, placed.box, fill, placed.letter, hard=placed.hard, unit=unit, reduction=REDUCTION)
        return pixels


def _overview_side(grid: int, max_pixels: int, size_multiple: int) -> int:
    """The side of the overview: the largest multiple of `grid * size_multiple` whose square is in the budget.

    Cells then lie on the grid of vision tokens. Raises ValueError if not even the smallest one is in the budget.
    """
    step = grid * size_multiple
    side = square_side(max_pixels=max_pixels, step=step)
    if side == 0:
        raise ValueError(
            f"got max_pixels={max_pixels} with grid={grid} and size_multiple={size_multiple}, expected at least "
            f"(grid * size_multiple)**2 = {step**2}, one vision token per cell. Raise max_pixels or lower grid."
        )
    return side


def cell_box(sample: Sample, cell: tuple[int, int]) -> Box:
    """Returns the box in source pixels of a cell (column, row) of a synthetic sample.

    Raises:
        ValueError: the sample has no such cell.
    """
    size = int(sample.metadata["cell_size"])
    grid = sample.sources[0].size[0] // size
    column, row = cell
    if not (0 <= column < grid and 0 <= row < grid):
        raise ValueError(f"got the cell {cell}, expected column and row from 0 to {grid - 1}.")
    return (float(column * size), float(row * size), float((column + 1) * size), float((row + 1) * size))
