"""A warm start, in a directory that can be interrupted and resumed (see `training/run_directory.py`).

`run_sft` starts as many learners as the recipe asks for: none but this process, or processes that Ray Train spreads
over the machines of a cluster (`training.ray_train`). Each of them calls `train`, and they go in step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from .config import SFTRecipe
from .doctor import check_model
from .learners import adapter_weights, export_model, lr_factor, plain_weights, read_ahead
from .logs import MetricsLog, Report, WandbLog, open_wandb
from .run_directory import RESUME, Interrupted, RunDirectory, SampleCursor, TrainingError, stop_signal
from .sft import DeepSpeedLearner, PlainLearner, Processes
from .sft_data import Batch, blank_row, note_skipped, open_rows, parts, read_batches, tensors

# What may differ between the starts of one run.
FREE_KEYS = frozenset({
    "steps", "checkpoint_every", "wandb", "prefetch", "max_restarts", "num_learners", "num_cpus_per_learner",
    "num_gpus_per_learner", "learner.attn_implementation",
})  # fmt: skip


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
            from .ray_train import train_on_ray

            train_on_ray(recipe, train, stop_requested=stop_requested, report=report)
        else:
            train(recipe, stop_requested=stop_requested, report=report)
    return run.model


def train(
    recipe: SFTRecipe,
    *,
    device: torch.device | str = "cpu",
    stop_requested: Callable[[], bool] = lambda: False,
    report: Report | None = None,
) -> None:
    """Train in this process, together with those that `torch.distributed` has joined to it.

    Args:
        recipe: what to do; `out` is a directory that all processes see, and claimed.
        device: where this one computes.
        stop_requested: whether to stop after the step under way; the first process is asked.
        report: called after each step, in the first process.

    Raises:
        Interrupted, DataError, TrainingError, ValueError: as `run_sft`.
    """
    processes = Processes()
    training = _Training(recipe, processes, device)
    log = MetricsLog(training.run.metrics, keep=training.step, counter="step") if processes.rank == 0 else None
    try:
        with open_wandb(recipe, counter="step") if log else nullcontext(WandbLog(None)) as wandb_log:
            while training.step < recipe.steps:
                metrics = training.train_step()
                if log is not None:
                    log.write(metrics)
                    wandb_log(metrics)
                    if report is not None:
                        report(training.step, recipe.steps, metrics)
                done = training.step >= recipe.steps
                stopped = processes.gather(stop_requested())[0]
                if done or stopped or training.step % recipe.checkpoint_every == 0:
                    training.save_checkpoint()
                if stopped and not done:
                    raise Interrupted(
                        f"Stopped after step {training.step} of {recipe.steps}; the checkpoint is in "
                        f"{training.run.checkpoints}. {RESUME}"
                    )
            training.export()
    finally:
        training.batches.close()


class _Training:
    """Everything that changes from step to step, and how it is written down."""

    def __init__(self, recipe: SFTRecipe, processes: Processes, device: torch.device | str) -> None:
        self.step, self.run = 0, RunDirectory(recipe.out)
        self._recipe, self._processes = recipe, processes
        self._learner: PlainLearner | DeepSpeedLearner = (
            PlainLearner(recipe, processes, device)
            if recipe.learner.kind == "ddp"
            else DeepSpeedLearner(recipe, processes)
        )
        chat = self._learner.vlm.chat
        self._blank = blank_row(chat.image_id, chat.image_unit)
        rows, bad = open_rows(recipe, chat)
        self._note_skipped([(row.sample_id or row.place, row.cause) for row in bad])
        cursor = SampleCursor([str(k) for k in range(len(rows))], seed=recipe.seed)
        newest = self.run.newest_checkpoint()
        if newest is not None:
            state = torch.load(newest / "state.pt")
            self.step = state["step"]
            cursor.load_state_dict(state["cursor"])
            self._learner.load(newest)
        self._cursor = cursor.state_dict()
        share = slice(processes.rank, None, processes.size)
        self.batches = read_ahead(read_batches(rows, cursor, share, recipe), recipe.prefetch)

    def train_step(self) -> dict[str, float]:
        """One optimizer step; returns its metrics, the same in all processes."""
        recipe, start = self._recipe, time.perf_counter()
        batch = next(self.batches)
        loaded = time.perf_counter()
        factor = lr_factor(
            self.step, recipe.steps, warmup=recipe.lr_warmup_steps, decay_fraction=recipe.lr_decay_fraction
        )
        # One sum for all: what the loss is a mean over, and what the metrics say.
        n_trained, n_ids, n_bad = self._processes.sum(
            sum(int(row.action.sum()) for row in batch.rows), sum(len(row.ids) for row in batch.rows), len(batch.bad)
        )
        if n_bad:
            self._note_skipped([bad for part in self._processes.gather(batch.bad) for bad in part])
        [loss] = self._processes.sum(self._accumulate(batch, max(n_trained, 1.0)))
        loss /= max(n_trained, 1.0)
        norm = self._update(loss, factor, batch)
        self.step += 1
        self._cursor = batch.cursor
        return {
            "step": float(self.step),
            "loss": loss,
            "lr": recipe.lr * factor,
            "grad_norm": norm,
            "trained_tokens": n_trained,
            "tokens": n_ids,
            "skipped_traces": n_bad,
            "seconds/load": loaded - start,
            "seconds/learn": time.perf_counter() - loaded,
        }

    def _accumulate(self, batch: Batch, normalizer: float) -> float:
        """Add up the gradients of this process' part of the loss; returns that part, not yet divided."""
        recipe = self._recipe
        groups = parts(batch.rows, pack_tokens=recipe.pack_tokens, micro_batch_tokens=recipe.learner.micro_batch_tokens)
        if self._learner.equal_parts:
            groups += [[] for _ in range(max(self._processes.gather(len(groups))) - len(groups))]
            groups = [rows if any(row.images for row in rows) else [*rows, self._blank] for rows in groups]
        packed = recipe.pack_tokens is not None
        return sum(self._learner.accumulate(tensors(rows, packed=packed), normalizer) for rows in groups)

    def _update(self, loss: float, factor: float, batch: Batch) -> float:
        """Step, unless something is no number; returns the norm of the gradients."""
        problem, intact = f"The loss is {loss}", True
        if math.isfinite(loss):
            norm = self._learner.step(factor)
            if math.isfinite(norm):
                return norm
            # Weights that are spread over processes have taken the step before its norm is known.
            problem, intact = f"The norm of the gradients is {norm}", not self._learner.equal_parts
        names = [name for part in self._processes.gather(batch.names) for name in part]
        if intact and self.step and not (self.run.checkpoints / str(self.step)).exists():
            self.save_checkpoint()
        newest = self.run.newest_checkpoint()
        saved = f"The newest checkpoint is {newest}." if newest else "There is no checkpoint yet."
        raise TrainingError(
            f"{problem} at step {self.step + 1}, on the traces {', '.join(names[:8])}{', ...' if names[8:] else ''}; "
            f"expected a finite number. {saved} Lower lr or max_grad_norm in a new run, or look at these traces."
        )

    def _note_skipped(self, skipped: list[tuple[str, str]]) -> None:
        if self._processes.rank == 0:
            note_skipped(self.run.out / "skipped_rows.jsonl", skipped)

    def save_checkpoint(self) -> None:
        """Write everything that a resumed run needs; all processes together, into the directory of the first one."""

        def save(path: Path | None) -> None:
            if path is not None:
                torch.save({"step": self.step, "cursor": self._cursor}, path / "state.pt")
            self._learner.save(Path(self._processes.gather(path)[0]))
            self._processes.gather()

        if self._processes.rank == 0:
            self.run.save_checkpoint(self.step, save)
        else:
            with self.run.writing(self.run.checkpoints / str(self.step)):
                save(None)

    def export(self) -> None:
        """Write the trained model as a plain checkpoint, adapters merged into it and once more in `adapter`."""
        model = self._learner.vlm.model
        weights = self._collect(plain_weights(model))
        adapters = self._collect(adapter_weights(model))
        if self._processes.rank == 0:
            self.run.finish(lambda path: export_model(self._recipe, weights, adapters, path))
        self._processes.gather()

    def _collect(self, named_tensors: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors, on the CPU, in the first process; the others only take part in gathering them."""
        collected: dict[str, Tensor] = {}
        for name, tensor in named_tensors:
            if self._processes.rank == 0:
                collected[name] = tensor.detach().to("cpu", copy=True)
        return collected
