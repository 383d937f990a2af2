"""Runs of PPO at the same time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from ..config import PPORecipe
from ..run_directory import Interrupted, stop_signal


def train_side_by_side(recipes: Mapping[str, PPORecipe], on_iteration: Callable[[str, dict[str, float]], None]) -> None:
    """Train by every recipe, from its beginning or newest checkpoint; `on_iteration` is called with the name of a run
    and the metrics of every iteration, those of earlier starts first.

    A request to stop reaches all of them, and so does the failure of one; what they raise is raised when all are over.

    Raises:
        Interrupted, TrainingError, ValueError, FileNotFoundError: as `training.rllib.run.run_ppo`.
        RuntimeError: a process died.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, tuple[str, BaseProcess]] = {}
    errors: list[Exception] = []
    told = False
    with stop_signal() as stop_requested:
        for name, recipe in recipes.items():
            ours, theirs = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_train, args=(recipe, theirs), daemon=True)
            process.start()
            theirs.close()
            running[ours] = name, process
        while running:
            for connection in wait(list(running), timeout=0.5):
                assert isinstance(connection, Connection)
                name, process = running[connection]
                try:
                    news = connection.recv()
                except EOFError:
                    del running[connection]
                    process.join()
                    if process.exitcode:
                        errors.append(RuntimeError(f"The run {name!r} ended with status {process.exitcode}"))
                    continue
                if isinstance(news, Exception):
                    errors.append(news)
                else:
                    on_iteration(name, news)
            if not told and (errors or stop_requested()):
                told = True
                for _, process in running.values():
                    os.kill(process.pid or 0, signal.SIGINT)
    # What failed, rather than what it interrupted.
    for error in sorted(errors, key=lambda each: isinstance(each, Interrupted)):
        raise error


def _train(recipe: PPORecipe, connection: Connection) -> None:
    """Runs in a process of its own: tells of every iteration, and of an error."""
    # Ctrl-C at a terminal reaches the parent alone, which passes it on.
    os.setsid()
    import torch
    from transformers.utils import logging

    from ..rllib.run import run_ppo

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    try:
        run_ppo(recipe, on_iteration=connection.send)
    except Exception as error:
        connection.send(error)
