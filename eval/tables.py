"""The rows of a metrics table: labels, explanations, values with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.manifest import score_name

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A value, its 95% interval and the counts behind it (None where there are none).

    Args:
        strict: the value with unscored episodes counted as wrong; None where there are none of them, or it is no score.
        n_unscored: how many they are.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRow:
    """One statistic of one or several runs; a cell is None where a run does not have it."""

    name: str
    label: str
    explanation: str
    cells: tuple[Cell | None, ...]

    @property
    def is_rate(self) -> bool:
        """Whether the values are shares with intervals, to be drawn between 0 and 1."""
        is_share = (
            self.name in _SHARES or self.name.startswith("pass@") or _says_how_right(self.name.removesuffix("_all"))
        )
        return any(
            cell is not None and cell.low is not None and (is_share or cell.total is not None) for cell in self.cells
        )


def headline(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The statistic that a run is known by: the mean of its scorer where that grades (ANLS), else accuracy."""
    name = score_name(manifest)
    return name if name != "score" and name in metrics["statistics"] else "accuracy"


def headlines(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    """The few numbers that come first, as far as the run has them, its own metric before all others."""
    cells = {name: cell(metrics, name) for name in (headline(manifest, metrics), *HEADLINES)}
    return [(name, found) for name, found in cells.items() if found is not None]


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
    """One row for every statistic that some run has.

    Args:
        runs: for every column what `eval.metrics.evaluation_metrics` returned (`intervals` and `counts` may be absent).
        first: the statistic that comes before the others.
    """
    present = {name for run in runs for name in run["statistics"]}
    names = [name for name in (first, *LABELS) if name in present]
    names += [name for family in _FAMILIES for name in sorted(present) if name.startswith(family)]
    return [_row(name, runs) for name in dict.fromkeys(names)]


def cell(run: Mapping[str, Any], name: str) -> Cell | None:
    """The value of statistic `name` with its interval, None if the run does not have it."""
    if name not in run["statistics"]:
        return None
    statistics = run["statistics"]
    low, high = run.get("intervals", {}).get(name, (None, None))
    count, total = run.get("counts", {}).get(name, (None, None))
    n_unscored = int(statistics.get("n_errors", 0)) if _says_how_right(name) else 0
    strict = None
    if n_unscored:
        n_scored = statistics.get("n_episodes", 0)
        strict = statistics.get(f"{name}_all", statistics[name] * n_scored / (n_scored + n_unscored))
    return Cell(
        value=statistics[name], low=low, high=high, count=count, total=total, strict=strict, n_unscored=n_unscored
    )


def label(name: str) -> str:
    """How statistic `name` is called in a report."""
    if name in LABELS:
        return LABELS[name][0]
    family, separator, member = name.partition("/")
    return (f"{family.capitalize()}: {member}" if separator else name).replace("_", " ")


def _says_how_right(name: str) -> bool:
    return name in _SCORES or not (name in LABELS or name.startswith(tuple(_FAMILIES)))


def _row(name: str, runs: Sequence[Mapping[str, Any]]) -> MetricRow:
    family = next((text for beginning, text in _FAMILIES.items() if name.startswith(beginning)), "")
    explanation = LABELS[name][1] if name in LABELS else family
    return MetricRow(
        name=name, label=label(name), explanation=explanation, cells=tuple(cell(run, name) for run in runs)
    )
