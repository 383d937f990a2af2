"""The batches of a warm start: which traces each process reads for a step, in an order that survives a restart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pxr_agents.types import Tokens
from pxr_env.datasets import BadRow
from pxr_env.errors import DataError, MediaError
from training.cursor import SampleCursor
from training.processes import Processes
from training.sft_data import Rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One process' share of the traces of a step.

    Attributes:
        rows: as token ids, with pixels.
        names: of the traces in `rows`.
        bad: name and cause of traces that were to be in it and could not be read.
        cursor: where the step after this one begins (see `SampleCursor.state_dict`).
    """

    rows: tuple[Tokens, ...]
    names: tuple[str, ...]
    bad: tuple[tuple[str, str], ...]
    cursor: dict[str, int]

    @property
    def n_ids(self) -> int:
        """Ids in all."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def n_trained(self) -> int:
        """Ids that carry a loss."""
        return sum(int(row.action.sum()) for row in self.rows)


def read_batches(
    rows: Rows,
    cursor: SampleCursor,
    processes: Processes,
    *,
    batch_size: int,
    max_length: int | None = None,
    skip_bad_rows: bool = False,
) -> Iterator[Batch]:
    """Yields batch after batch, without end. A process reads every `size`-th trace only.

    Args:
        rows: the traces.
        cursor: over their numbers; the same in all processes.
        processes: which of how many this one is.
        batch_size: traces of a step, of all processes together.
        max_length: a trace with more ids is bad.
        skip_bad_rows: leave bad traces out of their batch.

    Raises:
        DataError, MediaError: a trace is bad (without `skip_bad_rows`).
    """
    while True:
        numbers = [int(k) for k in cursor.take(batch_size)][processes.rank :: processes.size]
        kept, names, bad = [], [], []
        for number in numbers:
            try:
                row = rows.row(number)
                _check_length(rows.name(number), row, max_length)
            except (DataError, MediaError) as error:
                if not skip_bad_rows:
                    raise
                bad.append((rows.name(number), str(error)))
                continue
            kept.append(row)
            names.append(rows.name(number))
        yield Batch(rows=tuple(kept), names=tuple(names), bad=tuple(bad), cursor=cursor.state_dict())


def _check_length(name: str, row: Tokens, max_length: int | None) -> None:
    if max_length is not None and len(row.ids) > max_length:
        raise DataError(
            f"{name}: {len(row.ids)} ids came; expected at most max_length={max_length}. Lower the pixel budget of its "
            f"images, raise max_length, or set skip_bad_rows=true."
        )


class SkippedRows:
    """OUT/skipped_rows.jsonl: every trace that was left out, once, by its name and with the cause.

    Args:
        path: the file; what it has already is not written again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._names = {json.loads(line)["name"] for line in lines if line.endswith("}")}

    def write(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Note traces: name and cause."""
        new = {name: cause for name, cause in skipped if name not in self._names}
        if new:
            with self._path.open("a", encoding="utf-8") as file:
                for name, cause in new.items():
                    file.write(json.dumps({"name": name, "cause": cause}, ensure_ascii=False) + "\n")
        self._names |= new.keys()


def named(bad: Iterable[BadRow]) -> list[tuple[str, str]]:
    """Bad rows of a data file as names and causes."""
    return [(row.sample_id or row.place, row.cause) for row in bad]
