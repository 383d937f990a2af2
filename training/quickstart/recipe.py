"""Every constant of the quick start in one place, and why it is what it is."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from ..config import RECIPE, EnvRecipe, PPORecipe, SelectiveRecipe, Share

ENV_ID = "pxr_env:pxr/SyntheticSearch-v0"

# Pixels of the shown image, since a cell of 28 pixels is one vision token of the tiny model and its corners are then
# four numbers, 0 to 84. At most two operations and three turns: the recipe's episodes are short.
# Clumsy demonstrations may miss the same cell twice, so calls may come again.
ENV_KWARGS: dict[str, Any] = {"coordinates": "pixel", "max_turns": 3, "max_operations": 2, "duplicates": "execute"}

ARMS = ("plain", "curiosity", "selective")
"""The three arms: without curiosity, with `ppo.curiosity` (preset "paper"), and with that and `selective`."""


def default_ppo() -> PPORecipe:
    """Reinforcement learning of the quick start.

    80 iterations of 24 samples x 8 rollouts. The advantage is divided by the group's standard deviation: without,
    curiosity's own usage once fell to 0. Entropy 0.02 keeps 0.5M parameters from collapsing onto one answer.
    """
    return PPORecipe(
        model="", env=EnvRecipe(id=ENV_ID, kwargs=dict(ENV_KWARGS)), iterations=80, groups_per_iteration=24,
        group_size=8, lr=3e-4, lr_warmup_iterations=5, adam_betas=(0.9, 0.95), clip_coef_high=0.28,
        ent_coef=0.02, normalize_std=True, max_tokens=16, checkpoint_every=40, wandb=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class PretrainRecipe:
    """Constants of stage A and why."""

    steps: PositiveInt = 600
    """Most steps."""
    batch_size: PositiveInt = 64
    """Rows of a step."""
    pool: PositiveInt = 6000
    """Rows that steps are drawn from."""
    lr: PositiveFloat = 3e-3
    """AdamW for embeddings and convolutions, Muon for matrices: at 0.5M parameters the usual AdamW alone needs several
    times the steps."""
    muon_lr: PositiveFloat = 6e-3
    """Muon for matrices, see lr."""
    warmup: NonNegativeInt = 30
    """Steps over which the learning rate rises."""
    decay: PositiveInt = 60
    """Steps over which the learning rate falls to 0 once localization and reading are reached."""
    pointing_first: Share = 0.7
    """Until held-out localization is this good, coordinates weigh more and letters less. A model that learns to read
    first reads whatever box it likes, and needs twice the steps to bind letters to colours."""
    localization: Share = 0.95
    """The stage ends when held-out (x, y) pairs are right this often, and letters as `reading` says: a base that cannot
    point spoils everything after it, since reinforcement learning only sharpens what is there."""
    reading: Share = 0.88
    """How often held-out letters must be right."""
    measure_every: PositiveInt = 25
    """Steps between measurements."""
    held_out: PositiveInt = 256
    """Rows of the mixture that are measured on, and half as many direct questions and zoomed views."""


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class TraceRecipe:
    """What demonstrations look like, as shares in [0, 1]."""

    zoom: Share = 0.35
    """Demonstrations that use the operation at all. The same for samples that need it and samples that do not: when to
    zoom is left to reinforcement learning."""
    correction: Share = 0.2
    """Zooming demonstrations that begin with a wrong operation, which carries no loss."""
    miss: Share = 0.0
    """Zooming demonstrations whose (trained) operation misses the evidence."""
    answer_from_view: bool = False
    """After a miss, whether the answer that the missed view suggests is trained on (the letter it shows, or a guess);
    otherwise that answer carries no loss."""


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class PhaseRecipe:
    """One phase: how long, how fast, and what share of rows are clean "where is" questions that keep pointing alive."""

    steps: PositiveInt
    """Most steps."""
    lr: PositiveFloat
    """Learning rate of AdamW."""
    measure_every: PositiveInt
    """Steps between measurements."""
    pointing: Share
    """Share of rows that are "where is" questions."""
    traces: TraceRecipe
    """What the demonstrations look like."""


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class WarmStartRecipe:
    """Constants of stage B and why."""

    batch_size: PositiveInt = 64
    """Rows of a step."""
    pool: PositiveInt = 2500
    """Demonstrations that steps are drawn from."""
    held_out: PositiveInt = 192
    """Samples that are measured on; training never sees them."""
    form: PhaseRecipe = field(
        default_factory=lambda: PhaseRecipe(
            steps=200, lr=8e-4, measure_every=10, pointing=0.4, traces=TraceRecipe(miss=0.2)
        )
    )
    """The first phase."""
    clumsy: PhaseRecipe = field(
        default_factory=lambda: PhaseRecipe(
            steps=150, lr=2e-4, measure_every=5, pointing=0.5, traces=TraceRecipe(miss=0.75, answer_from_view=True)
        )
    )
    """The second phase, whose demonstrations mostly miss."""
    valid: Share = 0.9
    """*form* ends when sampled calls are valid this often,"""
    box: Share = 0.8
    """the most likely box is right this often,"""
    direct: Share = 0.9
    """and easy questions are answered directly this often."""
    hit_window: tuple[float, float] = (0.20, 0.32)
    """*clumsy* ends when forced zooms hit at a rate inside it. Above, plain reinforcement learning finds zooming by
    itself and there is no trap; below, curiosity restores usage but has no skill to sharpen."""
    gap: Share = 0.4
    """How much better easy questions must be answered directly than by zooming."""
    latent_box: Share = 0.6
    """How often the most likely box must still be right; when it comes within 0.1 of that, or hits fall below the
    window, training goes back to *form*'s demonstrations until the next measurement."""
    max_tokens: PositiveInt = 16
    """Limit of a turn."""


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class QuickstartRecipe:
    """The quick start: `make quickstart`, or `python -m training quickstart [RECIPE] [key=value ...]`."""

    seed: NonNegativeInt = 0
    """Seed of everything: weights, samples, sampling noise."""
    out: str = "runs/quickstart"
    """Directory of the run; stages that are done there are reused."""
    eval_samples: PositiveInt = 400
    """Held-out samples that all arms are evaluated on, greedily, with and without operations."""
    env: EnvRecipe = field(default_factory=lambda: EnvRecipe(id=ENV_ID, kwargs=dict(ENV_KWARGS)))
    """The task."""
    pretrain: PretrainRecipe = field(default_factory=PretrainRecipe)
    """Stage A."""
    warm_start: WarmStartRecipe = field(default_factory=WarmStartRecipe)
    """Stage B."""
    ppo: PPORecipe = field(default_factory=default_ppo)
    """Reinforcement learning, the same for all arms but for what their names say; `model`, `seed` and `out` are set by
    the quick start."""
    selective: SelectiveRecipe = field(default_factory=lambda: SelectiveRecipe(enabled=True))
    """What the third arm has beside curiosity."""
    selective_iterations: PositiveInt = 120
    """Iterations of the third arm: it begins to learn when not to zoom once zooming works."""
