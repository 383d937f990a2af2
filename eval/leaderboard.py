"""Agents and models in one table, the best first: how right they are, how they use operations, and what it costs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from .comparison import ALPHA, RunComparison, compare_runs
from .comparison import add_arguments as add_runs
from .differences import MODEL_FIELDS
from .options import open_console, say
from .records import RunFiles
from .tables import Cell, cell, label

#: After what the runs are known by: where samples say whether they need an operation, and where none does.
_BY_NEED = (
    *("accuracy_needs_operation", "accuracy_easy", "usage_rate_needs_operation", "usage_rate_easy"),
    "first_turn_rate_easy",
)
_OVERALL = ("usage_rate", "first_turn_rate")
#: Of the section "adaptive" of `RUN/audit`: by solvability, and of the uses.
_MODES = ("mode_accuracy", "tool_gain", "tool_harm")
_USES = ("faithful", "causal")

_Row = dict[str, Cell | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaderboard:
    """Runs on their common samples, the best first; of equal ones that with fewer vision tokens.

    Args:
        metric: what they are ranked by.
        n_common: samples that all of them have and scored; the numbers are over these, those of audits over the
            samples of the audit.
        rows: name of the run -> statistic -> value; None where it is not known. What no run knows is absent.
        notes: what the reader has to know.
    """

    metric: str
    n_common: int
    rows: Mapping[str, _Row]
    notes: tuple[str, ...]


def leaderboard(directories: Sequence[Path], *, compared: Collection[str] = MODEL_FIELDS, seed: int = 0) -> Leaderboard:
    """Put finished runs in order. Arguments and errors are those of `eval.comparison.compare_runs`, and:

    Raises:
        ValueError: the runs cannot be ranked; the message says why.
    """
    comparison = compare_runs(directories, compared=compared, seed=seed)
    if comparison.obstacles:
        raise ValueError(
            f"the runs are not comparable: {'; '.join(comparison.obstacles)}. Expected runs that were asked the same "
            "in the same way; `pxr eval compare` lists what differs, and --allow FIELD says that it is meant to."
        )
    by_need = any("usage_rate_easy" in metrics["statistics"] for metrics in comparison.metrics)
    names = (comparison.metric, *(_BY_NEED if by_need else _OVERALL))
    rows: dict[str, _Row] = {}
    notes = []
    for name, directory, metrics in zip(comparison.names, directories, comparison.metrics, strict=True):
        audited, note = _audited(directory, comparison.n_common)
        rows[name] = {statistic: cell(metrics, statistic) for statistic in names} | audited
        rows[name]["vision_tokens"] = cell(metrics, "vision_tokens")
        notes += [f"{name}: {note}"] if note else []
    order = sorted(rows, key=lambda name: _rank(rows[name]))
    known = [statistic for statistic in rows[order[0]] if any(row[statistic] for row in rows.values())]
    return Leaderboard(
        metric=comparison.metric,
        n_common=comparison.n_common,
        rows={name: {statistic: rows[name][statistic] for statistic in known} for name in order},
        notes=(*_notes(comparison, order[0]), *notes),
    )


def _rank(row: _Row) -> tuple[float, float]:
    """Smaller is better."""
    score, *_, tokens = row.values()
    assert score is not None
    return -score.value, tokens.value if tokens else 0.0


def _audited(directory: Path, n_common: int) -> tuple[_Row, str]:
    """What the audit of a run adds to its row, and what to know about it."""
    row: _Row = dict.fromkeys((*_MODES, *_USES))
    file = directory / "audit" / "audit.json"
    if not file.exists():
        return row, ""
    audit = json.loads(file.read_text(encoding="utf-8"))
    if "adaptive" not in audit or audit["episodes_sha256"] != RunFiles(directory).metrics().get("episodes_sha256"):
        return row, f"its audit is of another version or of other episodes, and left out (pxr eval audit {directory})."
    adaptive = audit["adaptive"]
    modes = adaptive["solvability"] or {"values": {}}
    row |= {name: Cell(modes["values"][name], *modes["intervals"][name]) for name in _MODES if name in modes["values"]}
    row |= {name: Cell(*adaptive[name]) for name in _USES if adaptive[name]}
    return row, "" if audit["n_samples"] == n_common else f"its audit is of {audit['n_samples']} samples."


def _notes(comparison: RunComparison, first: str) -> list[str]:
    metric = comparison.metric
    alike = [
        pair.second if pair.first == first else pair.first
        for pair in comparison.pairs
        if first in (pair.first, pair.second) and pair.adjusted[metric] >= ALPHA
    ]
    notes = [f"{comparison.n_common} samples; intervals are 95%."]
    if alike:
        notes.append(f"Not significantly below the first in {metric} (p >= {ALPHA} after Holm): {', '.join(alike)}.")
    if comparison.n_unscored:
        notes.append(f"{comparison.n_unscored} samples that some run could not score are left out.")
    may_matter = [one.field for one in comparison.differences if one.matters == "maybe"]
    return notes + ([f"These differ and may matter: {', '.join(may_matter)}."] if may_matter else [])


def markdown(board: Leaderboard) -> list[str]:
    """The lines of a Markdown table; only what ranks has its interval."""
    columns = list(next(iter(board.rows.values())))
    lines = ["| " + " | ".join(["run", *map(label, columns)]) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in board.rows.items():
        texts = [_text(column, one) for column, one in row.items()]
        score = row[board.metric]
        texts[0] += f" ({score.interval})" if score else ""
        lines.append("| " + " | ".join([name.replace("|", "\\|"), *texts]) + " |")
    return lines


def _text(column: str, one: Cell | None) -> str:
    if one is None:
        return "-"
    return f"{one.value:.1f}" if column == "vision_tokens" else one.text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, what is meant to differ, and how it is printed."""
    add_runs(parser)
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")


def run(arguments: argparse.Namespace) -> int:
    """Print the table, and write all numbers where that is wanted."""
    board = leaderboard(arguments.runs, compared=(*MODEL_FIELDS, *arguments.allow), seed=arguments.seed)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(asdict(board), indent=2) + "\n", encoding="utf-8")
    console = open_console()
    if arguments.markdown:
        say(console, *markdown(board), "")
    else:
        columns = next(iter(board.rows.values()))
        table = Table("", *(label(column).replace(", ", ",\n") for column in columns), box=None)
        for name, row in board.rows.items():
            texts = (f"{_text(column, one)}\n{one.interval if one else ''}" for column, one in row.items())
            table.add_row(Text(name), *texts)
        console.print(table)
    say(console, *board.notes)
    return 0
