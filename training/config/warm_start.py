"""The warm start: demonstrations, and supervised training on them."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from training.config.base import RECIPE, Share, require
from training.config.environment import EnvRecipe
from training.config.learner import LearnerRecipe


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
        require(self.min_pixels <= self.max_pixels, "min_pixels", self.min_pixels, "at most max_pixels")


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class SFTRecipe:
    """Supervised training on traces, the warm start before reinforcement learning (see docs/warm_start.md)."""

    model: str
    """The checkpoint to start from: its directory, or its hub name."""
    traces: str
    """The demonstrations to train on: a file, or a directory."""
    format: Literal["traces", "messages"] = "traces"
    """Either "traces", played in their environments (JSONL, see `training/demonstrations.py`), or "messages", recorded
    conversations in the released format."""
    out: str = "runs/sft"
    """Directory of the run."""
    seed: NonNegativeInt = 0
    """Seed of everything random."""

    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 32
    """Traces per step, of all learners together."""
    lr: PositiveFloat = 1e-5
    """Peak learning rate of AdamW."""
    lr_warmup_steps: NonNegativeInt = 30
    """Steps over which the learning rate rises to lr."""
    lr_decay_fraction: Share = 0.3
    """Share of the steps, at the end, over which it falls linearly to 0."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this global norm."""
    freeze_vision: bool = False
    """Leave the vision tower as it is."""
    checkpoint_every: PositiveInt = 100
    """Steps between checkpoints."""
    wandb: bool = True
    """Log to Weights & Biases if it is installed, offline if no key is set."""

    images: ImagesRecipe = field(default_factory=ImagesRecipe)
    """Sizes of the images of recorded conversations (format = "messages")."""
    trained_turns: NonNegativeInt = 2
    """Of a recorded conversation the last so many turns of the assistant carry a loss, earlier ones are context; 0 for
    all (format = "messages")."""
    max_length: PositiveInt | None = None
    """A trace with more ids counts as bad; none does by default."""
    skip_bad_rows: bool = False
    """Leave bad traces out, and name them in OUT/skipped_rows.jsonl, instead of stopping."""
    pack_tokens: PositiveInt | None = None
    """Traces are put side by side into rows of at most so many ids, without attention between them; each row goes
    through the model by itself, and gradients add up. By default traces are padded to similar lengths."""
    prefetch: NonNegativeInt = 1
    """Batches that are read ahead, in a thread; 0 reads when a batch is needed."""

    attn_implementation: str | None = None
    """As transformers names it, "flash_attention_2" on GPUs; what it takes by default if none."""
    learner: LearnerRecipe = field(default_factory=LearnerRecipe)
    """How the model is held and trained."""
    num_learners: NonNegativeInt = 0
    """Processes that train together; 0 for this process."""
    num_cpus_per_learner: NonNegativeFloat = 1.0
    """What Ray reserves for each; may be a fraction."""
    num_gpus_per_learner: NonNegativeFloat = 0.0
    """What Ray reserves for each: 1, or 0 on a CPU."""
    max_restarts: NonNegativeInt = 0
    """How often learners are started again, from the newest checkpoint, after one was lost."""

    def __post_init__(self) -> None:
        require(
            self.batch_size >= self.num_learners,
            "batch_size", self.batch_size, f"at least one trace for each of {self.num_learners} learners",
        )  # fmt: skip
        require(
            self.learner.kind == "ddp" or self.num_learners > 0,
            "num_learners", self.num_learners,
            f"1 or more where learner.kind is {self.learner.kind!r}: DeepSpeed needs processes of its own",
        )  # fmt: skip
        require(
            self.pack_tokens is None or self.learner.micro_batch_tokens is None,
            "pack_tokens", self.pack_tokens,
            "none where learner.micro_batch_tokens is set: that is a limit for padded rows",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class TracesRecipe:
    """Demonstrations of an environment by its oracle, for the warm start."""

    env: EnvRecipe
    """The environment; its samples must know their evidence (box, time or call) if any operation is to be shown."""
    out: str = "runs/traces.jsonl"
    """The JSONL file to write."""
    seed: NonNegativeInt = 0
    """Seed of the samples and what happens in them."""
    count: PositiveInt = 1000
    """How many; samples come again once all had their turn."""
    zoom: Share = 0.35
    """Share of demonstrations that use operations where none is needed (where one is, all do)."""
    correction: Share = 0.2
    """Share of those with operations that begin with a wrong one, which carries no loss."""
