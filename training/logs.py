"""Where numbers go: a JSON lines file always, wandb if it is wanted and there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from training.config import PPORecipe, to_dict


class MetricsLog:
    """Appends one JSON line per iteration.

    Args:
        path: the file.
        keep: iterations that are done; lines of later ones (written after the checkpoint that a run resumes from)
            are dropped.
    """

    def __init__(self, path: Path, *, keep: int) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.past: list[dict[str, float]] = [
            row for row in (json.loads(line) for line in lines if line.endswith("}")) if row["iteration"] <= keep
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in self.past))

    def write(self, metrics: Mapping[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(dict(metrics)) + "\n")


@contextmanager
def open_wandb(recipe: PPORecipe) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """A function that logs to wandb: online with an API key, offline without, nothing if not wanted or not installed."""
    if not recipe.wandb:
        yield lambda metrics: None
        return
    try:
        import wandb
    except ImportError:
        yield lambda metrics: None
        return
    mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    mode = os.environ.get("WANDB_MODE", mode)
    run = wandb.init(project="pxr", dir=recipe.out, config=to_dict(recipe), mode=mode, resume="allow")
    try:
        yield lambda metrics: run.log(dict(metrics), step=int(metrics["iteration"]))
    finally:
        run.finish()
