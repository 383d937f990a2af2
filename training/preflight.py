"""What can be found wrong before any process is started: a clear error in a second, not a traceback out of a worker."""

from __future__ import annotations

from typing import Any, cast

import gymnasium

import pxr_env  # noqa: F401  (registers the tasks)
from training.config import PPORecipe


def check_start(recipe: PPORecipe) -> None:
    """Check that the model is there, that the environment can be made, and that the two fit together.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the environment's images do not fit the model, or it has too few samples.
        Exception: whatever the environment raises when it is made (each says what came and what was expected).
    """
    unit = check_model(recipe.model)
    env = gymnasium.make(recipe.env.id, **recipe.env.kwargs)
    try:
        n_samples = len(cast(Any, env.unwrapped).data)
        if n_samples < recipe.groups_per_iteration:
            raise ValueError(
                f"groups_per_iteration={recipe.groups_per_iteration} came for {n_samples} samples; expected at most as "
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


def check_model(model: str) -> int:
    """Side of a vision token of the checkpoint in pixels.

    Raises:
        FileNotFoundError, ValueError: as `check_start`.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"model={model!r} came; expected the directory of a Qwen2.5-VL or Qwen3-VL checkpoint, or a hub name that "
            f"can be reached ({reason}). `make quickstart` leaves a tiny one in runs/quickstart/warm."
        ) from error
    vision = getattr(config, "vision_config", None)
    if vision is None:
        raise ValueError(
            f"model={model!r} is a {config.model_type} without vision; expected a Qwen2.5-VL or Qwen3-VL checkpoint"
        )
    return int(vision.patch_size * vision.spatial_merge_size)
