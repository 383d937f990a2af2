"""Parts of recipes that need no other part (see `training.config`, from where they are imported)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from pxr_agents.engines.vllm.arguments import StartArguments
from pxr_env.curiosity import Revival
from pxr_env.errors import did_you_mean, quote
from .recipe_reader import RECIPE, require


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

    def n_candidates(self, group_size: int) -> int:
        """Rollouts of a group that may be probes."""
        return self.revival(["any"], seed=0).n_candidates(group_size) if self.enabled else 0


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class SelectiveRecipe:
    """Teaches when not to use an operation, once the policy uses it well (docs/selective_use.md)."""

    enabled: bool = False
    """Whether any of this happens."""
    gate: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """Accuracy of the rollouts that use an operation (a running mean) above which it begins; at 1 it is full."""
    answer: NonNegativeInt = 1
    """Rollouts of a group that are made to begin with an answer."""
    withdrawn: NonNegativeInt = 2
    """Rollouts of a group whose operations are withdrawn, and who have one turn; they are compared with each other."""
    relocation: NonNegativeFloat = 8.0
    """Weight of what moves usage from samples that are solved at once to those that are not, on the first id."""
    prior: NonNegativeFloat = 1.0
    """Attempts that the mean over samples counts for in the estimate of one sample."""

    @property
    def n_arms(self) -> int:
        """Rollouts of a group that are not left alone."""
        return self.answer + self.withdrawn if self.enabled else 0


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


def _engine_kind(kind: str) -> str:
    kinds = ("transformers", "vllm")
    if kind not in kinds and ":" not in kind:
        near = did_you_mean(kind, kinds)
        raise ValueError(f'got "{quote(kind)}"; expected "transformers", "vllm" or "module:factory" of your own.{near}')
    return kind


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class EngineRecipe:
    """What generates (see docs/engines.md)."""

    kind: Annotated[str, AfterValidator(_engine_kind)] = "transformers"
    """Either "transformers", in every env runner, or "vllm", in Ray actors that all env runners share; or an engine of
    your own in every env runner, "module:factory" (docs/engines.md)."""
    num_engines: PositiveInt = 1
    """VLLM engines; conversations are spread over them."""
    num_cpus_per_engine: NonNegativeFloat = 1.0
    """What Ray reserves for each; may be a fraction."""
    num_gpus_per_engine: NonNegativeFloat = 0.0
    """What Ray reserves for each: vllm.tensor_parallel_size, a fraction beside a learner on its GPU, 0 on a CPU."""
    colocate: bool = False
    """Engines take turns with the learners on their GPUs, of which they get no share from Ray: while learners work they
    hold no memory there (docs/engines.md; not yet run on GPUs)."""
    timeout: PositiveFloat = 600.0
    """Seconds after which an engine that does not start or take weights counts as lost."""
    turn_timeout: PositiveFloat = 600.0
    """Seconds without a finished turn after which engines are looked at, and those that hang replaced."""
    vllm: StartArguments = field(default_factory=StartArguments)
    """Start arguments of each engine."""

    def __post_init__(self) -> None:
        require(
            self,
            ("colocate", not self.colocate or self.kind == "vllm", "false where kind is not 'vllm'"),
            ("num_gpus_per_engine", not self.colocate or self.num_gpus_per_engine == 0,
             "0 where colocate is true: the learners reserve the GPUs"),
            ("vllm.weight_transfer", not self.colocate or self.vllm.weight_transfer != "nccl",
             "'ipc' or 'none' where colocate is true: NCCL wants a GPU for each of its processes"),
        )  # fmt: skip
