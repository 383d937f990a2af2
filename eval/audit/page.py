"""What an audit found, in the terminal and as a page: one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.audit.counterfactual import same_answer
from eval.audit.med import TERMS
from eval.cards import ViewPicture, choose_samples, view_picture
from eval.charts import Chart, line_chart
from eval.interventions import INTERVENTIONS
from eval.options import say
from eval.records import RunFiles, RunRecord
from eval.rendering import write_page
from eval.replay import Replayer
from eval.tables import Cell

#: What a row of the decomposition is called, and what it says.
MED_LABELS = {
    "accuracy_with": ("Accuracy with operations", "right answers"),
    "accuracy_without": ("Accuracy without", "of the same questions, with nothing to call"),
    "gap": ("Gap", "with minus without: gains minus harms"),
    "call_gain": ("Call gain", "wrong without; called, and right"),
    "schema_gain": ("Schema gain", "wrong without; only offered, and right"),
    "call_harm": ("Call harm", "right without; called, and wrong"),
    "schema_harm": ("Schema harm", "right without; only offered, and wrong"),
    "unanswered_without": ("Unanswered without", "without operations no answer in the end"),
    "malformed_without": ("Malformed without", "without operations a turn that could not be read, such as a call"),
    "call_rate": ("Called", "questions in which an operation was called, executed or refused"),
}
#: The factors of each term: of which questions, how often, how well.
FACTORS = {
    "call_gain": ("mass/fail", "policy/call_gain", "quality/call_gain"),
    "schema_gain": ("mass/fail", "policy/schema_gain", "quality/schema_gain"),
    "call_harm": ("mass/succ", "policy/call_harm", "quality/call_harm"),
    "schema_harm": ("mass/succ", "policy/schema_harm", "quality/schema_harm"),
}
assert set(FACTORS) == set(TERMS)


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


def write_audit(out: Path, audit: Mapping[str, Any], *, n_examples: int = 8) -> None:
    """Write the page of one audit or several to the file `out`.

    Args:
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
    write_page(out, "audit.html.jinja", context)


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
    arms = {kind: RunFiles(directory / "audit" / kind) for kind in kinds}
    if not arms["control"].metrics_file.exists():
        return []
    by_kind = {
        kind: {record.key: record for record in arm.records() if record.episode.error is None}
        for kind, arm in arms.items()
        if arm.metrics_file.exists()
    }
    recorded = {record.key: record for record in RunFiles(directory).records()}
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


def _use(recorded: RunRecord, played: Mapping[str, RunRecord]) -> str:
    control = played["control"].episode
    if not same_answer(recorded.episode, control):
        return "unstable"
    return "decorative" if all(same_answer(control, arm.episode) for arm in played.values()) else "causal"


def _example(played: Mapping[str, RunRecord], use: str, replayers: Mapping[str, Replayer]) -> Example:
    control = played["control"].episode
    replays = {kind: replayers[kind].replay(record.episode) for kind, record in played.items()}
    sights = tuple(
        Sight(
            kind=kind,
            # Of an arm there is no source to show it in.
            views=tuple(
                replace(view_picture(view, replays[kind].images), turn=0, frame=None, source=None, area="")
                for view in record.episode.views
                if view["turn"] > 0
            ),
            answer=record.episode.answer,
            correct=record.episode.correct,
            same=same_answer(control, record.episode),
        )
        for kind, record in played.items()
    )
    question = replays["control"].question
    return Example(sample_id=control.sample_id, question=question, target=control.target, use=use, sights=sights)


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


def print_audit(result: Mapping[str, Any], console: Console) -> None:
    """Print what one audit found."""
    say(console, f"\n{result['run']}: {result['n_samples']} samples")
    if result["med"] is not None:
        console.print(_med_table(result["med"]))
    if result["counterfactual"] is not None:
        for name, operation in result["counterfactual"]["operations"].items():
            # One operation alone is all of them.
            if name == "all" or len(result["counterfactual"]["operations"]) > 2:
                _print_operation(name, operation, console)
    for note in result["notes"]:
        say(console, f"Note: {note}")


def print_checkpoints(audit: Mapping[str, Any], console: Console) -> None:
    """Print the decomposition over training."""
    if not audit["drift"]:
        return
    names = [name for name in MED_LABELS if not name.startswith("malformed")]
    table = Table("step", *(MED_LABELS[name][0] for name in names), "intrinsic drift", "drift of the gap", box=None)
    for step, run, drift in zip(audit["steps"], audit["runs"], audit["drift"], strict=True):
        values = run["med"]["values"]
        table.add_row(
            f"{step:g}",
            *(f"{values[name]:.3f}" for name in names),
            f"{drift['intrinsic']:+.3f}",
            f"{drift['operations']:+.3f}",
        )
    console.print()
    console.print(table)


def _med_table(med: Mapping[str, Any]) -> Table:
    table = Table("with and without operations", "value", "95% interval", "", box=None)
    for name, (label, explanation) in MED_LABELS.items():
        value = f"{med['values'][name]:+.3f}" if name == "gap" else f"{med['values'][name]:.3f}"
        low, high = med["intervals"][name]
        more = f"p = {med['gap_test']['p_value']:.3g}, {med['n']} questions" if name == "gap" else explanation
        table.add_row(label, value, f"{low:.3f} to {high:.3f}", more)
    return table


def _print_operation(name: str, operation: Mapping[str, Any], console: Console) -> None:
    title = "all operations" if name == "all" else name
    console.print()
    if not operation["n"]:
        say(console, f"{title}: no episode could be played again")
        return
    say(console, f"{title}: {operation['verdict']}")
    say(
        console,
        f"  {operation['n']} episodes; with the true pixels {_share(operation['reproduced'])} gave the answer on record"
        f", accuracy {operation['accuracy_control'][0]:.3f}",
    )
    table = Table(
        "instead", "episodes", "answers changed", "beyond the control", "accuracy lost", "lost / gained", box=None
    )
    for kind, arm in operation["arms"].items():
        if not arm["n"]:
            table.add_row(kind, "0", "", "", "", "")
            continue
        table.add_row(
            kind,
            str(arm["n"]),
            _share(arm["changed"]),
            f"{_share(arm['excess'], signed=True)}, p = {arm['excess_p']:.2g}",
            f"{_share(arm['accuracy_lost'], signed=True)}, p = {arm['accuracy_p']:.2g}",
            f"{arm['n_lost']} / {arm['n_gained']}",
        )
    console.print(table)
    uses = ", ".join(f"{use} {found['n']} ({found['share'][0]:.1%})" for use, found in operation["uses"].items())
    say(console, f"  uses: {uses or 'none could be changed'}")
    for need, counts in (operation["need"] or {}).items():
        found = ", ".join(f"{use} {counts[use]}" for use in operation["uses"] if use in counts)
        say(console, f"  where an operation is {need}: {found or 'none'}")
    faithfulness = operation["faithfulness"]
    if faithfulness is not None:
        right = faithfulness["faithful_correct"]
        of_right = f"; of right answers {_share(right)}" if right is not None else ""
        shares = f"{_share(faithfulness['faithful'])} of {faithfulness['n']}{of_right}"
        say(console, f"  faithful (a view contains the evidence): {shares}")


def _share(found: list[float], *, signed: bool = False) -> str:
    value, low, high = found
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})" if signed else f"{value:.3f} ({low:.3f} to {high:.3f})"
