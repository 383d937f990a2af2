"""A training run: a directory that can be interrupted, resumed, watched and read.

    OUT/recipe.json         what was asked for
    OUT/metrics.jsonl       one line per iteration
    OUT/checkpoints/N/      RLlib checkpoints after iteration N (weights, optimizer, cursor, usage rates); the last two
    OUT/model/              the trained checkpoint, as everything loads it; its presence marks a finished run
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray

from training.config import PPORecipe, to_dict
from training.logs import MetricsLog, open_wandb
from training.rllib.algorithm import VLMPPOConfig


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written and the same command resumes it."""


class FinishedRunError(Exception):
    """The directory holds a finished run, which is never overwritten."""


OnIteration = Callable[[dict[str, float]], None]


def run_ppo(recipe: PPORecipe, *, on_iteration: OnIteration | None = None) -> Path:
    """Train by a recipe, from the beginning or from the newest checkpoint in `recipe.out`.

    Returns:
        The directory of the trained model.

    Raises:
        FinishedRunError: if the run is finished already.
        Interrupted: after Ctrl-C or SIGTERM, once the iteration under way is over and its checkpoint written.
        ValueError: if the directory holds an unfinished run of another recipe.
    """
    out = Path(recipe.out)
    model = out / "model"
    if model.exists():
        raise FinishedRunError(
            f"{out} holds a finished run (its model is {model}). Choose another out=..., or remove the directory."
        )
    _check_recipe(recipe, out)
    newest = max(_checkpoints(out), default=None, key=lambda path: int(path.name))
    with _ray(recipe), _stop_signal() as stop_requested:
        algorithm: Any = VLMPPOConfig().recipe(recipe).build_algo()
        try:
            if newest is not None:
                algorithm.restore_from_path(str(newest.absolute()))
            log = MetricsLog(out / "metrics.jsonl", keep=algorithm.iteration)
            for past in log.past:
                if on_iteration is not None:
                    on_iteration(past)
            with open_wandb(recipe) as wandb_log:
                while algorithm.iteration < recipe.iterations:
                    algorithm.train()
                    metrics = algorithm.last_iteration
                    log.write(metrics)
                    wandb_log(metrics)
                    if on_iteration is not None:
                        on_iteration(metrics)
                    done = algorithm.iteration >= recipe.iterations
                    if done or stop_requested() or algorithm.iteration % recipe.checkpoint_every == 0:
                        _save_checkpoint(algorithm, out)
                    if stop_requested() and not done:
                        raise Interrupted(
                            f"Stopped after iteration {algorithm.iteration} of {recipe.iterations}; the checkpoint is in "
                            f"{out / 'checkpoints'}. Start the same command again to resume."
                        )
            _export(algorithm, recipe, model)
        finally:
            algorithm.stop()
    return model


def _check_recipe(recipe: PPORecipe, out: Path) -> None:
    """The first start writes the recipe down; later ones must ask for the same, up to the number of iterations."""
    path, wanted = out / "recipe.json", to_dict(recipe)
    if path.exists():
        before = json.loads(path.read_text())
        free = {"iterations", "checkpoint_every", "wandb", "num_env_runners", "num_learners"}
        differing = sorted(k for k in wanted if k not in free and wanted[k] != before.get(k))
        if differing:
            changes = ", ".join(f"{k}: {before.get(k)!r} before, {wanted[k]!r} now" for k in differing)
            raise ValueError(
                f"{out} holds an unfinished run of another recipe ({changes}). Use the recipe it was started with, or "
                f"choose another out=..."
            )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, indent=2) + "\n")


def _checkpoints(out: Path) -> list[Path]:
    folder = out / "checkpoints"
    return [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def _save_checkpoint(algorithm: Any, out: Path, keep: int = 2) -> None:
    """Write beside, then rename: a checkpoint with a number for a name is always whole."""
    folder = out / "checkpoints"
    final, partial = folder / str(algorithm.iteration), folder / f"{algorithm.iteration}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    algorithm.save_to_path(str(partial.absolute()))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in sorted(_checkpoints(out), key=lambda path: int(path.name))[:-keep]:
        shutil.rmtree(old)


def _export(algorithm: Any, recipe: PPORecipe, model: Path) -> None:
    """Write the learner's weights as a plain checkpoint directory."""
    from pxr_agents.vlm import VLM

    from training.rllib.weights import learner_weights

    vlm = VLM.from_pretrained(recipe.model)
    vlm.model.load_state_dict(learner_weights(algorithm.learner_group), strict=False)
    partial = model.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    vlm.save(partial)
    partial.rename(model)


@contextmanager
def _ray(recipe: PPORecipe) -> Iterator[None]:
    """Join the cluster this process belongs to, or start one on this machine for the length of the run."""
    started = not ray.is_initialized()
    if started:
        import os

        cpus = recipe.num_env_runners * recipe.num_cpus_per_env_runner + recipe.num_learners * recipe.num_cpus_per_learner
        local: dict[str, Any] = {"num_cpus": max(int(cpus) + 1, os.cpu_count() or 1), "include_dashboard": False}
        in_cluster = bool(os.environ.get("RAY_ADDRESS"))
        ray.init(log_to_driver=False, logging_level="ERROR", **({} if in_cluster else local))
    try:
        yield
    finally:
        if started:
            ray.shutdown()


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request; a second one interrupts at once."""
    requested = False

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    try:
        previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # Only a main thread may set handlers; elsewhere whoever runs the thread decides when to stop.
        previous = {}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
