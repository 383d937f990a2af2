"""What all procedural samples share: ids, ranges of arguments, the pixel budget of the first view, certification."""

from __future__ import annotations

import functools
import math
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Protocol, overload

import numpy as np
from PIL import Image

from pxr_env.errors import DataError, hints_of, represent, typed_arguments
from pxr_env.media import ImageSource, check_budget, cut, fit_size
from pxr_env.types import Sample
from pxr_env.views import Size

SPLITS = ("train", "test")
#: Facts about this many samples are remembered; pixels are remembered by the shared cache alone.
REMEMBERED = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The pixel budget in which an environment shows an image first; see `fit_size`."""

    min_pixels: int
    max_pixels: int
    size_multiple: int

    def __post_init__(self) -> None:
        check_budget(min_pixels=self.min_pixels, max_pixels=self.max_pixels, size_multiple=self.size_multiple)

    def size(self, source: Size) -> Size:
        """Returns the size at which a source of that size is shown."""
        return fit_size(
            *source, min_pixels=self.min_pixels, max_pixels=self.max_pixels, size_multiple=self.size_multiple
        )

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
        """Returns the sizes of overviews, in tokens, that show a source `reduction` times their size without a rest."""
        tokens = self.max_pixels // self.size_multiple**2
        sizes = []
        for columns in range(1, tokens + 1):
            # The budget is used up: fewer rows would be shown larger, more rows smaller.
            for rows in range(max(1, tokens // (columns + 1)), tokens // columns + 1):
                shown = columns * self.size_multiple, rows * self.size_multiple
                if max(shown) <= 8 * min(shown) and self.size((shown[0] * reduction, shown[1] * reduction)) == shown:
                    sizes.append((columns, rows))
        return sizes


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

    @property
    @abstractmethod
    def budget(self) -> Budget:
        """The pixel budget in which the environment shows a picture first."""

    @abstractmethod
    def _sample(self, index: int) -> Sample:
        """Makes a sample; its pixels are rendered when they are needed."""

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


class ImageTask(Hashable, Protocol):
    """Procedural samples of one image each, which know what it looks like without what decides the question."""

    @property
    def split(self) -> str: ...

    @property
    def budget(self) -> Budget: ...

    def size(self, index: int) -> Size:
        """Returns width and height of an image in pixels."""

    def draw(self, index: int) -> Image.Image | np.ndarray:
        """Draws an image."""

    def without(self, index: int, image: Image.Image) -> Image.Image | None:
        """Returns the image without what decides; None where nothing is hidden."""


def image_sample(task: ImageTask, index: int, **values: Any) -> Sample:
    """Returns the sample of an image, with whether it needs an operation."""
    return Sample(
        sample_id=f"{task.split}-{index}",
        sources=(_source(task, index),),
        needs_operation=_needs_operation(task, index),
        **values,
    )


def _source(task: ImageTask, index: int) -> ImageSource:
    draw = functools.partial(task.draw, index)
    return ImageSource(key=(type(task).__name__, task, index), load=draw, size=task.size(index))


@functools.lru_cache(maxsize=REMEMBERED)
def _needs_operation(task: ImageTask, index: int) -> bool:
    """Whether the first view is the same, byte for byte, without what decides."""
    image = _source(task, index).image
    without = task.without(index, image)
    return without is not None and bool(np.array_equal(task.budget.show(image), task.budget.show(without)))


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
    """Raises ValueError if an argument is no number, or outside of its range (both ends belong to it)."""
    kinds = (int,) if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "an integer" if integer else "a number"
        raise ValueError(f"got {name}={represent(value)}, expected {kind} from {low} to {high}.")


def square_side(*, max_pixels: int, step: int) -> int:
    """Returns the side of the largest square within `max_pixels` whose side is a multiple of `step`; 0 if none fits."""
    return math.isqrt(max_pixels) // step * step


def warn_if_inexact(budget: Budget, overview: Size, reduction: int, what: str, remedy: str) -> None:
    """Warns that a budget does not show the exact mean of its sources, so that what is hidden may leave a trace."""
    source = overview[0] * reduction, overview[1] * reduction
    shown = budget.size(source)
    if shown != overview:
        warnings.warn(
            f"the first view is {shown[0]}x{shown[1]} pixels, no exact mean of the {source[0]}x{source[1]} source: "
            f"{what} may be readable in it (needs_operation says which). {remedy}",
            UserWarning,
            # Past the check and the constructor, to the line that calls it.
            stacklevel=5,
        )
