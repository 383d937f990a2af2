"""What the page of a training run shows of its `metrics.jsonl`, which may still grow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence

from ..charts import Chart, line_chart
from ..tables import label
from .files import GrowingLines

#: Most lines in one chart; the ones with the largest last values are drawn.
MAX_LINES = 6

#: What was set, not measured: drawn in steps, without a mean.
_SETTINGS = ("learner/lr", "lr")
_SHARE = (0.0, 1.0)
#: Charts of a training run: title, caption, metrics (one that ends with "/" stands for all that begin so), y limits.
_CHARTS: tuple[tuple[str, str, tuple[str, ...], tuple[float, float] | None], ...] = (
    ("Accuracy", "share of correct rollouts: all, where an operation is needed, where it is not",
     ("accuracy", "accuracy_needs_operation", "accuracy_easy"), _SHARE),
    ("Usage", "share of rollouts that executed the operation", ("usage/",), _SHARE),
    ("Usage by need", "executed an operation, where one is needed and where not; answered at once, where not",
     ("usage_rate_needs_operation", "usage_rate_easy", "first_turn_rate_easy"), _SHARE),
    ("Selective use", "how far it is switched on; samples that are solved at once, estimated without labels",
     ("selective/gate", "selective/solved"), _SHARE),
    ("Estimated need", "against the certified one: area under the curve, and Brier score",
     ("need/auc", "need/brier"), _SHARE),
    ("Arms", "share of correct rollouts: of those without operations, of those that were made to answer",
     ("arm/withdrawn/accuracy", "arm/answer/accuracy"), _SHARE),
    ("Reward", "mean per rollout, and its terms", ("reward", "reward/"), None),
    ("Failures", "share of rollouts in which a call was refused or could not be read", ("failures/",), _SHARE),
    ("Hits", "of the rollouts that used an operation: it showed the evidence better", ("hit_rate",), _SHARE),
    ("Needless and missing", "used although not needed; not used although needed",
     ("needless_rate", "missing_rate"), _SHARE),
    ("Loss", "of what is trained on", ("loss", "held_out/loss", "learner/policy_loss"), None),
    ("Entropy", "nats per token", ("learner/entropy",), None),
    ("Engine against learner", "difference of their log-probabilities in nats, before the first step",
     ("learner/logprob_gap_mean", "learner/logprob_gap_max"), None),
    ("Clipped", "share of tokens at the limit of the ratio", ("learner/clip_frac",), None),
    ("Seconds", "of an iteration, where they went", ("seconds/",), None),
    ("Learning rate", "as it was, not a mean", _SETTINGS, None),
)  # fmt: skip
#: Alarms that are marked on another chart than "Usage".
_ALARMED = {"logprob_gap": "Engine against learner"}
#: Not drawn: the total is the frame of the others, settling is part of sampling.
_HIDDEN = frozenset({"seconds/total", "seconds/settle"})


class History(GrowingLines):
    """A `metrics.jsonl`, which may still grow: `rows` are the finite numbers of every line that is a JSON object."""

    def clear(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.n_unreadable = 0

    def add(self, line: bytes) -> None:
        try:
            self.rows.append(_numbers(json.loads(line)))
        except (ValueError, AttributeError, OverflowError, RecursionError):
            self.n_unreadable += 1

    @property
    def counter(self) -> str:
        """What numbers the lines."""
        last = self.rows[-1] if self.rows else {}
        return next((name for name in ("iteration", "step") if name in last), "line")

    def series(self, name: str) -> list[tuple[float, float]]:
        """One metric over the iterations."""
        return [(row.get(self.counter, number), row[name]) for number, row in enumerate(self.rows, 1) if name in row]

    def alarms(self) -> list[tuple[str, float, float, bool]]:
        """The operation of every alarm (or "logprob_gap"), its first and last iteration, and whether it lasts to the
        end."""
        names = sorted({name for row in self.rows for name in row if name.startswith("alarm/")})
        return [(name.removeprefix("alarm/"), *stretch) for name in names for stretch in _stretches(self.series(name))]

    def charts(self) -> list[Chart]:
        """Everything that this run recorded, as charts; alarms are marked on usage, or where they belong."""
        spans: dict[str, list[tuple[float, float, str]]] = {}
        for name, first, last, _ in self.alarms():
            spans.setdefault(_ALARMED.get(name, "Usage"), []).append((first, last, f"alarm: {name}"))
        drawn = []
        for title, caption, metrics, limits in _CHARTS:
            names = self._names(metrics)
            chart = line_chart(
                title,
                {_line_name(name): self.series(name) for name in names},
                caption=caption,
                x_label=self.counter,
                y_limits=limits,
                window=1 if metrics is _SETTINGS else 5,
                steps=metrics is _SETTINGS,
                spans=spans.get(title, ()),
            )
            if chart is not None:
                drawn.append(chart)
        return drawn

    def _names(self, wanted: Sequence[str]) -> list[str]:
        """The metrics of one chart that some line has; of families those of the first and the last."""
        present = dict.fromkeys(name for row in (self.rows[:1] + self.rows[-1:]) for name in row)
        # Some come and go, as what is known only while it is switched on.
        present |= dict.fromkeys(name for name in wanted if any(name in row for row in self.rows))
        last = self.rows[-1] if self.rows else {}
        names = []
        for one in wanted:
            family = [name for name in present if name.startswith(one) and name not in _HIDDEN]
            names += sorted(family, key=lambda name: -abs(last.get(name, 0.0))) if one.endswith("/") else [one]
        return [name for name in names if name in present][:MAX_LINES]


def _stretches(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float, bool]]:
    """First and last x of every stretch in which y is not 0, and whether it is the end of the series."""
    start: float | None = None
    for (x, y), following in zip(points, [*points[1:], None], strict=True):
        if not y:
            continue
        start = x if start is None else start
        if following is None or not following[1]:
            yield start, x, following is None
            start = None


def _numbers(line: Mapping[str, object]) -> dict[str, float]:
    return {
        name[:200]: float(value)
        for name, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _line_name(name: str) -> str:
    family, separator, member = name.partition("/")
    if family in ("usage", "failures"):
        return member
    if family == "arm":
        return member.partition("/")[0]
    return member.replace("_", " ") if separator and family != "held_out" else label(name)
