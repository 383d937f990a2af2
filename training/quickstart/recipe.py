"""Every constant of the quick start in one place."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from pydantic import NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from training.config import RECIPE, CuriosityRecipe, EnvRecipe, PPORecipe
from training.quickstart.pretrain import PretrainRecipe
from training.quickstart.warm_start import WarmStartRecipe


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class QuickstartRecipe:
    """The quick start: `make quickstart`, or `python -m training quickstart [RECIPE] [key=value ...]`."""

    seed: NonNegativeInt = 0
    """Seed of everything: weights, samples, sampling noise."""
    out: str = "runs/quickstart"
    """Directory of the run; stages that are done there are reused."""
    eval_samples: PositiveInt = 400
    """Held-out samples that both arms are evaluated on, greedily."""
    env: EnvRecipe = field(default_factory=lambda: EnvRecipe(id=ENV_ID, kwargs=dict(ENV_KWARGS)))
    """The task."""
    pretrain: PretrainRecipe = field(default_factory=PretrainRecipe)
    """Stage A."""
    warm_start: WarmStartRecipe = field(default_factory=WarmStartRecipe)
    """Stage B."""
    ppo: PPORecipe = field(default_factory=lambda: default_ppo())
    """Reinforcement learning, the same for both arms except for curiosity; `model`, `seed` and `out` are set by the
    quick start."""


ENV_ID = "pxr_env:pxr/SyntheticSearch-v0"

# Pixels of the shown image, since a cell of 28 pixels is one vision token of the tiny model and its corners are then
# four numbers, 0 to 84. At most two operations and three turns: the recipe's episodes are short.
# Clumsy demonstrations may miss the same cell twice, so calls may come again.
ENV_KWARGS: dict[str, Any] = {
    "coordinates": "pixel",
    "max_turns": 3,
    "max_operations": 2,
    "duplicates": "execute",
}


def default_ppo() -> PPORecipe:
    """Reinforcement learning of the quick start.

    80 iterations of 24 samples x 8 rollouts. The advantage is divided by the group's standard deviation: without,
    curiosity's own usage once fell to 0. Entropy 0.02 keeps 0.5M parameters from collapsing onto one answer.
    """
    return PPORecipe(
        model="",
        env=EnvRecipe(id=ENV_ID, kwargs=dict(ENV_KWARGS)),
        iterations=80,
        groups_per_iteration=24,
        group_size=8,
        num_env_runners=2,
        num_learners=0,
        num_epochs=1,
        num_minibatches=2,
        lr=3e-4,
        lr_warmup_iterations=5,
        lr_decay_fraction=0.3,
        adam_betas=(0.9, 0.95),
        weight_decay=0.0,
        clip_coef=0.2,
        clip_coef_high=0.28,
        ent_coef=0.02,
        normalize_std=True,
        max_tokens=16,
        checkpoint_every=40,
        curiosity=CuriosityRecipe(),
        wandb=False,
    )


ARMS = ("plain", "curiosity")
"""The two arms: without curiosity, and with `ppo.curiosity` (preset "paper")."""
