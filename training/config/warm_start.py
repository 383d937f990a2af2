"""The warm start: demonstrations, and supervised training on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from training.config.checks import above_zero, at_least, one_of, require, share
from training.config.environment import EnvRecipe
from training.config.learner import LearnerRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesRecipe:
    """At which size the images of recorded conversations are shown: the pixel budget of an environment, by its names.

    Attributes:
        min_pixels: smaller images (area in pixels) are enlarged.
        max_pixels: larger ones are shrunk.
        size_multiple: both sides are multiples of this; by default what the model needs.
        video_frames: frames of a video; of a longer one so many at equal distances.
        max_frame_pixels: largest area of a frame; by default all frames together have the area of one image.
    """

    min_pixels: int = 401_408
    max_pixels: int = 4_014_080
    size_multiple: int | None = None
    video_frames: int = 16
    max_frame_pixels: int | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "max_pixels", "video_frames")
        at_least(self, 0, "min_pixels")
        require(self.min_pixels <= self.max_pixels, "min_pixels", self.min_pixels, "at most max_pixels")


@dataclass(frozen=True, kw_only=True, slots=True)
class SFTRecipe:
    """Supervised training on traces, the warm start before reinforcement learning (see docs/warm_start.md).

    Attributes:
        model: the checkpoint to start from: its directory, or its hub name.
        traces: the demonstrations to train on: a file, or a directory.
        format: "traces", played in their environments (JSONL, see `training/demonstrations.py`), or "messages",
            recorded conversations in the released format.
        out: directory of the run.
        seed: of everything random.
        steps: optimizer steps.
        batch_size: traces per step, of all learners together.
        lr: peak learning rate of AdamW.
        lr_warmup_steps: steps over which the learning rate rises to lr.
        lr_decay_fraction: share of the steps, at the end, over which it falls linearly to 0.
        weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this global norm.
        freeze_vision: leave the vision tower as it is.
        checkpoint_every: steps between checkpoints.
        wandb: log to Weights & Biases if it is installed, offline if no key is set.
        images: sizes of the images of recorded conversations (format = "messages").
        trained_turns: of a recorded conversation the last so many turns of the assistant carry a loss, earlier ones are
            context; 0 for all (format = "messages").
        max_length: a trace with more ids counts as bad; none does by default.
        skip_bad_rows: leave bad traces out, and name them in OUT/skipped_rows.jsonl, instead of stopping.
        pack_tokens: traces are put side by side into rows of at most so many ids, without attention between them; each
            row goes through the model by itself, and gradients add up. By default traces are padded to similar lengths.
        prefetch: batches that are read ahead, in a thread; 0 reads when a batch is needed.
        attn_implementation: as transformers names it, "flash_attention_2" on GPUs; what it takes by default if none.
        learner: how the model is held and trained.
        num_learners: processes that train together; 0 for this process.
        num_cpus_per_learner: what Ray reserves for each; may be a fraction.
        num_gpus_per_learner: what Ray reserves for each: 1, or 0 on a CPU.
        max_restarts: how often learners are started again, from the newest checkpoint, after one was lost.
    """

    model: str
    traces: str
    format: Literal["traces", "messages"] = "traces"
    out: str = "runs/sft"
    seed: int = 0

    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-5
    lr_warmup_steps: int = 30
    lr_decay_fraction: float = 0.3
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    freeze_vision: bool = False
    checkpoint_every: int = 100
    wandb: bool = True

    images: ImagesRecipe = field(default_factory=ImagesRecipe)
    trained_turns: int = 2
    max_length: int | None = None
    skip_bad_rows: bool = False
    pack_tokens: int | None = None
    prefetch: int = 1

    attn_implementation: str | None = None
    learner: LearnerRecipe = field(default_factory=LearnerRecipe)
    num_learners: int = 0
    num_cpus_per_learner: float = 1.0
    num_gpus_per_learner: float = 0.0
    max_restarts: int = 0

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "batch_size", "checkpoint_every")
        at_least(self, 0, "seed", "lr_warmup_steps", "weight_decay", "trained_turns", "prefetch", "max_restarts")
        at_least(self, 0, "num_learners", "num_cpus_per_learner", "num_gpus_per_learner")
        above_zero(self, "lr", "max_grad_norm")
        share(self, "lr_decay_fraction")
        one_of(self, "format", "traces", "messages")
        for name in ("max_length", "pack_tokens"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "1 or more")
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


@dataclass(frozen=True, kw_only=True, slots=True)
class TracesRecipe:
    """Demonstrations of an environment by its oracle, for the warm start.

    Attributes:
        env: the environment; its samples must know their evidence (box, time or call) if any operation is to be shown.
        out: the JSONL file to write.
        seed: of the samples and what happens in them.
        count: how many; samples come again once all had their turn.
        zoom: share of demonstrations that use operations where none is needed (where one is, all do).
        correction: share of those with operations that begin with a wrong one, which carries no loss.
    """

    env: EnvRecipe
    out: str = "runs/traces.jsonl"
    seed: int = 0
    count: int = 1000
    zoom: float = 0.35
    correction: float = 0.2

    def __post_init__(self) -> None:
        at_least(self, 1, "count")
        at_least(self, 0, "seed")
        share(self, "zoom", "correction")
