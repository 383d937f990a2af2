"""A warm start, in a directory that can be interrupted and resumed (see `training/run_directory.py`).

`run_sft` starts as many learners as the recipe asks for: none but this process, or processes that Ray Train spreads
over the machines of a cluster (`training.ray_train`). Each of them runs the same loop (`training.sft_loop`).
"""

from __future__ import annotations

from pathlib import Path

from training.config import SFTRecipe
from training.preflight import check_model
from training.processes import Processes
from training.run_directory import RunDirectory, stop_signal
from training.sft_loop import Report, train

FREE_KEYS = frozenset(
    {
        "steps",
        "checkpoint_every",
        "wandb",
        "prefetch",
        "num_learners",
        "num_cpus_per_learner",
        "num_gpus_per_learner",
        "max_restarts",
    }
)


def run_sft(recipe: SFTRecipe, report: Report | None = None) -> Path:
    """Train by a recipe, from the beginning or from the newest checkpoint in `recipe.out`.

    Returns:
        The directory of the trained model.

    Raises:
        FinishedRunError: if the run is finished already.
        Interrupted: after Ctrl-C or SIGTERM, once the step under way is over and its checkpoint written, or at once
            after a second one.
        DataError: if the traces cannot be read, or the environment does not take them.
        TrainingError: if the loss is no number, or the disk is full; the newest checkpoint is whole.
        ValueError: if the directory holds an unfinished run of another recipe.
    """
    run = RunDirectory(recipe.out)
    run.claim(recipe, free_keys=FREE_KEYS)
    check_model(recipe.model)
    with run.interruptible(), stop_signal() as stop_requested:
        if recipe.num_learners:
            from training.ray_train import train_on_ray

            train_on_ray(recipe, stop_requested=stop_requested, report=report)
        else:
            train(recipe, Processes(), stop_requested=stop_requested, report=report)
    return run.model
