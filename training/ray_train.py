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

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from .config import SFTRecipe
from .logs import Report, read_lines
from .rllib.run import joined_ray
from .run_directory import Interrupted, RunDirectory

# How often the driver looks for progress, and for a request to stop.
_SECONDS = 0.5


def train_on_ray(
    recipe: SFTRecipe,
    train: Callable[..., None],
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    report: Report | None = None,
) -> None:
    """Train with `recipe.num_learners` processes, each of which calls `train` (see `training.sft_run.train`); joins the
    cluster of RAY_ADDRESS, or starts one on this machine.

    The recipe's `out` is claimed, and a directory that all machines see.

    Raises:
        Interrupted: it was asked to stop, and the checkpoint is written.
        Exception: what the first learner that failed raised.
    """
    recipe = _absolute(recipe)
    out, failures = Path(recipe.out), list[BaseException]()
    stop_file, metrics = out / "stop", RunDirectory(out).metrics
    stop_file.unlink(missing_ok=True)
    told = max((row["step"] for row in read_lines(metrics)), default=0.0)

    def fit() -> None:
        try:
            _trainer(recipe, train, stop_file).fit()
        except BaseException as error:
            failures.append(error)

    def tell() -> None:
        nonlocal told
        for row in read_lines(metrics) if report is not None else []:
            # After a restart steps come again.
            if report is not None and row["step"] > told:
                told = row["step"]
                report(int(row["step"]), recipe.steps, row)

    with joined_ray(recipe.num_learners * recipe.num_cpus_per_learner):
        # Workers stay in the directory they are started in: data may be at relative paths.
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
        # Beside the main thread, which Ctrl-C goes to.
        fitting = threading.Thread(target=fit, daemon=True)
        fitting.start()
        while fitting.is_alive():
            if stop_requested():
                stop_file.touch()
            tell()
            fitting.join(_SECONDS)
    tell()
    stop_file.unlink(missing_ok=True)
    shutil.rmtree(out / "ray_train", ignore_errors=True)
    if failures:
        raise _cause(failures[0])


def _trainer(recipe: SFTRecipe, train: Callable[..., None], stop_file: Path) -> TorchTrainer:
    on_gpu = recipe.num_gpus_per_learner > 0
    resources = {"CPU": recipe.num_cpus_per_learner} | ({"GPU": recipe.num_gpus_per_learner} if on_gpu else {})

    def work() -> None:
        device = get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        train(recipe, device=device, stop_requested=stop_file.exists)

    return TorchTrainer(
        work,
        scaling_config=ScalingConfig(num_workers=recipe.num_learners, use_gpu=on_gpu, resources_per_worker=resources),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        run_config=RunConfig(
            name="ray_train", storage_path=recipe.out, failure_config=FailureConfig(max_failures=recipe.max_restarts)
        ),
    )


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
