"""Where numbers go: a JSON lines file always, wandb if it is wanted and there."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.config import PPORecipe, SFTRecipe, to_dict

Log = Callable[[Mapping[str, float]], None]


def combine_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One dict out of those of several minibatches or learners: means over the rows that have a key, and the largest
    of what is called `..._max`."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: max(v) if name.endswith("_max") else sum(v) / len(v) for name, v in values.items()}


class MetricsLog:
    """Appends one JSON line per iteration (or step).

    Args:
        path: the file.
        keep: iterations that are done; lines of later ones (written after the checkpoint that a run resumes from)
            are dropped.
        counter: the key that numbers the lines.

    Attributes:
        past: the lines that were kept.
    """

    def __init__(self, path: Path, *, keep: int, counter: str = "iteration") -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.past: list[dict[str, float]] = [
            row for row in (json.loads(line) for line in lines if line.endswith("}")) if row[counter] <= keep
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in self.past))

    def write(self, metrics: Mapping[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(dict(metrics)) + "\n")


@contextmanager
def open_wandb(recipe: PPORecipe | SFTRecipe, *, counter: str = "iteration") -> Iterator[Log]:
    """A function that logs to wandb: online with an API key, offline without, nothing if not wanted or not installed.

    A run that cannot be opened is a warning: training does not depend on it. A resumed run goes on under its old id.

    Args:
        recipe: its `wandb` says whether it is wanted, its `out` where offline files go.
        counter: the metric that numbers the rows.
    """
    run = _open_run(recipe) if recipe.wandb else None
    if run is None:
        yield lambda metrics: None
        return
    try:
        yield lambda metrics: run.log(dict(metrics), step=int(metrics[counter]))
    finally:
        run.finish()


def _open_run(recipe: PPORecipe | SFTRecipe) -> Any:
    try:
        import wandb
    except ImportError:
        return None
    mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    # Its capture of the console would fight with progress bars.
    settings = wandb.Settings(silent=True, console="off")
    id_file = Path(recipe.out) / "wandb_id"
    run_id = id_file.read_text().strip() if id_file.exists() else None
    arguments: dict[str, Any] = {"dir": recipe.out, "config": to_dict(recipe), "mode": mode, "settings": settings}
    try:
        run = wandb.init(project="pxr", id=run_id, resume="allow" if mode == "online" else None, **arguments)
    except (wandb.Error, OSError) as error:
        logging.getLogger(__name__).warning("wandb is left out: %s. WANDB_MODE=offline logs to disk.", error)
        return None
    id_file.write_text(f"{run.id}\n")
    return run
