"""The rows of a metrics table: labels, explanations, values with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .manifest import score_name

#: Label and explanation of every statistic, in the order of the table. Terms of the reward follow them.
LABELS: dict[str, tuple[str, str]] = {
    "accuracy": ("Accuracy", "correct answers"),
    "accuracy_all": ("Accuracy, all", "the same with episodes without a score counted as wrong"),
    "anls": ("ANLS", "how much of the texts was read right, mean"),
    "anls_all": ("ANLS, all", "the same with episodes without a score counted as 0"),
    "vqa_accuracy": ("VQA accuracy", "agreement with several people, mean"),
    "vqa_accuracy_all": ("VQA accuracy, all", "the same with episodes without a score counted as 0"),
    "score": ("Score", "of the answers, mean"),
    "score_all": ("Score, all", "the same with episodes without a score counted as 0"),
    "majority_accuracy": ("Majority", "samples whose most frequent answer is correct"),
    "accuracy_needs_operation": ("Accuracy, operation needed", "on samples that cannot be read at first sight"),
    "accuracy_easy": ("Accuracy, easy", "on samples that can"),
    "usage_rate": ("Usage", "episodes with an executed operation"),
    "usage_rate_needs_operation": ("Usage, operation needed", "of the samples that need one"),
    "usage_rate_easy": ("Usage, easy", "of the samples that need none"),
    "first_turn_rate": ("At once", "episodes whose first turn is the answer; a refused or broken call is none"),
    "first_turn_rate_needs_operation": ("At once, operation needed", "of the samples that need one"),
    "first_turn_rate_easy": ("At once, easy", "of the samples that need none"),
    "hit_rate": ("Hits", "of the episodes that used an operation: it showed the evidence larger"),
    "evidence_iou": (
        "Evidence IoU",
        "best overlap of a view with the evidence, of the episodes that used an operation",
    ),
    "needless_rate": ("Needless", "used although not needed"),
    "missing_rate": ("Missing", "not used although needed"),
    "failure_rate": ("Failures", "episodes with a failed operation or a malformed turn"),
    "truncated_rate": ("Truncated", "episodes cut off before an answer"),
    "cut_turn_rate": ("Cut turns", "episodes with a turn that the token limit cut, where that is known"),
    "operations_per_episode": ("Operations per episode", "executed ones, mean"),
    "mode_accuracy": ("MA", "mode accuracy by solvability: see docs/audit.md"),
    "tool_gain": ("Tool gain", "not solvable without operations, and right with them"),
    "tool_harm": ("Tool harm", "solvable without operations, and wrong with them"),
    "faithful": ("Faithful", "uses in which a view contains the evidence"),
    "causal": ("Causal", "uses in which other pixels change the answer"),
    "duplicates": ("Duplicates", "calls that had been made before, per episode"),
    "clipped": ("Clipped", "calls with a box that was cut off at the edge of its image, per episode"),
    "vision_tokens": ("Vision tokens", "of all images shown, per episode"),
    "prompt_tokens": ("Prompt tokens", "read by the model, all turns together, per episode"),
    "completion_tokens": ("Completion tokens", "written by the model, per episode"),
    "seconds": ("Seconds", "per episode, waiting included"),
    "reward": ("Reward", "sum of its terms, mean"),
}

#: Names that begin like this, and what is said of them.
_FAMILIES = {
    "pass@": "samples of which one of that many answers is correct, estimated without bias",
    "operations/": "executed per episode",
    "failures/": "refused per episode",
    "truncated/": "episodes cut off by this limit",
    "reward/": "this term of the reward, mean per episode",
}

#: Means of numbers from 0 to 1.
_SHARES = ("majority_accuracy", "evidence_iou")
#: Means over all answers of how right they are; so are those of other scorers, which nothing here names.
_SCORES = ("accuracy", "anls", "vqa_accuracy", "score")

#: The few numbers that come first.
HEADLINES = ("accuracy", "accuracy_needs_operation", "usage_rate", "hit_rate")


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, its 95% interval and the counts behind it (None where there are none).

    `strict` is the value with the `n_unscored` episodes counted as wrong; None where there are none, or it is no score.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None
    total: int | None = None
    strict: float | None = None
    n_unscored: int = 0

    @property
    def text(self) -> str:
        """The value with three decimals, and without a minus sign in front of nothing."""
        text = f"{self.value:.3f}"
        return text.removeprefix("-") if float(text) == 0 else text

    @property
    def interval(self) -> str:
        """Such as "0.250 to 0.500"; "" where there is none."""
        return "" if self.low is None else f"{self.low:.3f} to {self.high:.3f}"


class MetricRow(NamedTuple):
    """One statistic of one or several runs; a cell is None where a run does not have it."""

    name: str
    label: str
    explanation: str
    cells: list[Cell | None]

    @property
    def is_rate(self) -> bool:
        """Whether the values are shares with intervals, to be drawn between 0 and 1."""
        name = self.name
        is_share = name in _SHARES or name.startswith("pass@") or _says_how_right(name.removesuffix("_all"))
        return any(one and one.low is not None and (is_share or one.total is not None) for one in self.cells)


def headline(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The statistic that a run is known by: the mean of its scorer where that grades (ANLS), else accuracy."""
    name = score_name(manifest)
    return name if name != "score" and name in metrics["statistics"] else "accuracy"


def overview(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What pages show of a finished run before its episodes: the few numbers that come first, its own metric before
    all others, and tables of categories and metrics."""
    own = headline(manifest, metrics)
    first = {name: cell(metrics, name) for name in (own, *HEADLINES)}
    return {
        "metric": own,
        "metrics": metrics,
        "headlines": [(name, found) for name, found in first.items() if found is not None],
        "category_rows": category_rows(manifest, metrics),
        "metric_rows": metric_rows([metrics], first=own),
    }


def category_rows(
    manifest: Mapping[str, Any], metrics: Mapping[str, Any]
) -> list[tuple[str, Cell | None, Cell | None, int]]:
    """For every category the run's own metric, usage (None where nothing has a score), and how many have none."""
    name = headline(manifest, metrics)
    return [
        (category, cell(found, name), cell(found, "usage_rate"), int(found["statistics"].get("n_errors", 0)))
        for category, found in metrics.get("by_category", {}).items()
    ]


def metric_rows(runs: Sequence[Mapping[str, Any]], first: str = "accuracy") -> list[MetricRow]:
    """One row for every statistic that some run has, `first` before the others.

    Args:
        runs: for every column what `eval.metrics.evaluation_metrics` returned (`intervals` and `counts` may be absent).
    """
    present = {name for run in runs for name in run["statistics"]}
    explained = {name: explanation for name, (_, explanation) in LABELS.items() if name in present}
    for family, text in _FAMILIES.items():
        explained |= {name: text for name in sorted(present) if name.startswith(family)}
    names = dict.fromkeys([first, *explained] if first in present else explained)
    return [MetricRow(name, label(name), explained.get(name, ""), [cell(run, name) for run in runs]) for name in names]


def cell(run: Mapping[str, Any], name: str) -> Cell | None:
    """The value of statistic `name` with its interval, None if the run does not have it."""
    statistics = run["statistics"]
    if name not in statistics:
        return None
    low, high = run.get("intervals", {}).get(name, (None, None))
    count, total = run.get("counts", {}).get(name, (None, None))
    n_unscored = int(statistics.get("n_errors", 0)) if _says_how_right(name) else 0
    strict = statistics.get(f"{name}_all") if n_unscored else None
    return Cell(statistics[name], low, high, count, total, strict, n_unscored)


def label(name: str) -> str:
    """How statistic `name` is called in a report."""
    if name in LABELS:
        return LABELS[name][0]
    family, separator, member = name.partition("/")
    return (f"{family.capitalize()}: {member}" if separator else name).replace("_", " ")


def _says_how_right(name: str) -> bool:
    return name in _SCORES or not (name in LABELS or name.startswith(tuple(_FAMILIES)))
