"""What can be found wrong before any process is started: a clear error in a second, not a traceback out of a worker."""

from __future__ import annotations

import warnings
from typing import Any, cast

import gymnasium

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents.checkpoint import Checkpoint, check_weights, has_all_it_gets, read_checkpoint
from pxr_agents.engines.vllm.arguments import NO_NEW_EXPERTS
from training.config import PPORecipe


def check_start(recipe: PPORecipe) -> None:
    """Check that the model is there, that the environment can be made, and that the two fit together.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the environment's images do not fit the model, it has too few samples, or the engine cannot be given
            new weights of this model.
        Exception: whatever the environment raises when it is made.
    """
    checkpoint = check_model(recipe.model)
    if checkpoint.has_experts and recipe.engine.kind == "vllm" and not recipe.engine.num_gpus_per_engine:
        raise ValueError(f"{recipe.model} is a mixture of experts. {NO_NEW_EXPERTS}")
    unit = checkpoint.norm.image_unit
    env = gymnasium.make(recipe.env.id, **recipe.env.kwargs)
    try:
        data = cast(Any, env.unwrapped).data
        warn_of_bad_rows(data)
        if len(data) < recipe.groups_per_iteration:
            raise ValueError(
                f"got groups_per_iteration={recipe.groups_per_iteration} for {len(data)} samples; expected at most as "
                f"many groups as there are samples"
            )
        observation, _ = env.reset(seed=recipe.seed)
        for image in observation["images"]:
            height, width = image.shape[:2]
            if height % unit or width % unit:
                raise ValueError(
                    f"{recipe.env.id} shows images of {width}x{height} pixels, and {recipe.model} needs sides that are "
                    f"multiples of {unit}. Set env.kwargs.size_multiple={unit}."
                )
    finally:
        env.close()


def warn_of_bad_rows(data: Any) -> None:
    """Warns, with the first few, of rows that a data set leaves out (`skip_bad_rows`)."""
    skipped = getattr(data, "skipped", ())
    if skipped:
        first = "; ".join(str(row) for row in skipped[:3])
        warnings.warn(
            f"{len(skipped)} bad rows of {data.path} are left out, {len(data)} are used: {first}"
            f"{'; ...' if len(skipped) > 3 else ''}. `python -m pxr_env check` names them all.",
            UserWarning,
            stacklevel=2,
        )


def check_model(model: str) -> Checkpoint:
    """The checkpoint, after checking that all of it is there.

    Raises:
        FileNotFoundError, ValueError: as `check_start`.
    """
    checkpoint = read_checkpoint(model)
    if has_all_it_gets(model):
        check_weights(checkpoint.folder)
    return checkpoint
