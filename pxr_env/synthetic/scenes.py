"""What all procedural samples share: ids, arguments, the pixel budget of the first view, and what they are drawn with.

Paint on a flat fill changes the mean of a block of pixels. `hide` pays for it in the rest of the block, as a glow
around the paint that makes the mean of every block the fill again, exactly. A picture reduced by the side of the blocks
then has the same bytes with the paint and without it, while at full resolution the paint stands out all the more.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, overload

import numpy as np
from PIL import Image

from pxr_env.errors import DataError, hints_of, represent, typed_arguments
from pxr_env.media import ImageSource, check_budget, cut, fit_size
from pxr_env.types import Sample
from pxr_env.views import Box, Size

Colour = tuple[int, int, int]
#: x1, y1, x2, y2 in pixels.
Place = tuple[int, int, int, int]

SPLITS = ("train", "test")
#: Fill colours, about as light as the background: a thing is told by its hue, not by being dark.
COLOURS: dict[str, Colour] = {"red": (245, 80, 80), "green": (70, 225, 90), "blue": (90, 130, 250)}
LETTERS = "ACHLTX"
#: Hard letters differ from the fill colour by plus and minus this much, or as much as a channel has room for.
TEXTURE_AMPLITUDE = 70
#: Grey of easy letters.
INK = 15
# How a letter sits in its box, in units: the side of a glyph pixel and the margin around the glyph of 5x7.
_GLYPH_PIXEL, _MARGIN = 2, 2
#: Width and height of a box with a letter, in units.
LETTER_BOX: Size = (5 * _GLYPH_PIXEL + 2 * _MARGIN, 7 * _GLYPH_PIXEL + 2 * _MARGIN)
# One string per row.
_FONT = {
    "A": ("01110", "10001", "10001", "11111", "10001", "10001", "10001"),
    "C": ("01111", "10000", "10000", "10000", "10000", "10000", "01111"),
    "H": ("10001", "10001", "10001", "11111", "10001", "10001", "10001"),
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "T": ("11111", "00100", "00100", "00100", "00100", "00100", "00100"),
    "X": ("10001", "10001", "01010", "00100", "01010", "10001", "10001"),
}
GLYPHS = {letter: np.array([[pixel == "1" for pixel in row] for row in rows]) for letter, rows in _FONT.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The pixel budget in which an environment shows an image first; see `fit_size`."""

    min_pixels: int
    max_pixels: int
    size_multiple: int

    def __post_init__(self) -> None:
        check_budget(**asdict(self))

    def size(self, source: Size) -> Size:
        """Returns the size at which a source of that size is shown."""
        least, most, multiple = self.min_pixels, self.max_pixels, self.size_multiple
        return fit_size(*source, min_pixels=least, max_pixels=most, size_multiple=multiple)

    def defaults(self, *, max_turns: int = 4) -> dict[str, Any]:
        """Returns the arguments of an environment that shows images in this budget; one turn is for the answer."""
        limits = {"operations": ("zoom_in",), "max_turns": max_turns, "max_operations": max_turns - 1}
        return limits | asdict(self)

    def show(self, picture: Image.Image | ImageSource | np.ndarray) -> np.ndarray:
        """Returns the first view of a picture, as the environment shows it."""
        image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        width, height = image.size
        return cut(image, (0, 0, width, height), self.size((width, height)))

    def exact_overviews(self, reduction: int) -> list[Size]:
        """Returns the sizes in pixels of overviews that show a source `reduction` times their size without a rest."""
        tokens, multiple = self.max_pixels // self.size_multiple**2, self.size_multiple
        # The budget is used up: fewer rows would be shown larger, more rows smaller.
        shapes = (
            (columns * multiple, rows * multiple)
            for columns in range(1, tokens + 1)
            for rows in range(max(1, tokens // (columns + 1)), tokens // columns + 1)
        )
        return [
            (width, height)
            for width, height in shapes
            if max(width, height) <= 8 * min(width, height)
            and self.size((width * reduction, height * reduction)) == (width, height)
        ]

    def warn_if_inexact(self, overview: Size, reduction: int, what: str, remedy: str) -> None:
        """Warns where no exact mean of the sources is shown, so that what is hidden may leave a trace."""
        source = overview[0] * reduction, overview[1] * reduction
        shown = self.size(source)
        if shown != overview:
            warnings.warn(
                f"the first view is {shown[0]}x{shown[1]} pixels, no exact mean of the {source[0]}x{source[1]} source: "
                f"{what} may be readable in it (needs_operation says which). {remedy}",
                UserWarning,
                # Past the check and the constructor, to the line that calls it.
                stacklevel=5,
            )


@dataclass(frozen=True, kw_only=True)
class ProceduralSamples(ABC):
    """The samples of a split, "train-0", "train-1", ... or "test-0", ..., each made when it is asked for.

    A sample is a pure function of the fields (except `num_samples`) and its index. Tasks are frozen dataclasses, so
    that caches can know samples by them.

    Args:
        split: "train" or "test".
        num_samples: how many samples there are.
        hard_fraction: chance that a sample is hard.

    Raises:
        ValueError: an argument is out of range.
    """

    #: Where seeds begin; they differ from those of other kinds of scenes.
    seed: ClassVar[tuple[int, ...]]

    split: str = "train"
    num_samples: int = field(default=100_000, compare=False)
    hard_fraction: float = 0.5

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in typed_arguments(hints_of(type(self)), given).items():
            object.__setattr__(self, name, value)
        if not isinstance(self.split, str) or self.split not in SPLITS:
            raise ValueError(f'got split={represent(self.split)}, expected "train" or "test".')
        check_range("num_samples", self.num_samples, 1, 10**9)
        check_range("hard_fraction", self.hard_fraction, 0, 1, integer=False)
        self._check()

    @abstractmethod
    def _check(self) -> None:
        """Raises ValueError for arguments out of range; warns where the first view is no exact mean."""

    @classmethod
    @abstractmethod
    def budget_of(cls, given: Mapping[str, Any]) -> Budget:
        """Returns the pixel budget in which the environment shows a picture of samples made with `given` first."""

    @abstractmethod
    def _sample(self, index: int) -> Sample:
        """Makes a sample; its pixels are rendered when they are needed."""

    @abstractmethod
    def _scene(self, index: int) -> Any:
        """What a sample shows, as numbers."""

    @abstractmethod
    def _is_hidden(self, index: int) -> bool:
        """Whether the first view is the same, byte for byte, without what decides."""

    @property
    def budget(self) -> Budget:
        """The pixel budget in which the environment shows a picture first."""
        return self.budget_of(vars(self))

    @classmethod
    def environment_defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the environment's arguments that suit samples made with `given`."""
        return cls.budget_of(given).defaults()

    def __len__(self) -> int:
        return self.num_samples

    def sample_ids(self) -> Sequence[str]:
        """All sample ids, lazily."""
        return SampleIds(self.split, self.num_samples)

    def get(self, sample_id: str) -> Sample:
        """The sample of that id.

        Raises:
            DataError: there is no such sample.
        """
        if sample_id not in (ids := self.sample_ids()):
            raise DataError(
                f'got sample_id={represent(sample_id)}, expected "{self.split}-0" to '
                f'"{self.split}-{self.num_samples - 1}". Choose one of them, or another split or num_samples.'
            )
        return self._sample(ids.index(sample_id))

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([*self.seed, SPLITS.index(self.split), index])

    def _image(self, index: int, draw: Callable[[int], Image.Image | np.ndarray], size: Size) -> ImageSource:
        """The picture of a sample, drawn when it is needed."""
        return ImageSource(key=(type(self).__name__, self, index), load=functools.partial(draw, index), size=size)


@functools.lru_cache(maxsize=64)
def scene_of(task: ProceduralSamples, index: int) -> Any:
    """Returns what a sample shows, as numbers."""
    return task._scene(index)


@functools.lru_cache(maxsize=16_384)
def needs_operation(task: ProceduralSamples, index: int) -> bool:
    """Returns whether the first view is the same, byte for byte, without what decides."""
    return task._is_hidden(index)


class SampleIds(Sequence[str]):
    """ "train-0" to "train-<n-1>" without storing them."""

    def __init__(self, split: str, n: int) -> None:
        self._split, self._indices = split, range(n)
        self._pattern = re.compile(rf"{split}-(0|[1-9][0-9]{{0,9}})")

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [f"{self._split}-{number}" for number in self._indices[index]]
        return f"{self._split}-{self._indices[index]}"

    def __contains__(self, sample_id: object) -> bool:
        match = self._pattern.fullmatch(sample_id) if isinstance(sample_id, str) else None
        return match is not None and int(match.group(1)) in self._indices

    def index(self, sample_id: str, start: int = 0, stop: int | None = None) -> int:
        if sample_id not in self:
            raise ValueError(f"{sample_id!r} is no sample id")
        return self._indices.index(int(sample_id.rpartition("-")[2]))


def check_range(name: str, value: float, low: float, high: float, *, integer: bool = True) -> None:
    """Raises ValueError if an argument is outside of its range (both ends belong to it)."""
    if not low <= value <= high:
        kind = "an integer" if integer else "a number"
        raise ValueError(f"got {name}={represent(value)}, expected {kind} from {low} to {high}.")


def square_side(*, max_pixels: int, step: int) -> int:
    """Returns the side of the largest square within `max_pixels` whose side is a multiple of `step`; 0 if none fits."""
    return math.isqrt(max_pixels) // step * step


@functools.lru_cache(maxsize=256)
def draw_letter(letter: str, fill: Colour, *, hard: bool, pixel: int, reduction: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ink of a letter, (h, w) bool, and the colours of its inked pixels, (n, 3) uint8. Do not change them.

    A hard one is a texture whose mean over every block, of side `reduction` (even), is the `fill` around it, instead of
    dark. `pixel` is the side of one pixel of the letter, a multiple of `reduction`.
    """
    ink = GLYPHS[letter].repeat(pixel, axis=0).repeat(pixel, axis=1)
    if not hard:
        return ink, np.full((int(ink.sum()), 3), INK, dtype=np.uint8)
    # Dark left half, light right half of every block: the mean of the block is the fill colour.
    sign = np.where(np.arange(ink.shape[1]) % reduction < reduction // 2, -1, 1)
    colour = np.array(fill)
    amplitude = np.minimum(TEXTURE_AMPLITUDE, np.minimum(colour, 255 - colour))
    texture = colour + amplitude * np.broadcast_to(sign[None, :, None], (*ink.shape, 3))
    return ink, texture[ink].astype(np.uint8)


def draw_letter_box(
    pixels: np.ndarray, box: Place, fill: Colour, letter: str | None, *, hard: bool, unit: int, reduction: int
) -> None:
    """Draws a box of `LETTER_BOX` units of `unit` pixels into a picture (h, w, 3), with a letter on it or None."""
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = fill
    if letter is not None:
        x, y = x1 + _MARGIN * unit, y1 + _MARGIN * unit
        ink, paint = draw_letter(letter, fill, hard=hard, pixel=_GLYPH_PIXEL * unit, reduction=reduction)
        pixels[y : y + ink.shape[0], x : x + ink.shape[1]][ink] = paint


def hide(fill: Colour, paint: Colour, cover: np.ndarray, *, reduction: int) -> np.ndarray:
    """Returns paint on a flat fill and a glow that make the mean of every block the fill exactly, (h, w, 3) uint8.

    `cover` is how much of each pixel is painted, (h, w) from 0 to 1. Where the glow would leave 0..255, both paint and
    glow of that block are weakened until it does not; a block that the paint covers wholly stays empty.

    Raises:
        ValueError: the sides are no multiples of `reduction`.
    """
    height, width = cover.shape
    if height % reduction or width % reduction:
        raise ValueError(f"got a cover of {width}x{height} pixels, expected multiples of reduction={reduction}.")
    grid = (height // reduction, reduction, width // reduction, reduction)
    # (blocks, pixels of a block, 1)
    painted = cover.astype(np.float64).reshape(grid).swapaxes(1, 2).reshape(-1, reduction**2, 1)
    base = np.array(fill, dtype=np.float64)
    paid = (np.array(paint) - base) * painted
    free = 1 - painted
    room = free.sum(axis=1, keepdims=True)
    # A block without free pixels cannot pay: nothing is drawn in it.
    change = np.where(room > 1e-6, paid - paid.sum(axis=1, keepdims=True) * free / np.maximum(room, 1e-6), 0.0)
    limit = np.where(change > 0, 255 - base, base) / np.maximum(np.abs(change), 1e-9)
    change *= np.minimum(1.0, limit.min(axis=(1, 2), keepdims=True))
    # Rounded so that the sum stays zero: down, then up where most was lost. What is a hair below an integer because of
    # floating point is that integer.
    whole = np.floor(change + 1e-9)
    missing = -whole.sum(axis=1, keepdims=True)
    rank = np.argsort(np.argsort(whole - change, axis=1, kind="stable"), axis=1, kind="stable")
    blocks = (base + whole + (rank < missing)).astype(np.uint8)
    return blocks.reshape(grid[0], grid[2], reduction, reduction, 3).swapaxes(1, 2).reshape(height, width, 3)


@functools.lru_cache(maxsize=8)
def noise(side: int) -> np.ndarray:
    """Returns grey noise of twice the side of a source, (2*side, 2*side, 1) uint8 below 36. Do not change it."""
    return np.random.default_rng(0).integers(0, 36, (2 * side, 2 * side, 1), dtype=np.uint8)


def noise_corner(rng: np.random.Generator, side: int, split: str) -> tuple[int, int]:
    """Draws row and column where the noise of a scene begins; the column is even for one split, odd for the other."""
    top, left = rng.integers(0, side, 2).tolist()
    return top, left // 2 * 2 + SPLITS.index(split)


def grainy(size: Size, corner: tuple[int, int], shade: Colour) -> np.ndarray:
    """Returns a background: a piece of the noise above a shade, (h, w, 3) uint8."""
    (width, height), (top, left) = size, corner
    piece = noise(max(size))[top : top + height, left : left + width, 0]
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    # One colour after the other: numpy is slow along a last axis of three.
    for channel, value in enumerate(shade):
        np.add(piece, np.uint8(value), out=pixels[..., channel])
    return pixels


def around(boxes: Sequence[Place], scale: int = 1) -> Box:
    """Returns the box around some boxes, `scale` times as large."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return float(scale * min(x1)), float(scale * min(y1)), float(scale * max(x2)), float(scale * max(y2))
