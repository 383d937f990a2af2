"""Observation and action spaces: any Unicode text, images of any size, and turns.

Gymnasium's own `Text` admits neither "<" nor line breaks nor CJK by default, and its `Box` has one fixed size. Vector
environments batch these spaces as tuples. Observations have no fixed size, so `AsyncVectorEnv` needs
`shared_memory=False` and says so otherwise.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Space, Tuple
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import batch_differing_spaces
from gymnasium.wrappers.utils import create_zero_array

from pxr_env.coordinates import Frame, get_frame
from pxr_env.dialects import get_dialect
from pxr_env.operations import get_operation
from pxr_env.operations.registry import Scale, draw_call
from pxr_env.types import OperationCall

#: Times are drawn up to this one.
_SECONDS = 10.0
_WORDS = ("A", "B", "42", "a red box", "naïve", "左上", "x < y", "line\nbreak")


class _Unsized:
    """What the three have in common: they flatten to no array; two of a class contain the same and are equal."""

    #: What stands in for an observation that is still to come.
    zero: ClassVar[str | tuple[()]] = ""

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class TextSpace(_Unsized, Space[str]):
    """Any `str`."""

    def sample(self, mask: None = None, probability: None = None) -> str:
        """Draws a few words."""
        return " ".join(_WORDS[index] for index in self.np_random.integers(0, len(_WORDS), 3))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)


class ImagesSpace(_Unsized, Space[tuple[np.ndarray, ...]]):
    """A tuple of any number of images, each a uint8 array HxWx3 of any size."""

    zero = ()

    def sample(self, mask: None = None, probability: None = None) -> tuple[np.ndarray, ...]:
        """Draws zero to two small noise images."""
        rng = self.np_random
        sizes = [rng.integers(1, 5, 2) * 28 for _ in range(int(rng.integers(0, 3)))]
        return tuple(rng.integers(0, 256, (int(h), int(w), 3), dtype=np.uint8) for h, w in sizes)

    def contains(self, x: Any) -> bool:
        return isinstance(x, tuple) and all(
            isinstance(image, np.ndarray)
            and image.dtype == np.uint8
            and image.ndim == 3
            and image.shape[2] == 3
            and image.size > 0
            for image in x
        )

    def to_jsonable(self, sample_n: Sequence[tuple[np.ndarray, ...]]) -> list[Any]:
        """A batch of samples as nested lists of numbers."""
        return [[image.tolist() for image in images] for images in sample_n]

    def from_jsonable(self, sample_n: list[Any]) -> list[tuple[np.ndarray, ...]]:
        """Inverse of `to_jsonable`."""
        return [tuple(np.array(image, dtype=np.uint8) for image in images) for images in sample_n]


class TurnSpace(_Unsized, Space[str]):
    """Messages of the model: any `str` is one, since all are answered; `sample` draws turns that the dialect can read.

    The names are those of an environment; sampled boxes in pixels stay inside an image of side `size_multiple`. They
    say what is drawn, not what belongs to the space: all of these spaces are equal.
    """

    def __init__(
        self,
        *,
        dialect: str = "hermes",
        coordinates: str = "unit",
        operations: Sequence[str] = ("zoom_in",),
        size_multiple: int = 28,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.dialect, self.coordinates = dialect, coordinates
        self.operations, self.size_multiple = tuple(operations), size_multiple

    def sample(self, mask: None = None, probability: None = None) -> str:
        """Draws a call of one of the operations, or a final answer; one of them in half the cases each."""
        frame = get_frame(self.coordinates)
        dialect = get_dialect(self.dialect, frame)
        if self.operations and self.np_random.random() < 0.5:
            name = self.operations[int(self.np_random.integers(len(self.operations)))]
            return f"I look closer. {dialect.render_call(self._call(name, frame))}"
        word = _WORDS[int(self.np_random.integers(len(_WORDS)))]
        return f"I am sure. {dialect.render_answer(word)}"

    def _call(self, name: str, frame: Frame) -> OperationCall:
        width, height = frame.extent((self.size_multiple, self.size_multiple))
        if name != "zoom_in":
            scale = Scale(width=width, height=height, seconds=_SECONDS, integers=not frame.decimals)
            return draw_call(get_operation(name), scale, self.np_random)
        # A box that fits into any image, of image 1, which is always there.
        low, high = self.np_random.uniform(0.0, 0.4, 2), self.np_random.uniform(0.6, 1.0, 2)
        fractions = (low[0] * width, low[1] * height, high[0] * width, high[1] * height)
        box = [round(float(number), frame.decimals) if frame.decimals else int(number) for number in fractions]
        return OperationCall(name=name, arguments={"bbox_2d": box, "target_image": 1})

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def __repr__(self) -> str:
        return (
            f"TurnSpace(dialect={self.dialect!r}, coordinates={self.coordinates!r}, operations={self.operations!r}, "
            f"size_multiple={self.size_multiple!r})"
        )


def _batch_as_tuple(spaces: Sequence[Space[Any]]) -> Tuple:
    return Tuple(tuple(spaces))


# Gymnasium batches custom spaces by itself; it has to be told about `observation_mode="different"` and about zeros.
for _space in (TextSpace, ImagesSpace, TurnSpace):
    batch_differing_spaces.register(_space)(_batch_as_tuple)
    is_space_dtype_shape_equiv.register(_space)(operator.eq)
    create_zero_array.register(_space)(operator.attrgetter("zero"))
