"""The page of an audit: one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.audit.counterfactual import same_answer
from eval.audit.tables import FACTORS, MED_LABELS
from eval.cards import ViewPicture, choose_samples, data_uri
from eval.charts import Chart, line_chart
from eval.interventions import INTERVENTIONS
from eval.records import Record, RunDirectory
from eval.rendering import render
from eval.replay import Replayer
from eval.tables import Cell


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What the model saw in one arm, and what it answered."""

    kind: str
    views: tuple[ViewPicture, ...]
    answer: str | None
    correct: bool
    same: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One episode in all arms, the control first."""

    sample_id: str
    question: str
    target: str | None
    use: str
    sights: tuple[Sight, ...]


def write_page(out: Path, audit: Mapping[str, Any], *, n_examples: int = 8) -> None:
    """Write the page of one audit or several to the file `out`.

    Args:
        out: the HTML file; it needs nothing else.
        audit: what `eval.audit.audit.audit_checkpoints` returned.
        n_examples: of a single run, episodes that are shown with what the model saw.
    """
    runs = audit["runs"]
    names = [Path(run["run"]).name for run in runs]
    shown = examples(runs[0], n_examples) if len(runs) == 1 and runs[0]["counterfactual"] else []
    context = {
        "runs": list(zip(names, runs, strict=True)),
        "steps": audit["steps"],
        "drift": audit["drift"],
        "med_rows": _med_rows(runs) if all(run["med"] for run in runs) else [],
        "factor_rows": _factor_rows(runs) if all(run["med"] for run in runs) else [],
        "charts": charts(audit) if len(runs) > 1 and audit["drift"] else [],
        "interventions": INTERVENTIONS,
        "examples": shown,
        # The first one in which the pixels mattered.
        "opened": next((index for index, example in enumerate(shown) if example.use == "causal"), 0),
        "cell": lambda found: Cell(value=found[0], low=found[1], high=found[2]),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    # Models write anything, even halves of surrogate pairs, which no encoding takes.
    out.write_text(render("audit.html.jinja", context), encoding="utf-8", errors="replace")


def charts(audit: Mapping[str, Any]) -> list[Chart]:
    """The decomposition over training."""
    steps, values = audit["steps"], [run["med"]["values"] for run in audit["runs"]]

    def series(**names: str) -> dict[str, list[tuple[float, float]]]:
        return {
            name: [(step, of_run[key]) for step, of_run in zip(steps, values, strict=True)]
            for name, key in names.items()
        }

    drift = {
        name: [(step, of_run[name]) for step, of_run in zip(steps, audit["drift"], strict=True)]
        for name in ("intrinsic", "operations")
    }
    most = max(max(of_run["gain"], of_run["harm"]) for of_run in values)
    limits = (0.0, max(0.05, most))
    drawn = (
        ("Accuracy", series(**{"with": "accuracy_with", "without": "accuracy_without"}), (0.0, 1.0),
         "dashed: with operations, solid: without"),
        ("Drift since the first checkpoint", drift, None,
         "dashed: intrinsic (accuracy without operations), solid: of the gap that operations make"),
        ("Gains", series(call="call_gain", schema="schema_gain"), limits,
         "wrong without operations, right with them; dashed: one was called, solid: only offered"),
        ("Harms", series(call="call_harm", schema="schema_harm"), limits,
         "right without operations, wrong with them; dashed: one was called, solid: only offered"),
    )  # fmt: skip
    found = [
        line_chart(title, of_chart, caption=caption, x_label="step", y_limits=y_limits, window=1)
        for title, of_chart, y_limits, caption in drawn
    ]
    return [chart for chart in found if chart is not None]


def examples(run: Mapping[str, Any], count: int) -> list[Example]:
    """Episodes of every kind of use, rebuilt from the arms' own manifests.

    Raises:
        ReplayError: the environment no longer answers as it did.
    """
    directory = Path(run["run"])
    kinds = ["control", *run["counterfactual"]["changes"]]
    arms = {kind: RunDirectory(directory / "audit" / kind) for kind in kinds}
    if not arms["control"].metrics_file.exists():
        return []
    by_kind = {
        kind: {record.key: record for record in arm.records() if record.episode.error is None}
        for kind, arm in arms.items()
        if arm.metrics_file.exists()
    }
    recorded = {record.key: record for record in RunDirectory(directory).records()}
    played = [
        {kind: records[key] for kind, records in by_kind.items() if key in records}
        for key in by_kind["control"]
        if key in recorded
    ]
    kinds_of_use = [_use(recorded[of_episode["control"].key], of_episode) for of_episode in played]
    chosen = choose_samples(kinds_of_use, count)
    replayers = {kind: Replayer(arms[kind].manifest()) for kind in by_kind}
    try:
        return [_example(played[index], kinds_of_use[index], replayers) for index in chosen]
    finally:
        for replayer in replayers.values():
            replayer.close()


def _use(recorded: Record, played: Mapping[str, Record]) -> str:
    control = played["control"].episode
    if not same_answer(recorded.episode, control):
        return "unstable"
    return "decorative" if all(same_answer(control, arm.episode) for arm in played.values()) else "causal"


def _example(played: Mapping[str, Record], use: str, replayers: Mapping[str, Replayer]) -> Example:
    control = played["control"].episode
    sights, question = [], ""
    for kind, record in played.items():
        replay = replayers[kind].replay(record.episode)
        question = replay.question
        sights.append(
            Sight(
                kind=kind,
                views=tuple(
                    ViewPicture(
                        href=data_uri(Image.fromarray(np.ascontiguousarray(view.image))),
                        index=view.index,
                        width=view.size[0],
                        height=view.size[1],
                        box=", ".join(f"{value:.0f}" for value in view.box),
                    )
                    for view in replay.views
                    if view.turn > 0
                ),
                answer=record.episode.answer,
                correct=record.episode.correct,
                same=same_answer(control, record.episode),
            )
        )
    return Example(sample_id=control.sample_id, question=question, target=control.target, use=use, sights=tuple(sights))


def _med_rows(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, list[Cell]]]:
    return [
        (name, label, explanation, [_cell(run["med"], name) for run in runs])
        for name, (label, explanation) in MED_LABELS.items()
    ]


def _factor_rows(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[list[Cell | None]]]]:
    return [
        (MED_LABELS[term][0], [[_cell_if(run["med"], name) for name in factors] for run in runs])
        for term, factors in FACTORS.items()
    ]


def _cell(med: Mapping[str, Any], name: str) -> Cell:
    low, high = med["intervals"][name]
    return Cell(value=med["values"][name], low=low, high=high)


def _cell_if(med: Mapping[str, Any], name: str) -> Cell | None:
    return _cell(med, name) if name in med["values"] else None
