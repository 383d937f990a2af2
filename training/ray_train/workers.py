"""Learners in processes that Ray Train starts: one per GPU (or CPU share), on as many machines as that takes.

Ray Train reserves what they need, sets what `torch.distributed` and DeepSpeed ask for (RANK, LOCAL_RANK, ...), joins
them, ends all of them when one fails, and starts them again from the newest checkpoint (`max_restarts`). Data,
checkpoints and metrics are ours: they lie in the run's directory, which all machines see.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from training.config import SFTRecipe
from training.logs import read_lines
from training.processes import Processes
from training.rllib.cluster import joined_ray
from training.run_directory import Interrupted, RunDirectory
from training.sft_loop import Report, train

# How often the driver looks for progress, and for a request to stop.
_SECONDS = 0.5


def train_on_ray(
    recipe: SFTRecipe, *, stop_requested: Callable[[], bool] = lambda: False, report: Report | None = None
) -> None:
    """Train with `recipe.num_learners` processes; joins the cluster of RAY_ADDRESS, or starts one on this machine.

    Args:
        recipe: what to do; its `out` is claimed, and a directory that all machines see.
        stop_requested: whether to stop after the step under way.
        report: is told each step.

    Raises:
        Interrupted: it was asked to stop, and the checkpoint is written.
        Exception: what the first learner that failed raised (see `training.sft_loop.train`).
    """
    recipe = _absolute(recipe)
    stop_file = Path(recipe.out) / "stop"
    stop_file.unlink(missing_ok=True)
    progress = _Progress(recipe, report)
    with joined_ray(recipe.num_learners * recipe.num_cpus_per_learner):
        # Workers stay in the directory they are started in: data may be at relative paths.
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
        fit = _Background(_trainer(recipe, stop_file).fit)
        while fit.is_alive():
            if stop_requested():
                stop_file.touch()
            progress.tell()
            fit.join(_SECONDS)
    progress.tell()
    stop_file.unlink(missing_ok=True)
    shutil.rmtree(Path(recipe.out) / "ray_train", ignore_errors=True)
    if fit.error is not None:
        raise _cause(fit.error)


def _trainer(recipe: SFTRecipe, stop_file: Path) -> TorchTrainer:
    on_gpu = recipe.num_gpus_per_learner > 0
    resources = {"CPU": recipe.num_cpus_per_learner} | ({"GPU": recipe.num_gpus_per_learner} if on_gpu else {})
    return TorchTrainer(
        _work,
        train_loop_config={"recipe": recipe, "stop_file": str(stop_file)},
        scaling_config=ScalingConfig(num_workers=recipe.num_learners, use_gpu=on_gpu, resources_per_worker=resources),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        run_config=RunConfig(
            name="ray_train", storage_path=recipe.out, failure_config=FailureConfig(max_failures=recipe.max_restarts)
        ),
    )


def _work(config: dict[str, Any]) -> None:
    """One learner."""
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    train(config["recipe"], Processes(device), device=device, stop_requested=Path(config["stop_file"]).exists)


class _Progress:
    """Tells steps as they appear in OUT/metrics.jsonl."""

    def __init__(self, recipe: SFTRecipe, report: Report | None) -> None:
        self._path, self._steps, self._report = RunDirectory(recipe.out).metrics, recipe.steps, report
        self._told = 0.0 if not self._path.exists() else max((row["step"] for row in self._rows()), default=0.0)

    def tell(self) -> None:
        if self._report is None or not self._path.exists():
            return
        for row in self._rows():
            # After a restart steps come again.
            if row["step"] > self._told:
                self._told = row["step"]
                self._report(int(row["step"]), self._steps, row)

    def _rows(self) -> list[dict[str, float]]:
        return read_lines(self._path)


class _Background(threading.Thread):
    """Runs a function beside the main thread, which Ctrl-C goes to."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._function = function
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self.error = error


def _cause(error: BaseException) -> BaseException:
    """What a learner raised, rather than what Ray Train says of it."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    # The others fail because the first one is gone.
    ours = [failure for failure in failures.values() if isinstance(failure, Interrupted | ValueError | ImportError)]
    return next(iter([*ours, *failures.values()]), error)


def _absolute(recipe: SFTRecipe) -> SFTRecipe:
    """The recipe with paths that mean the same in every directory; hub names stay as they are."""
    traces, out = (str(Path(path).absolute()) for path in (recipe.traces, recipe.out))
    model = str(Path(recipe.model).absolute()) if Path(recipe.model).exists() else recipe.model
    return dataclasses.replace(recipe, model=model, traces=traces, out=out)
