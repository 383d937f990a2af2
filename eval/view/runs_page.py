"""The table of runs: what each is, how far it is, what came out, and how its manifest differs from a baseline's."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from pxr_env.errors import show
from ..comparison import MATTERS, RunComparison, common_samples, compare_runs, verdict
from ..cost import cost_chart
from ..differences import MODEL_FIELDS, Difference, describe, find_differences
from ..facts import Facts
from ..intervals import wilson_interval
from ..tables import Cell, MetricRow, cell, headline, metric_rows
from .curves import History
from .files import EpisodeIndex, Library, OpenFiles, Run, accuracy_so_far, signature
from .query import NotThere, Query, run_link

#: Runs on one page, and most of one comparison: as many as there are colours.
PAGE, MAX_COMPARED = 200, 6
#: What a checkpoint of any training is called.
_NO_NAMES = frozenset({"model", "warm", "base"})


class Gain(NamedTuple):
    """How much better a run is than another: the difference of the means on their common samples (None if there are
    none), how many those are, and how many have the same id but other content and are left out."""

    value: float | None
    n_common: int
    n_changed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One line of the table: what was asked, who answered, how far it is, and what came out, None where unknown.

    Args:
        metric: what its score is called, see `eval.tables.headline`.
        accuracy, usage: its score and usage with intervals. Of a training those of its last iteration.
        n_episodes, n_unscored: that are done, and of these, how many have no score.
        tokens: read and written per episode.
        alarms: operations that are dying out at the end of a training; "habit" if it looks although it need not,
            "logprob_gap" if engine and learner disagree.
        arms: the runs of its audit.
        differences, gain: of its manifest to the baseline's, and over its score.
    """

    run: Run
    link: str
    task: str = ""
    agent: str = ""
    progress: str = "cannot be read"
    metric: str = "accuracy"
    accuracy: Cell | None = None
    usage: Cell | None = None
    n_episodes: int = 0
    n_unscored: int = 0
    tokens: tuple[float, float] | None = None
    alarms: tuple[str, ...] = ()
    arms: tuple[RunRow, ...] = ()
    differences: tuple[Difference, ...] | None = None
    gain: Gain | None = None

    @property
    def age(self) -> str:
        """How long ago something was written."""
        return age(self.run.changed)

    @property
    def date(self) -> str:
        return datetime.fromtimestamp(self.run.changed).strftime("%Y-%m-%d %H:%M")

    @property
    def search_text(self) -> str:
        """What a search looks into."""
        names = [self.run.key, self.task, self.agent, self.run.kind, *(arm.run.key for arm in self.arms)]
        return "\n".join(names).casefold()

    @property
    def matters(self) -> list[Difference]:
        """The differences that make the scores incomparable."""
        return [difference for difference in self.differences or () if difference.matters == "yes"]

    def sort_key(self, name: str) -> Any:
        """What the table is sorted by under column `name`; missing values are the smallest."""
        numbers = {
            "accuracy": -math.inf if self.accuracy is None else self.accuracy.value,
            "usage": -math.inf if self.usage is None else self.usage.value,
            "changed": self.run.changed,
            "episodes": self.n_episodes,
            "unscored": self.n_unscored,
            "tokens": sum(self.tokens or (-1,)),
        }
        texts = {"task": self.task, "agent": self.agent}
        return numbers[name] if name in numbers else texts.get(name, self.run.key).casefold()


#: Columns that can be sorted by, and what they are called; the first click puts the largest numbers first.
COLUMNS = {
    "name": "Run",
    "task": "Task",
    "agent": "Agent",
    "episodes": "Episodes",
    "accuracy": "Score",
    "usage": "Usage",
    "tokens": "Tokens",
    "unscored": "Errors",
    "changed": "Changed",
}


class RunTable:
    """Makes the rows of the table of runs."""

    def __init__(self, library: Library, indexes: OpenFiles[EpisodeIndex], histories: OpenFiles[History]) -> None:
        self._library, self._indexes, self._histories = library, indexes, histories
        self._gains: dict[tuple[object, ...], Gain] = {}

    def context(self, query: Query) -> dict[str, Any]:
        """The variables of `view_runs.html.jinja`."""
        runs = self._library.runs()
        text = (query.get("q") or "").strip().casefold()
        rows = fold_arms([self.row(run) for run in runs.values()])
        n_arms = sum(len(row.arms) for row in rows)
        rows = [row for row in rows if text in row.search_text]
        baseline = runs.get(query.get("baseline") or "")
        sort = query.get("sort") or "changed"
        falling = (query.get("order") or ("asc" if sort in ("name", "task", "agent") else "desc")) == "desc"
        rows.sort(key=lambda row: row.sort_key(sort), reverse=falling)
        paged = query.paged(rows, PAGE)
        if baseline is not None and baseline.kind == "evaluation":
            reference = self.row(baseline)
            paged["shown"] = [self._compared(row, reference) for row in paged["shown"]]
        return paged | {
            "query": query,
            "describe": describe_change,
            "root": str(self._library.root),
            "n_runs": len(runs) - n_arms,
            "n_arms": n_arms,
            "columns": COLUMNS,
            "sort": sort,
            "falling": falling,
            "baseline": None if baseline is None else baseline.key,
            "live": any(row.run.is_running for row in rows),
        }

    def row(self, run: Run) -> RunRow:
        """What the table says of one run."""
        make = {"evaluation": self._evaluation, "training": self._training, "quick start": self._quick_start}
        try:
            return RunRow(run=run, link=run_link(run.key), **make[run.kind](run))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            # Somebody else's file with one of our names: one such directory must not hide the others.
            return RunRow(run=run, link=run_link(run.key))

    def _evaluation(self, run: Run) -> dict[str, Any]:
        manifest = self._library.read(run.path / "manifest.json")
        metrics = self._library.read(run.path / "metrics.json")
        row: dict[str, Any] = {"task": env_name(manifest), "agent": agent_name(manifest)}
        if isinstance(statistics := metrics.get("statistics"), dict):
            row["metric"] = headline(manifest, metrics)
            row["n_unscored"] = int(statistics.get("n_errors", 0))
            row["n_episodes"] = int(statistics.get("n_episodes", 0)) + row["n_unscored"]
            if "prompt_tokens" in statistics and "completion_tokens" in statistics:
                row["tokens"] = (float(statistics["prompt_tokens"]), float(statistics["completion_tokens"]))
            found = {"accuracy": cell(metrics, row["metric"]), "usage": cell(metrics, "usage_rate")}
            return row | found | {"progress": "finished"}
        facts = self._indexes.get(run.lines).facts
        correct, scored = accuracy_so_far(facts)
        n_used = sum("used" in each.tags for each in facts if each.outcome != "error")
        return row | {
            "progress": f"{len(facts):,} of {n_expected(manifest):,}",
            "accuracy": _rate(correct, scored),
            "usage": _rate(n_used, scored),
            "n_episodes": len(facts),
            "n_unscored": len(facts) - scored,
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
            "accuracy": Cell(last["accuracy"]) if "accuracy" in last else None,
            "usage": Cell(last["usage_rate"]) if "usage_rate" in last else None,
            "n_episodes": int(sum(row.get("n_episodes", 0) for row in history.rows)),
            "alarms": tuple(name for name, _, _, lasts in history.alarms() if lasts),
        }

    def _quick_start(self, run: Run) -> dict[str, Any]:
        summary = self._library.read(run.path / "summary.json")
        targets = [target for target in summary.get("targets") or [] if isinstance(target, dict)]
        met = sum(bool(target.get("met")) for target in targets)
        progress = f"{met} of {len(targets)} targets met" if targets else "finished"
        return {"task": "the learning trap", "agent": f"seed {summary.get('seed')}", "progress": progress}

    def _compared(self, row: RunRow, baseline: RunRow) -> RunRow:
        if row.run.kind != "evaluation" or row.run.key == baseline.run.key:
            return row
        manifests = [self._library.read(one.run.path / "manifest.json") for one in (baseline, row)]
        row = replace(row, differences=tuple(find_differences(manifests, MODEL_FIELDS)))
        return row if row.matters else replace(row, gain=self._gain(baseline, row))

    def _gain(self, baseline: RunRow, row: RunRow) -> Gain:
        """How much better a run is on what both scored, as `eval compare` says it."""
        files = (baseline.run.lines, row.run.lines)
        key = (*files, signature(*files))
        if key not in self._gains:
            groups = [_scored(self._indexes.get(file)) for file in files]
            _, scored, common = common_samples(groups)
            graded = baseline.metric == row.metric != "accuracy"

            def mean(group: Mapping[str, Sequence[Facts]]) -> float:
                values = [
                    [(one.score or 0.0) if graded else "correct" in one.tags for one in group[name]] for name in common
                ]
                return fmean(map(fmean, values))

            gain = mean(groups[1]) - mean(groups[0]) if common else None
            self._gains[key] = Gain(gain, len(common), n_changed=len(scored) - len(common))
        return self._gains[key]


def compare_context(library: Library, query: Query) -> dict[str, Any]:
    """The variables of `view_compare.html.jinja`: the chosen runs side by side on the samples they share, as
    `python -m eval compare` says it.

    Raises:
        NotThere: fewer than two runs were chosen or too many, one is none or unfinished, or they share no sample.
    """
    known = library.runs()
    runs = [known[key] for key in query.runs if key in known and known[key].kind == "evaluation"]
    if not 2 <= len(runs) <= MAX_COMPARED or len(runs) < len(query.runs):
        raise NotThere(
            f"got {len(query.runs)} runs, of which {len(runs)} are evaluations that are there; expected 2 to "
            f"{MAX_COMPARED}. Choose them in the table of runs."
        )
    try:
        states = [signature(run.lines, run.path / "manifest.json") for run in runs]
        comparison = _compared(tuple(run.path for run in runs), *states)
    except (ValueError, FileNotFoundError) as error:
        raise NotThere(f"these runs cannot be compared: {error}") from error
    metric = comparison.metric
    rows = metric_rows(comparison.metrics, first=metric)
    return {
        "comparison": comparison,
        "describe": describe,
        "matters": MATTERS,
        "runs": [(name, run_link(run.key)) for name, run in zip(comparison.names, runs, strict=True)],
        "metric": metric,
        "rows": rows,
        "cost": cost_chart(comparison.names, rows, metric),
        "unscored": [
            int(library.read(run.path / "metrics.json").get("statistics", {}).get("n_errors", 0)) for run in runs
        ],
        "categories": [MetricRow(metric, name, "", comparison.of_category(name)) for name in comparison.categories],
        "verdicts": [(pair, name, verdict(comparison, pair, name)) for pair in comparison.pairs for name in pair.tests],
        "crumbs": [("comparison", None)],
    }


@lru_cache(maxsize=12)
def _compared(runs: tuple[Path, ...], *states: str) -> RunComparison:
    """A comparison takes seconds, and is kept for as long as the files of its runs are in these states."""
    return compare_runs(runs)


def fold_arms(rows: Sequence[RunRow]) -> list[RunRow]:
    """The rows without those of the runs that an audit left, which are told by the row of their run."""
    arms: dict[Path, list[RunRow]] = {}
    audited = {row.run.path for row in rows}
    for row in rows:
        if row.run.path.parent.name == "audit" and (of := row.run.path.parent.parent) in audited:
            arms.setdefault(of, []).append(row)
    folded = {arm.run.path for of_run in arms.values() for arm in of_run}
    return [replace(row, arms=tuple(arms.get(row.run.path, ()))) for row in rows if row.run.path not in folded]


def describe_change(difference: Difference) -> str:
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
    """The id of the environment that a manifest or a recipe names, or of several, without the module of each."""
    env = content.get("env")
    envs = [each for each in (env if isinstance(env, list) else [env]) if isinstance(each, Mapping)]
    return ", ".join(str(each.get("id", "")).rpartition(":")[2] for each in envs)[:200]


def n_expected(manifest: Mapping[str, Any]) -> int:
    """How many episodes a run will have; 0 where its manifest does not say."""
    return _whole(manifest.get("n_samples")) * max(1, _whole(manifest.get("repeats")))


def age(changed: float) -> str:
    """How long ago, in words."""
    seconds = max(0.0, time.time() - changed)
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def _scored(index: EpisodeIndex) -> dict[str, list[Facts]]:
    """What has a score of every sample."""
    return {
        sample_id: [facts for number in members if (facts := index.facts[number]).outcome != "error"]
        for sample_id, members in index.samples().items()
    }


def _rate(count: int, total: int) -> Cell | None:
    if total == 0:
        return None
    low, high = wilson_interval(count, total)
    return Cell(count / total, low, high, count, total)


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def model_name(value: object) -> str:
    """The last part of a path or name, and the one before where the last says nothing."""
    parts = str(value or "").rstrip("/").split("/")
    return "/".join(parts[-2:] if parts[-1] in _NO_NAMES else parts[-1:])[:200]
