"""A task on real photographs about which nothing is known: no evidence box, no category, two sources per sample."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
from skimage import data as photographs

from pxr_env import Sample, VisualReasoningEnv
from pxr_env.media import ImageSource

_PAIRS = {"cats": (photographs.chelsea, photographs.astronaut), "cups": (photographs.coffee, photographs.rocket)}


class _Pairs:
    """Two samples: which of two photographs shows something."""

    def __len__(self) -> int:
        return len(_PAIRS)

    def sample_ids(self) -> Sequence[str]:
        return list(_PAIRS)

    def get(self, sample_id: str) -> Sample:
        sources = tuple(ImageSource(image=load()) for load in _PAIRS[sample_id])
        return Sample(sample_id=sample_id, question="First or second?", sources=sources, answers=("first",))


def make_env(*, max_pixels: int) -> VisualReasoningEnv:
    return VisualReasoningEnv(_Pairs(), coordinates="permille", min_pixels=784, max_pixels=max_pixels)


gymnasium.register("Photographs-v0", entry_point="tests.eval.photographs:make_env")
