"""What was lost, hung or was left out in a run, and what was done about it: never silent, one line each."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["env runner", "engine", "stuck", "given up", "skipped step", "restart"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them.

    Attributes:
        kind: "env runner" and "engine" for processes that were lost, "stuck" for an environment that did not come back
            or cannot show its sample, "given up" for a sample that is left out, "skipped step" of the optimizer,
            "restart" of the whole run from a checkpoint.
        text: what happened, and what was done.
        sample_id: the sample it is about, if it is about one.
    """

    kind: Kind
    text: str
    sample_id: str | None = None


class FaultLog:
    """Appends faults to OUT/faults.jsonl and warns of them. What came before stays, in runs that are resumed, too.

    Args:
        path: the file.
    """

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
