"""What the report of a quick start shows: the same training with and without curiosity, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.cards import EpisodeCard, card_or_text, choose_samples
from eval.charts import Chart, line_chart
from eval.records import RunFiles, RunRecord
from eval.replay import Replayer
from eval.tables import HEADLINES, cell, label, metric_rows
from pxr_agents.statistics import used
from pxr_agents.types import Episode

#: Rates that are drawn over the iterations, with what their caption says.
_RATE_CHARTS = {
    "accuracy": "share of correct rollouts",
    "usage_rate": "share of rollouts that executed an operation",
    "accuracy_needs_operation": "correct rollouts, of samples unreadable at first sight",
    "hit_rate": "of the rollouts that used an operation: it showed the evidence larger",
}

FILTERS = {
    "differ": "arms differ",
    "needed": "operation needed",
    "easy": "easy",
    "failed": "had a failure",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedArm:
    """One training run.

    Args:
        name: its key in `summary.json`.
        history: one dict of metrics per iteration.
        metrics: what the evaluation found (only `statistics`, from the summary, if there was none).
        records: the evaluation's episodes by sample id.
        manifest: the evaluation's manifest, None if there was none.
    """

    name: str
    history: list[dict[str, Any]]
    metrics: dict[str, Any]
    records: dict[str, RunRecord]
    manifest: dict[str, Any] | None


def training_context(directory: Path, *, n_episodes: int | None) -> dict[str, Any]:
    """The variables of `training.html.jinja`.

    Args:
        directory: with `summary.json`, and for each of its arms `arms/NAME/metrics.jsonl` and an evaluation run in
            `arms/NAME/eval`. The summary may hold `targets` (each with `name`, `value`, `bound`, `met`), `seconds`
            (of each stage) and `notes` (sentences the reader has to know).

    Raises:
        ValueError: the summary has no arms, or a file in it cannot be read.
    """
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    if not isinstance(summary, dict) or not summary.get("arms"):
        raise ValueError(
            f'"{directory / "summary.json"}" has no arms. Expected what the quick start writes; run it again.'
        )
    arms = [_load_arm(directory / "arms" / name, name, values) for name, values in summary["arms"].items()]
    targets = summary.get("targets", [])
    pairs = _pairs(arms, n_episodes)
    return {
        "summary": summary,
        "arms": arms,
        "targets": targets,
        "n_missed": sum(not target["met"] for target in targets),
        "tiles": [(name, [(arm.name, cell(arm.metrics, name)) for arm in arms]) for name in HEADLINES],
        "charts": charts(arms),
        "rows": metric_rows([arm.metrics for arm in arms]),
        "pairs": pairs,
        "opened": _most_telling([cards for cards, _ in pairs]),
        "n_shared": len(_shared_samples(arms)),
        "filters": FILTERS,
    }


def charts(arms: Sequence[TrainedArm]) -> list[Chart]:
    """Rates first, then the reward and one chart for each of its terms; what no arm recorded is left out."""
    terms = sorted({key for arm in arms for row in arm.history for key in row if key.startswith("reward/")})
    drawn = [
        line_chart(label(name), _series(arms, name), caption=caption, y_limits=(0.0, 1.0))
        for name, caption in _RATE_CHARTS.items()
    ]
    drawn += [line_chart(label(name), _series(arms, name), caption="mean per rollout") for name in ("reward", *terms)]
    return [chart for chart in drawn if chart is not None]


def _series(arms: Sequence[TrainedArm], name: str) -> dict[str, list[tuple[float, float]]]:
    return {
        arm.name: [
            (float(row.get("iteration", index)), float(row[name]))
            for index, row in enumerate(arm.history, start=1)
            if isinstance(row.get(name), int | float)
        ]
        for arm in arms
    }


def _load_arm(directory: Path, name: str, summary: Mapping[str, Any]) -> TrainedArm:
    run = RunFiles(directory / "eval")
    finished = run.metrics_file.exists()
    numbers = {key: float(value) for key, value in summary.items() if isinstance(value, int | float)}
    return TrainedArm(
        name=name,
        history=_read_history(directory / "metrics.jsonl"),
        metrics=run.metrics() if finished else {"statistics": numbers},
        records={record.episode.sample_id: record for record in run.records()} if finished else {},
        manifest=run.manifest() if finished else None,
    )


def _read_history(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}. Expected one JSON object per iteration.") from error
    return rows


def _shared_samples(arms: Sequence[TrainedArm]) -> list[str]:
    """Samples that every arm was evaluated on, in the order of the first."""
    first, *others = arms
    return [sample_id for sample_id in first.records if all(sample_id in arm.records for arm in others)]


def _pairs(arms: Sequence[TrainedArm], n_episodes: int | None) -> list[tuple[list[EpisodeCard], list[str]]]:
    """For every chosen sample the episode of each arm, with the filters it passes."""
    samples = _shared_samples(arms)
    rows = [[arm.records[sample_id] for arm in arms] for sample_id in samples]
    episodes = [[record.episode for record in row] for row in rows]
    chosen = choose_samples([_kind(row) for row in episodes], len(rows) if n_episodes is None else n_episodes)
    replayers = [Replayer(arm.manifest) for arm in arms if arm.manifest is not None]
    try:
        return [
            ([card_or_text(*pair) for pair in zip(rows[index], replayers, strict=True)], _tags(episodes[index]))
            for index in chosen
        ]
    finally:
        for replayer in replayers:
            replayer.close()


def _most_telling(pairs: Sequence[Sequence[EpisodeCard]]) -> int:
    """Index of the first sample on which the arms differ and the last one found the evidence (else the first)."""
    telling = (
        index
        for index, cards in enumerate(pairs)
        if cards[-1].hit and cards[-1].episode.correct and not cards[0].episode.correct
    )
    return next(telling, 0)


def _kind(episodes: Sequence[Episode]) -> tuple[object, ...]:
    return episodes[0].needs_operation, *((episode.correct, used(episode)) for episode in episodes)


def _tags(episodes: Sequence[Episode]) -> list[str]:
    holds = {
        "differ": len({episode.correct for episode in episodes}) > 1,
        "needed": episodes[0].needs_operation is True,
        "easy": episodes[0].needs_operation is False,
        "failed": any(any(episode.failures.values()) for episode in episodes),
    }
    return [tag for tag in FILTERS if holds[tag]]
