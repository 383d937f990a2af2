"""The table of runs: what each is, how far it is, what came out, and how its manifest differs from a baseline's."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from eval.differences import MODEL_FIELDS, Difference, find_differences
from eval.intervals import wilson_interval
from eval.tables import Cell, cell
from eval.view.curves import Histories
from eval.view.index import Indexes, accuracy_so_far
from eval.view.library import Library, Run
from eval.view.query import Query, run_link
from pxr_env.errors import show

#: Runs on one page.
PAGE = 200
#: What a checkpoint of any training is called.
_NO_NAMES = frozenset({"model", "warm", "base"})


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One line of the table.

    Args:
        run: the run.
        link: its page.
        task, agent: what was asked, and who answered.
        progress: "finished", or how far it is.
        accuracy, usage: with intervals; None if unknown. Of a training they are those of its last iteration.
        n_episodes: that are done.
        alarms: operations that are dying out at the end of a training.
        age: how long ago something was written.
        differences: of its manifest to the baseline's; None where there is nothing to compare.
        gain: accuracy minus the baseline's; None likewise.
    """

    run: Run
    link: str
    task: str
    agent: str
    progress: str
    accuracy: Cell | None
    usage: Cell | None
    n_episodes: int
    alarms: tuple[str, ...]
    age: str
    differences: tuple[Difference, ...] | None = None
    gain: float | None = None

    @property
    def matters(self) -> list[Difference]:
        """The differences that make the scores incomparable."""
        return [difference for difference in self.differences or () if difference.matters == "yes"]

    def sort_key(self, name: str) -> Any:
        """What the table is sorted by under column `name`; missing values are the smallest."""
        cells = {"accuracy": self.accuracy, "usage": self.usage}
        if name in cells:
            found = cells[name]
            return -math.inf if found is None else found.value
        if name == "changed":
            return self.run.changed
        if name == "episodes":
            return self.n_episodes
        return {"kind": self.run.kind, "task": self.task, "agent": self.agent}.get(name, self.run.key).casefold()


#: Columns that can be sorted by, what they are called, and whether the first click puts the largest first.
COLUMNS = (
    ("name", "Run", False),
    ("task", "Task", False),
    ("agent", "Agent", False),
    ("episodes", "Episodes", True),
    ("accuracy", "Accuracy", True),
    ("usage", "Usage", True),
    ("changed", "Changed", True),
)


class RunTable:
    """Makes the rows of the table of runs."""

    def __init__(self, library: Library, indexes: Indexes, histories: Histories) -> None:
        self._library, self._indexes, self._histories = library, indexes, histories

    def context(self, query: Query) -> dict[str, Any]:
        """The variables of `view_runs.html.jinja`."""
        runs = self._library.runs()
        text = (query.get("q") or "").strip().casefold()
        rows = [self.row(run) for run in runs.values()]
        rows = [row for row in rows if text in f"{row.run.key}\n{row.task}\n{row.agent}\n{row.run.kind}".casefold()]
        baseline = runs.get(query.get("baseline") or "")
        if baseline is not None and baseline.kind == "evaluation":
            reference = self.row(baseline)
            rows = [self._compared(row, reference) for row in rows]
        sort = query.get("sort") or "changed"
        falling = (query.get("order") or ("desc" if _falls(sort) else "asc")) == "desc"
        rows.sort(key=lambda row: row.sort_key(sort), reverse=falling)
        page = min(query.number("page"), max(0, (len(rows) - 1) // PAGE))
        return {
            "query": query,
            "describe": describe,
            "root": str(self._library.root),
            "n_runs": len(runs),
            "rows": rows[page * PAGE : (page + 1) * PAGE],
            "page": page,
            "n_pages": max(1, math.ceil(len(rows) / PAGE)),
            "columns": COLUMNS,
            "sort": sort,
            "falling": falling,
            "baseline": None if baseline is None else baseline.key,
            "live": any(row.run.is_running for row in rows),
        }

    def row(self, run: Run) -> RunRow:
        """What the table says of one run."""
        make = {"evaluation": self._evaluation, "training": self._training, "quick start": self._quick_start}
        common: dict[str, Any] = {"run": run, "link": run_link(run.key), "age": age(run.changed)}
        try:
            return RunRow(**common, **make[run.kind](run))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            # Somebody else's file with one of our names: one such directory must not hide the others.
            nothing: dict[str, Any] = {"task": "", "agent": "", "accuracy": None, "usage": None, "n_episodes": 0}
            return RunRow(**common, progress="cannot be read", alarms=(), **nothing)

    def _evaluation(self, run: Run) -> dict[str, Any]:
        manifest, metrics = (
            self._library.read(run.path / "manifest.json"),
            self._library.read(run.path / "metrics.json"),
        )
        total = _whole(manifest.get("n_samples")) * max(1, _whole(manifest.get("repeats")))
        if isinstance(metrics.get("statistics"), dict):
            accuracy, usage = cell(metrics, "accuracy"), cell(metrics, "usage_rate")
            n_done, progress = int(metrics["statistics"].get("n_episodes", 0)), "finished"
        else:
            facts = self._indexes.get(run.lines).facts
            correct, scored = accuracy_so_far(facts)
            accuracy = _rate(correct, scored)
            usage = _rate(sum("used" in each.tags for each in facts if each.outcome != "error"), scored)
            n_done, progress = len(facts), f"{len(facts):,} of {total:,}"
        return {
            "task": env_name(manifest),
            "agent": agent_name(manifest),
            "progress": progress,
            "accuracy": accuracy,
            "usage": usage,
            "n_episodes": n_done,
            "alarms": (),
        }

    def _training(self, run: Run) -> dict[str, Any]:
        recipe, history = self._library.read(run.path / "recipe.json"), self._histories.get(run.lines)
        last = history.rows[-1] if history.rows else {}
        done, total = int(last.get(history.counter, 0)), _whole(recipe.get("iterations") or recipe.get("steps"))
        of_all = f" of {total:,}" if total else ""
        return {
            "task": env_name(recipe),
            "agent": model_name(recipe.get("model")),
            "progress": f"{history.counter} {done:,}{of_all}",
            "accuracy": None if "accuracy" not in last else Cell(value=last["accuracy"]),
            "usage": None if "usage_rate" not in last else Cell(value=last["usage_rate"]),
            "n_episodes": int(sum(row.get("n_episodes", 0) for row in history.rows)),
            "alarms": tuple(name for name, _, _, lasts in history.alarms() if lasts),
        }

    def _quick_start(self, run: Run) -> dict[str, Any]:
        summary = self._library.read(run.path / "summary.json")
        targets = [target for target in summary.get("targets") or [] if isinstance(target, dict)]
        met = sum(bool(target.get("met")) for target in targets)
        return {
            "task": "the learning trap",
            "agent": f"seed {summary.get('seed')}",
            "progress": f"{met} of {len(targets)} targets met" if targets else "finished",
            "accuracy": None,
            "usage": None,
            "n_episodes": 0,
            "alarms": (),
        }

    def _compared(self, row: RunRow, baseline: RunRow) -> RunRow:
        if row.run.kind != "evaluation" or row.run.key == baseline.run.key:
            return row
        manifests = [self._library.read(one.run.path / "manifest.json") for one in (baseline, row)]
        gain = None
        if row.accuracy is not None and baseline.accuracy is not None:
            gain = row.accuracy.value - baseline.accuracy.value
        return replace(row, differences=tuple(find_differences(manifests, MODEL_FIELDS)), gain=gain)


def describe(difference: Difference) -> str:
    """A difference in one line: "sampling.temperature: 0 → 1"."""
    before, after = ("none" if value is None else show(value, 24) for value in difference.values)
    return f"{difference.field}: {before} → {after}"


def agent_name(manifest: Mapping[str, Any]) -> str:
    """Who played: the model's name where there is one."""
    server = manifest.get("server")
    model = server.get("model") if isinstance(server, Mapping) else manifest.get("model")
    agent = str(manifest.get("agent", ""))[:200]
    return f"{agent} {model_name(model)}" if model else agent


def env_name(content: Mapping[str, Any]) -> str:
    """The id of the environment that a manifest or a recipe names, without the module that registers it."""
    env = content.get("env")
    return str(env.get("id", ""))[:200].rpartition(":")[2] if isinstance(env, Mapping) else ""


def age(changed: float) -> str:
    """How long ago, in words."""
    seconds = max(0.0, time.time() - changed)
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def _falls(column: str) -> bool:
    return next((falls for name, _, falls in COLUMNS if name == column), False)


def _rate(count: int, total: int) -> Cell | None:
    if total == 0:
        return None
    low, high = wilson_interval(count, total)
    return Cell(value=count / total, low=low, high=high, count=count, total=total)


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def model_name(value: object) -> str:
    """The last part of a path or name, and the one before where the last says nothing."""
    parts = str(value or "").rstrip("/").split("/")
    return "/".join(parts[-2:] if parts[-1] in _NO_NAMES else parts[-1:])[:200]
