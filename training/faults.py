"""What goes wrong in a run: a line of OUT/faults.jsonl for what it survives, an error for a number that is not finite.

| what is no finite number | where it is noticed | what happens |
|---|---|---|
| a reward | before the episodes reach a learner | the run stops |
| log-probabilities, advantages | before the first step of an iteration | the run stops |
| the loss of a minibatch | before its gradients are computed | the run stops |
| the norm of the gradients of a finite loss | before the step | the step is left out and counted |

Single gradients that overflow happen in bfloat16, and cost one step; `SKIPS` in a row stop the run. A loss that is no
number never heals by itself.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pxr_agents.statistics import term_returns
from pxr_agents.types import Episode
from training.batch import TrainingRow
from training.run_directory import NonFiniteError

SKIPS = 3
"""So many steps in a row may not be left out."""

_NAMED = 8


@dataclass(frozen=True, slots=True)
class Fault:
    """What was lost, hung or was left out.

    Attributes:
        kind: "env runner" and "engine" for processes that were lost, "stuck" for an environment that did not come back
            or cannot show its sample, "given up" for a sample that is left out, "skipped step" of the optimizer,
            "restart" of the whole run from a checkpoint.
        text: what happened, and what was done.
        sample_id: the sample it is about, if it is about one.
    """

    kind: Literal["env runner", "engine", "stuck", "given up", "skipped step", "restart"]
    text: str
    sample_id: str | None = None


class FaultLog:
    """Appends faults to OUT/faults.jsonl and warns of them. Earlier lines stay, in runs that are resumed, too."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, faults: Sequence[Fault], *, iteration: int) -> None:
        """Write them down as what happened in an iteration."""
        for fault in faults:
            logging.getLogger("training").warning("%s: %s", fault.kind, fault.text)
            row = {"iteration": iteration, "time": time.time(), "kind": fault.kind, "text": fault.text}
            if fault.sample_id is not None:
                row["sample_id"] = fault.sample_id
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def count_faults(faults: Sequence[Fault]) -> dict[str, float]:
    """`faults/KIND` for each kind that there was."""
    kinds = [fault.kind for fault in faults]
    return {f"faults/{kind.replace(' ', '_')}": float(kinds.count(kind)) for kind in dict.fromkeys(kinds)}


def skipped_steps(learned: Mapping[str, float]) -> list[Fault]:
    """What the metrics of an update say of steps that were left out."""
    skipped = int(learned.get("skipped_steps", 0))
    text = f"{skipped} steps were left out, whose gradients have no finite norm"
    return [Fault("skipped step", text)] if skipped else []


def check_rewards(episodes: Sequence[Episode]) -> None:
    """Refuse episodes whose reward is no finite number.

    Raises:
        NonFiniteError: names their samples.
    """
    bad = [episode for episode in episodes if not math.isfinite(episode.reward)]
    if bad:
        raise NonFiniteError(
            f"The environment gave a reward of {bad[0].reward} for {_samples([e.sample_id for e in bad])}; expected "
            f"finite numbers. Look at its scorer and its reward terms",
            [
                {
                    "sample_id": episode.sample_id,
                    "reward": episode.reward,
                    "reward_terms": dict(term_returns(episode)),
                    "turns": [step.turn for step in episode.steps],
                    "answer": episode.answer,
                    "target": episode.target,
                }
                for episode in bad
            ],
        )


def row_problem(row: TrainingRow) -> str | None:
    """What of a row is no finite number, or None."""
    columns = {
        "log-probabilities of the engine": row.engine_logprobs,
        "advantages": row.advantages,
        "log-probabilities of the learner": row.old_logprobs,
        "log-probabilities of the reference": row.ref_logprobs,
        "values of the critic": row.old_values,
    }
    bad = [name for name, column in columns.items() if column is not None and not np.isfinite(column).all()]
    return ", ".join(bad) or None


def describe_row(row: TrainingRow, sample_id: str, text: str) -> dict[str, Any]:
    """What OUT/failed_batch.json says of an episode; `text` is its action ids as text."""
    return {
        "sample_id": sample_id,
        "problem": row_problem(row),
        "ids": len(row.tokens.ids),
        "action_ids": row.n_actions,
        "images": [list(image.shape[:2]) for image in row.tokens.images],
        "advantages": _range(row.advantages),
        "engine_logprobs": _range(row.engine_logprobs),
        "text": text,
    }


def failed_batch_error(problem: str, batches: Sequence[Mapping[str, Any]]) -> NonFiniteError:
    """The error of learners that stopped before a step.

    Args:
        problem: what is no number, and in which iteration.
        batches: `{"learner": number, "problem": what was wrong there or None, "episodes": rows}` of every learner.
    """
    guilty = [batch for batch in batches if batch["problem"]] or list(batches)
    learners = ", ".join(str(batch["learner"]) for batch in guilty)
    episodes = [row for batch in guilty for row in batch["episodes"]]
    named = [row["sample_id"] for row in episodes if row["problem"]] or [row["sample_id"] for row in episodes]
    word = "learner" if len(guilty) == 1 else "learners"
    return NonFiniteError(f"{problem}, on {word} {learners}, with {_samples(named)}", batches)


def _samples(sample_ids: Sequence[str]) -> str:
    different = list(dict.fromkeys(sample_ids))
    more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    return f"sample {different[0]}" if len(different) == 1 else f"samples {', '.join(different[:_NAMED])}{more}"


def _range(column: np.ndarray) -> list[float]:
    """Smallest and largest; nan if there is one."""
    return [float(column.min()), float(column.max())] if len(column) else []
