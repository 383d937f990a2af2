"""Procedural samples: "How many red circles are there?", where some of them may be too small for the first view.

Every scene has a tray. In an easy scene an object like all others lies in it. In a hard one it looks empty: it holds
stamps, objects of about ten source pixels on a mat whose colour makes the mean of every 8x8 block that of the empty
tray. The first view is the exact 8x8 mean, so it has the same bytes whatever stamps there are, or none.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw

from pxr_env.media import ImageSource
from pxr_env.synthetic.scenes import (
    COLOURS,
    Budget,
    Colour,
    Place,
    ProceduralSamples,
    around,
    check_range,
    grainy,
    hide,
    needs_operation,
    noise_corner,
    scene_of,
    square_side,
)
from pxr_env.types import Sample

#: Source pixels per overview pixel, on each axis.
REDUCTION = 8
#: Shapes by name, with their plural in questions.
SHAPES = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
#: The inside of a tray, and its frame.
TRAY_FILL, TRAY_FRAME = (150, 150, 150), (88, 90, 96)

# In source pixels, on the grid of the reduction: a stamp with its mat, the way from one to the next, a tray.
_STAMP, _PITCH, _MARGIN, _FRAME = 16, 24, 8, 8
_SLOTS = 5
_TRAY = 2 * _MARGIN + (_SLOTS - 1) * _PITCH + _STAMP
_OBJECT_IN_TRAY = 104
_SMALLEST_CELL = 240
_DEFAULT_SIDE = 6


# Shape and colour.
_Kind = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Object:
    shape: str
    colour: str
    box: Place
    hidden: bool

    @classmethod
    def at(cls, kind: _Kind, x: int, y: int, size: int, *, hidden: bool = False) -> _Object:
        return cls(shape=kind[0], colour=kind[1], box=(x, y, x + size, y + size), hidden=hidden)


@dataclass(frozen=True, kw_only=True, slots=True)
class _CountScene:
    """A scene as numbers; the objects that are asked for come first."""

    corner: tuple[int, int]
    shade: Colour
    tray: Place
    shape: str
    colour: str
    hard: bool
    objects: tuple[_Object, ...]

    @property
    def asked(self) -> list[_Object]:
        return [item for item in self.objects if (item.shape, item.colour) == (self.shape, self.colour)]


@dataclass(frozen=True, kw_only=True)
class SyntheticCount(ProceduralSamples):
    """The data of `pxr/SyntheticCount-v0`: count objects of one shape and colour, some of which only a zoom shows.

    ## Description
    A counterpart of counting in photographs (TallyQA). A square scene holds objects of four shapes and three colours
    over grain, and one tray. In an easy scene the tray holds an object like all others. In a hard one it looks empty
    and holds stamps: tiny objects on a mat, some of those asked for and others. A sample is a pure function of the
    arguments (except `num_samples`), the split and the index. Train and test have no scene in common.

    ## Observation
    One image of 168x168 pixels by default (36 vision tokens), and "How many red circles are there, tiny ones
    included?". The question is the same for easy and hard scenes.

    ## Action
    `zoom_in`. One zoom into the tray shows everything in it.

    ## Reward
    1 for the number (scorer "number"), else 0. In easy and in hard scenes alike every number from 1 to `max_count` is
    equally frequent; of the objects asked for in a hard scene, from 1 to `max_hidden` are hidden, equally often where
    there are enough.

    ## Difficulty
    `hard_fraction`; `max_count` and `n_distractors` (more to count, more to tell apart); `max_hidden`; `grid` (smaller
    objects).

    ## Certified need
    The mean of every 8x8 block of a tray with stamps is the fill of the tray, and the first view is the exact 8x8
    mean. `needs_operation` is computed for each sample: the first view has the same bytes without the hidden objects
    that are asked for. A budget that shows another scale warns.

    ## Oracle
    `evidence_box` is the box around the hidden objects that are asked for, at most 112x112 source pixels, so that one
    zoom shows all of them enlarged; in an easy scene, the box around all that are asked for. `metadata` holds "shape",
    "colour", "tray" (its box) and "objects" (each with "shape", "colour", "box" and "hidden"), in source pixels.

    Args:
        hard_fraction: chance that a scene is hard.
        max_count: the largest answer.
        max_hidden: how many of the objects asked for are hidden in a hard scene, at most.
        n_distractors: other objects outside of the tray, and at most half as many stamps in it.
        grid: cells per side, one object each.
        min_pixels: pixel budget of the environment that shows the samples, see `fit_size`; by default 6x6 tokens.
        max_pixels: the same; the side of the scenes follows from it.
        size_multiple: the same.

    Raises:
        ValueError: an argument is out of range, or the cells are too few or too small for the objects.
    """

    scorer: ClassVar[str] = "number"
    seed: ClassVar[tuple[int, ...]] = (1,)

    max_count: int = 8
    max_hidden: int = 4
    n_distractors: int = 5
    grid: int = 4
    min_pixels: int | None = None
    max_pixels: int | None = None
    size_multiple: int = 28

    def _check(self) -> None:
        check_range("grid", self.grid, 2, 16)
        most = self.grid**2 - 1
        check_range("max_count", self.max_count, 1, most)
        check_range("max_hidden", self.max_hidden, 1, 8)
        check_range("n_distractors", self.n_distractors, 0, most)
        if self.max_count + self.n_distractors > most:
            raise ValueError(
                f"got max_count={self.max_count} and n_distractors={self.n_distractors} with grid={self.grid}, "
                f"expected at most grid**2 - 1 = {most} objects beside the tray. Raise grid."
            )
        budget = self.budget
        if self.cell < _SMALLEST_CELL:
            raise ValueError(
                f"got max_pixels={budget.max_pixels} and size_multiple={self.size_multiple} with grid={self.grid}, "
                f"cells of {self.cell // REDUCTION} pixels; expected at least {_SMALLEST_CELL // REDUCTION}, the room "
                "a tray needs. Raise max_pixels."
            )
        remedy = f"Use min_pixels={self.side}**2 or less."
        budget.warn_if_inexact((self.side, self.side), REDUCTION, "hidden objects", remedy)

    @property
    def side(self) -> int:
        """Side of the overview in pixels."""
        return square_side(max_pixels=self.budget.max_pixels, step=self.size_multiple)

    @property
    def cell(self) -> int:
        """Side of a cell in source pixels, on the grid of the reduction."""
        return self.side // self.grid * REDUCTION

    @classmethod
    def budget_of(cls, given: Mapping[str, Any]) -> Budget:
        least, most, size_multiple = given.get("min_pixels"), given.get("max_pixels"), given.get("size_multiple", 28)
        most = (_DEFAULT_SIDE * size_multiple) ** 2 if most is None else most
        least = min(most, square_side(max_pixels=most, step=size_multiple) ** 2) if least is None else least
        return Budget(min_pixels=least, max_pixels=most, size_multiple=size_multiple)

    def _sample(self, index: int) -> Sample:
        scene = scene_of(self, index)
        asked = scene.asked
        deciding = [item.box for item in asked if item.hidden or not scene.hard]
        return Sample(
            sample_id=f"{self.split}-{index}",
            sources=(self._source(index),),
            needs_operation=needs_operation(self, index),
            question=f"How many {scene.colour} {SHAPES[scene.shape]} are there, tiny ones included?",
            answers=(str(len(asked)),),
            evidence_box=around(deciding),
            category="hard" if scene.hard else "easy",
            metadata={
                "shape": scene.shape,
                "colour": scene.colour,
                "tray": scene.tray,
                "objects": [asdict(item) for item in scene.objects],
            },
        )

    def _source(self, index: int) -> ImageSource:
        return self._image(index, self.draw, (self.side * REDUCTION, self.side * REDUCTION))

    def _is_hidden(self, index: int) -> bool:
        hidden = [item.box for item in scene_of(self, index).asked if item.hidden]
        if not hidden:
            return False
        image = self._source(index).image
        without = image.copy()
        for box in hidden:
            without.paste(TRAY_FILL, box)
        return np.array_equal(self.budget.show(image), self.budget.show(without))

    def _scene(self, index: int) -> _CountScene:
        rng = self._rng(index)
        corner = noise_corner(rng, self.side * REDUCTION, self.split)
        red, green, blue = rng.integers(180, 206, 3).tolist()
        hard = bool(rng.random() < self.hard_fraction)
        kinds = [(shape, colour) for shape in SHAPES for colour in COLOURS]
        asked = kinds.pop(int(rng.integers(len(kinds))))
        total = int(rng.integers(1, self.max_count + 1))
        n_hidden = int(rng.integers(1, min(self.max_hidden, total) + 1)) if hard else 0
        cells = rng.permutation(self.grid**2)
        tray = self._place_tray(rng, int(cells[0]))
        large = [asked] * (total - n_hidden) + _others(rng, kinds, asked, self.n_distractors)
        large = [large[int(number)] for number in rng.permutation(len(large))]
        objects = []
        if not hard and large:
            middle = (_TRAY - _OBJECT_IN_TRAY) // 2
            objects.append(_Object.at(large.pop(), tray[0] + middle, tray[1] + middle, _OBJECT_IN_TRAY))
        objects += [self._in_cell(rng, kind, int(cell)) for kind, cell in zip(large, cells[1:], strict=False)]
        if hard:
            small = [asked] * n_hidden + _others(rng, kinds, asked, int(rng.integers(self.n_distractors // 2 + 1)))
            for kind, slot in zip(small, rng.permutation(_SLOTS**2).tolist(), strict=False):
                row, column = divmod(slot, _SLOTS)
                x, y = tray[0] + _MARGIN + column * _PITCH, tray[1] + _MARGIN + row * _PITCH
                objects.append(_Object.at(kind, x, y, _STAMP, hidden=True))
        objects.sort(key=lambda item: (item.shape, item.colour) != asked)
        return _CountScene(
            corner=corner,
            shade=(red, green, blue),
            tray=tray,
            shape=asked[0],
            colour=asked[1],
            hard=hard,
            objects=tuple(objects),
        )

    def _place_tray(self, rng: np.random.Generator, cell: int) -> Place:
        row, column = divmod(cell, self.grid)
        room = (self.cell - _TRAY - 2 * _FRAME) // REDUCTION
        x, y = (number * self.cell + _FRAME + REDUCTION * int(rng.integers(room + 1)) for number in (column, row))
        return x, y, x + _TRAY, y + _TRAY

    def _in_cell(self, rng: np.random.Generator, kind: _Kind, cell: int) -> _Object:
        row, column = divmod(cell, self.grid)
        size = int(rng.integers(self.cell * 2 // 5, self.cell * 2 // 3))
        # A hand's breadth to the neighbours.
        room = self.cell - size - REDUCTION
        x, y = (number * self.cell + REDUCTION // 2 + int(rng.integers(room)) for number in (column, row))
        return _Object.at(kind, x, y, size)

    def draw(self, index: int) -> Image.Image:
        """Draws a scene, RGB."""
        scene, side = scene_of(self, index), self.side * REDUCTION
        image = Image.fromarray(grainy((side, side), scene.corner, scene.shade))
        draw = ImageDraw.Draw(image)
        x1, y1, x2, y2 = scene.tray
        draw.rectangle((x1 - _FRAME, y1 - _FRAME, x2 + _FRAME - 1, y2 + _FRAME - 1), fill=TRAY_FRAME)
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=TRAY_FILL)
        for item in scene.objects:
            if item.hidden:
                image.paste(_stamp(item.shape, item.colour), item.box)
            else:
                _draw_shape(draw, item.shape, item.box, COLOURS[item.colour])
        return image


def _others(rng: np.random.Generator, kinds: list[_Kind], asked: _Kind, n: int) -> list[_Kind]:
    """Draws kinds that are not asked for, mostly such that share the shape or the colour."""
    near = [kind for kind in kinds if kind[0] == asked[0] or kind[1] == asked[1]]
    pools = [near if rng.random() < 0.75 else kinds for _ in range(n)]
    return [pool[int(rng.integers(len(pool)))] for pool in pools]


@functools.lru_cache(maxsize=len(SHAPES) * len(COLOURS))
def _stamp(shape: str, colour: str) -> Image.Image:
    """A tiny object on its mat. Do not change it."""
    cover = Image.new("L", (_STAMP, _STAMP))
    _draw_shape(ImageDraw.Draw(cover), shape, (2, 2, _STAMP - 2, _STAMP - 2), 255)
    return Image.fromarray(hide(TRAY_FILL, COLOURS[colour], np.asarray(cover) / 255, reduction=REDUCTION))


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, box: Place, fill: Colour | int) -> None:
    x1, y1, x2, y2 = box[0], box[1], box[2] - 1, box[3] - 1
    if shape == "circle":
        draw.ellipse((x1, y1, x2, y2), fill=fill)
    elif shape == "square":
        # Of about the area of a circle in the same box.
        rest = max(1, (x2 - x1) // 12)
        draw.rectangle((x1 + rest, y1 + rest, x2 - rest, y2 - rest), fill=fill)
    elif shape == "triangle":
        draw.polygon(((x1, y2), ((x1 + x2) / 2, y1), (x2, y2)), fill=fill)
    else:
        third = (x2 - x1 + 1) // 3
        draw.rectangle((x1 + third, y1, x2 - third, y2), fill=fill)
        draw.rectangle((x1, y1 + third, x2, y2 - third), fill=fill)
