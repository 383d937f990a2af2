"""A supervised run on traces, in a directory that can be interrupted and resumed (see `training/run_directory.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pxr_agents.vlm import VLM
from training.config import SFTRecipe
from training.cursor import SampleCursor
from training.demonstrations import Demonstrations, read_traces
from training.logs import MetricsLog, open_wandb
from training.preflight import check_model
from training.run_directory import Interrupted, RunDirectory, stop_signal
from training.schedule import lr_factor
from training.sft import Optimizers, TokenWeights, cross_entropy

FREE_KEYS = frozenset({"steps", "checkpoint_every", "wandb"})

Report = Callable[[int, int, dict[str, float]], None]
"""Progress: steps done, of how many, latest measurements."""


def run_sft(recipe: SFTRecipe, report: Report | None = None) -> Path:
    """Train by a recipe, from the beginning or from the newest checkpoint in `recipe.out`.

    Returns:
        The directory of the trained model.

    Raises:
        FinishedRunError: if the run is finished already.
        Interrupted: after Ctrl-C or SIGTERM, once the step under way is over and its checkpoint written.
        DataError: if the traces cannot be read, or the environment does not take them.
        ValueError: if the directory holds an unfinished run of another recipe.
    """
    run = RunDirectory(recipe.out)
    run.claim(recipe, free_keys=FREE_KEYS)
    traces = read_traces(recipe.traces)
    check_model(recipe.model)
    vlm = VLM.from_pretrained(recipe.model)
    training = _Training(vlm, Demonstrations(traces, vlm.chat), recipe)
    newest = run.newest_checkpoint()
    if newest is not None:
        training.load_state_dict(torch.load(newest / "state.pt"))
    log = MetricsLog(run.metrics, keep=training.step, counter="step")
    with stop_signal() as stop_requested, open_wandb(recipe, counter="step") as wandb_log:
        while training.step < recipe.steps:
            metrics = training.train_step()
            log.write(metrics)
            wandb_log(metrics)
            if report is not None:
                report(training.step, recipe.steps, metrics)
            done = training.step >= recipe.steps
            if done or stop_requested() or training.step % recipe.checkpoint_every == 0:
                run.save_checkpoint(training.step, lambda path: torch.save(training.state_dict(), path / "state.pt"))
            if stop_requested() and not done:
                raise Interrupted(
                    f"Stopped after step {training.step} of {recipe.steps}; the checkpoint is in {run.checkpoints}. "
                    f"Start the same command again to resume."
                )
    run.finish(vlm.save)
    return run.model


class _Training:
    """Everything that changes from step to step."""

    def __init__(self, vlm: VLM, rows: Demonstrations, recipe: SFTRecipe) -> None:
        self.step = 0
        self._vlm, self._rows, self._recipe = vlm, rows, recipe
        self._cursor = SampleCursor([str(k) for k in range(len(self._rows))], seed=recipe.seed)
        self._optimizers = Optimizers(vlm, lr=recipe.lr, weight_decay=recipe.weight_decay)

    def train_step(self) -> dict[str, float]:
        recipe, start = self._recipe, time.perf_counter()
        batch = [self._rows.row(int(k)) for k in self._cursor.take(recipe.batch_size)]
        replayed = time.perf_counter()
        factor = lr_factor(
            self.step, recipe.steps, warmup=recipe.lr_warmup_steps, decay_fraction=recipe.lr_decay_fraction
        )
        loss = cross_entropy(self._vlm, batch, TokenWeights())
        self._optimizers.step(loss, factor, recipe.max_grad_norm)
        self.step += 1
        return {
            "step": float(self.step),
            "loss": float(loss.detach()),
            "lr": recipe.lr * factor,
            "trained_tokens": float(sum(int(row.action.sum()) for row in batch)),
            "seconds/replay": replayed - start,
            "seconds/learn": time.perf_counter() - replayed,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "cursor": self._cursor.state_dict(),
            "model": self._vlm.model.state_dict(),
            "optimizers": self._optimizers.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self._cursor.load_state_dict(state["cursor"])
        self._vlm.model.load_state_dict(state["model"])
        self._optimizers.load_state_dict(state["optimizers"])
