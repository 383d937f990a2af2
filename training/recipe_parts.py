"""Parts of recipes that need no other part (see `training.config`, from where they are imported)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from pxr_env.curiosity import Revival
from training.recipe_reader import RECIPE, require


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class ProbesRecipe:
    """Brings an operation back that has died out (docs/curiosity.md, "Reviving a dead operation")."""

    enabled: bool = False
    """Whether there are probes."""
    floor: Annotated[float, Field(gt=0, le=1)] = 0.05
    """An operation is probed while the policy uses it in a smaller share of its episodes; the more, the rarer it is."""
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of the rollouts of a group that are probes, at most 0.5; rounded down to whole rollouts."""
    window: PositiveInt = 5
    """Iterations over which usage is counted."""
    patience: PositiveInt | None = None
    """Probes of an operation within the window from which on they become rarer; by default they go on."""

    def revival(self, operations: Sequence[str], *, seed: int) -> Revival:
        """What decides which rollouts are probes."""
        floor, share, patience = self.floor, self.share, self.patience
        return Revival(operations=tuple(operations), floor=floor, share=share, patience=patience, seed=seed)


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class ImagesRecipe:
    """The size at which images of recorded conversations are shown: an environment's pixel budget, by its names."""

    min_pixels: NonNegativeInt = 401_408
    """Smaller images (area in pixels) are enlarged."""
    max_pixels: PositiveInt = 4_014_080
    """Larger images are shrunk."""
    size_multiple: PositiveInt | None = None
    """Both sides are multiples of this; by default what the model needs."""
    video_frames: PositiveInt = 16
    """Frames of a video; of a longer one so many at equal distances."""
    max_frame_pixels: PositiveInt | None = None
    """Largest area of a frame; by default all frames together have the area of one image."""

    def __post_init__(self) -> None:
        require(self, ("min_pixels", self.min_pixels <= self.max_pixels, "at most max_pixels"))
