"""The loop of a warm start: in one process, or in many that go in step (see `training.sft_run`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch

from pxr_agents.vlm import VLM
from training.config import SFTRecipe
from training.cursor import SampleCursor
from training.deepspeed_engine import gathered
from training.errors import TrainingError
from training.logs import MetricsLog, WandbLog, open_wandb
from training.lora import adapter_weights, plain_weights, save_adapters
from training.packing import batches, blank_row, parts
from training.prefetch import Prefetcher
from training.processes import Processes
from training.run_directory import Interrupted, RunDirectory
from training.schedule import lr_factor
from training.sft_batches import Batch, SkippedRows, named, read_batches
from training.sft_data import open_rows
from training.sft_learner import Learner, PlainLearner

Report = Callable[[int, int, dict[str, float]], None]
"""Progress: steps done, of how many, latest measurements."""


def train(
    recipe: SFTRecipe,
    processes: Processes,
    *,
    device: torch.device | str = "cpu",
    stop_requested: Callable[[], bool] = lambda: False,
    report: Report | None = None,
) -> None:
    """Train in this process, together with the others.

    Args:
        recipe: what to do; `out` is a directory that all processes see, and claimed.
        processes: all that call this function.
        device: where this one computes.
        stop_requested: whether to stop after the step under way; the first process is asked.
        report: called after each step, in the first process.

    Raises:
        Interrupted, DataError, TrainingError, ValueError: as `training.sft_run.run_sft`.
    """
    training = _Training(recipe, processes, device)
    log = MetricsLog(training.run.metrics, keep=training.step, counter="step") if processes.first else None
    wandb = open_wandb(recipe, counter="step") if processes.first else nullcontext(WandbLog(None))
    with closing(training), wandb as wandb_log:
        while training.step < recipe.steps:
            metrics = training.train_step()
            if log is not None:
                log.write(metrics)
                wandb_log(metrics)
                if report is not None:
                    report(training.step, recipe.steps, metrics)
            done = training.step >= recipe.steps
            stopped = bool(processes.agree(stop_requested()))
            if done or stopped or training.step % recipe.checkpoint_every == 0:
                training.save_checkpoint()
            if stopped and not done:
                raise Interrupted(
                    f"Stopped after step {training.step} of {recipe.steps}; the checkpoint is in "
                    f"{training.run.checkpoints}. Start the same command again to resume."
                )
        training.export()


class _Training:
    """Everything that changes from step to step, and how it is written down."""

    def __init__(self, recipe: SFTRecipe, processes: Processes, device: torch.device | str) -> None:
        self.step = 0
        self.run = RunDirectory(recipe.out)
        self._recipe, self._processes = recipe, processes
        self._learner = _open_learner(recipe, processes, device)
        chat = self._learner.vlm.chat
        self._blank = blank_row(chat.image_id, chat.image_unit)
        rows, bad = open_rows(recipe, chat)
        self._skipped = SkippedRows(self.run.out / "skipped_rows.jsonl") if processes.first else None
        if self._skipped is not None:
            self._skipped.write(named(bad))
        cursor = SampleCursor([str(k) for k in range(len(rows))], seed=recipe.seed)
        newest = self.run.newest_checkpoint()
        if newest is not None:
            state = torch.load(newest / "state.pt")
            self.step = state["step"]
            cursor.load_state_dict(state["cursor"])
            self._learner.load(newest)
        self._cursor = cursor.state_dict()
        read = read_batches(
            rows,
            cursor,
            processes,
            batch_size=recipe.batch_size,
            max_length=recipe.max_length,
            skip_bad_rows=recipe.skip_bad_rows,
        )
        self._batches: Prefetcher[Batch] = Prefetcher(read, recipe.prefetch)

    def close(self) -> None:
        """End the thread that reads ahead."""
        self._batches.close()

    def train_step(self) -> dict[str, float]:
        """One optimizer step; returns its metrics, the same in all processes."""
        recipe, start = self._recipe, time.perf_counter()
        batch = next(self._batches)
        loaded = time.perf_counter()
        factor = lr_factor(
            self.step, recipe.steps, warmup=recipe.lr_warmup_steps, decay_fraction=recipe.lr_decay_fraction
        )
        # One sum for all: what the loss is a mean over, and what the metrics say.
        n_trained, n_ids, n_bad = self._processes.sum(batch.n_trained, batch.n_ids, len(batch.bad))
        if n_bad:
            self._note(batch)
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
            [n_parts] = self._processes.max(len(groups))
            groups += [[] for _ in range(int(n_parts) - len(groups))]
            groups = [rows if any(row.images for row in rows) else [*rows, self._blank] for rows in groups]
        packed = recipe.pack_tokens is not None
        return sum(self._learner.accumulate(batches(rows, packed=packed), normalizer) for rows in groups)

    def _update(self, loss: float, factor: float, batch: Batch) -> float:
        """Step, unless something is no number; returns the norm of the gradients."""
        if loss - loss == 0.0:
            try:
                return self._learner.step(factor)
            except FloatingPointError as error:
                problem = str(error)
        else:
            problem = f"The loss is {loss}"
        names = self._processes.gather(list(batch.names))
        # Weights that are spread over processes have taken the step before its norm is known.
        intact = loss - loss != 0.0 or not self._learner.equal_parts
        if intact and self.step and not (self.run.checkpoints / str(self.step)).exists():
            self.save_checkpoint()
        newest = self.run.newest_checkpoint()
        saved = f"The newest checkpoint is {newest}." if newest else "There is no checkpoint yet."
        raise TrainingError(
            f"{problem} at step {self.step + 1}, on the traces {', '.join(names[:8])}{', ...' if names[8:] else ''}; "
            f"expected a finite number. {saved} Lower lr or max_grad_norm in a new run, or look at these traces."
        )

    def _note(self, batch: Batch) -> None:
        bad = self._processes.gather(list(batch.bad))
        if self._skipped is not None:
            self._skipped.write(bad)

    def save_checkpoint(self) -> None:
        """Write everything that a resumed run needs; all processes together."""
        state = {"step": self.step, "cursor": self._cursor}

        def save(path: Path | None) -> None:
            folder = Path(self._processes.agree(None if path is None else str(path)))
            self._learner.save(folder)
            self._processes.agree()

        def save_all(path: Path) -> None:
            torch.save(state, path / "state.pt")
            save(path)

        if self._processes.first:
            self.run.save_checkpoint(self.step, save_all)
        else:
            with self.run.writing(self.run.checkpoints / str(self.step)):
                save(None)

    def export(self) -> None:
        """Write the trained model as a plain checkpoint, adapters merged into it and once more in `adapter`."""
        model = self._learner.vlm.model
        weights = _collect(plain_weights(model, gathered), self._processes)
        adapters = _collect(adapter_weights(model, gathered), self._processes)
        if self._processes.first:
            self.run.finish(lambda path: _write_model(self._recipe, weights, adapters, path))
        self._processes.agree()


def _open_learner(recipe: SFTRecipe, processes: Processes, device: torch.device | str) -> Learner:
    if recipe.learner.kind == "ddp":
        return PlainLearner(recipe, processes, device)
    from training.sft_deepspeed import DeepSpeedLearner

    return DeepSpeedLearner(recipe, processes)


def _collect(named_tensors: Iterator[tuple[str, torch.Tensor]], processes: Processes) -> dict[str, torch.Tensor]:
    """The tensors, on the CPU, in the first process; the others only take part in gathering them."""
    collected: dict[str, torch.Tensor] = {}
    for name, tensor in named_tensors:
        if processes.first:
            collected[name] = tensor.detach().to("cpu", copy=True)
    return collected


def _write_model(recipe: SFTRecipe, weights: dict[str, Any], adapters: dict[str, Any], path: Path) -> None:
    dtype = torch.bfloat16 if recipe.learner.dtype == "bfloat16" else torch.float32
    vlm = VLM.from_pretrained(recipe.model, dtype=dtype)
    vlm.model.load_state_dict(weights)
    vlm.save(path)
    if adapters:
        learner, base = recipe.learner, Path(recipe.model)
        save_adapters(
            path / "adapter",
            adapters,
            base=str(base.absolute()) if base.exists() else recipe.model,
            rank=learner.lora_rank,
            alpha=learner.lora_alpha,
            targets=learner.lora_targets,
        )
