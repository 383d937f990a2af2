"""What an audit found, in the terminal and as a page: one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from ..cards import ViewPicture, choose_samples, view_picture
from ..charts import Chart, line_chart
from ..options import say
from ..records import RunFiles, RunRecord
from ..rendering import write_page
from ..replay import INTERVENTIONS, Replayer
from ..tables import Cell
from .measures import TERMS, same_answer, use_of

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
#: The same of the section "adaptive": what `mode_accuracy` says, and shares of the uses.
ADAPTIVE_LABELS = {
    "mode_accuracy": (
        "Mode accuracy",
        "mean of MA text and MA tool; always calling gives 0.5, and so does never calling",
    ),
    "ma_text": ("MA text", "solvable (or easy), and answered without an executed operation"),
    "first_turn": ("At once", "solvable (or easy), and answered in the first turn: no refused or broken call before"),
    "ma_tool": ("MA tool", "not solvable (or an operation needed), and one was executed"),
    "tool_gain": ("Tool gain", "of all questions: not solvable (or needed), and right"),
    "tool_harm": ("Tool harm", "of all questions: solvable (or easy), and wrong"),
}
USE_LABELS = {
    "faithful": "faithful",
    "causal": "causal",
    "causal_needed": "causal where an operation is needed",
    "causal_unsolvable": "causal where the question is not solvable without",
}


class Sight(NamedTuple):
    """What the model saw in one arm, and what it answered."""

    kind: str
    views: list[ViewPicture]
    answer: str | None
    correct: bool
    same: bool


class Example(NamedTuple):
    """One episode in all arms, the control first."""

    sample_id: str
    question: str
    target: str | None
    use: str
    sights: list[Sight]


def write_audit(out: Path, audit: Mapping[str, Any], *, n_examples: int = 8) -> None:
    """Write the page of one audit or several to the file `out`.

    Args:
        audit: what `eval.audit.audit.audit_checkpoints` returned.
        n_examples: of a single run, episodes that are shown with what the model saw.
    """
    runs = audit["runs"]
    names = [Path(run["run"]).name for run in runs]
    meds = [run["med"] for run in runs] if all(run["med"] for run in runs) else []
    shown = examples(runs[0], n_examples) if len(runs) == 1 and runs[0]["counterfactual"] else []
    med_rows = [(name, *texts, [_cell(med, name) for med in meds]) for name, texts in MED_LABELS.items()]
    factor_rows = [
        (MED_LABELS[term][0], [[_cell(med, name) for name in _factors(term)] for med in meds]) for term in TERMS
    ]
    context = {
        "runs": list(zip(names, runs, strict=True)),
        "med_rows": med_rows if meds else [],
        "factor_rows": factor_rows,
        "adaptive": [
            (name, run["adaptive"], adaptive_rows(run["adaptive"]), known_uses(run["adaptive"]))
            for name, run in zip(names, runs, strict=True)
        ],
        "charts": charts(audit) if len(runs) > 1 and meds else [],
        "interventions": INTERVENTIONS,
        "examples": shown,
        # The first one in which the pixels mattered.
        "opened": next((index for index, example in enumerate(shown) if example.use == "causal"), 0),
        "cell": lambda found: Cell(*found),
    }
    write_page(out, "audit.html.jinja", context)


def _factors(term: str) -> tuple[str, str, str]:
    """Of which questions, how often, how well."""
    return "mass/fail" if term.endswith("gain") else "mass/succ", f"policy/{term}", f"quality/{term}"


def _cell(med: Mapping[str, Any], name: str) -> Cell | None:
    return Cell(med["values"][name], *med["intervals"][name]) if name in med["values"] else None


def adaptive_rows(adaptive: Mapping[str, Any]) -> list[tuple[str, str, list[Cell | None]]]:
    """Label, explanation, and the values by solvability and by certified need; no rows where neither is known."""
    kinds = [adaptive["solvability"], adaptive["need"]]
    found = {name: [kind and _cell(kind, name) for kind in kinds] for name in ADAPTIVE_LABELS}
    return [(*ADAPTIVE_LABELS[name], cells) for name, cells in found.items() if any(cells)]


def known_uses(adaptive: Mapping[str, Any]) -> list[tuple[str, list[float]]]:
    """What is known of the uses: label, [share, low, high]."""
    return [(label, adaptive[name]) for name, label in USE_LABELS.items() if adaptive[name] is not None]


def charts(audit: Mapping[str, Any]) -> list[Chart]:
    """The decomposition over training."""
    values = [run["med"]["values"] for run in audit["runs"]]
    most = max(max(of_run["gain"], of_run["harm"]) for of_run in values)
    parts = "right with them; dashed: one was called, solid: only offered"
    harms = parts.replace("right", "wrong")
    drawn: tuple[tuple[str, str, list[Any], dict[str, str], tuple[float, float] | None], ...] = (
        ("Accuracy", "dashed: with operations, solid: without", values,
         {"with": "accuracy_with", "without": "accuracy_without"}, (0.0, 1.0)),
        ("Drift since the first checkpoint",
         "dashed: intrinsic (accuracy without operations), solid: of the gap that operations make", audit["drift"],
         {"intrinsic": "intrinsic", "operations": "operations"}, None),
        ("Gains", f"wrong without operations, {parts}", values,
         {"call": "call_gain", "schema": "schema_gain"}, (0.0, max(0.05, most))),
        ("Harms", f"right without operations, {harms}", values,
         {"call": "call_harm", "schema": "schema_harm"}, (0.0, max(0.05, most))),
    )  # fmt: skip
    found = []
    for title, caption, of_runs, names, limits in drawn:
        series = {
            name: [(step, one[key]) for step, one in zip(audit["steps"], of_runs, strict=True)]
            for name, key in names.items()
        }
        found.append(line_chart(title, series, caption=caption, x_label="step", y_limits=limits, window=1))
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
    uses = [use_of(recorded[one["control"].key], one["control"], list(one.values())) for one in played]
    with ExitStack() as stack:
        replayers = {kind: stack.enter_context(closing(Replayer(arms[kind].manifest()))) for kind in by_kind}
        return [_example(played[index], uses[index], replayers) for index in choose_samples(uses, count)]


def _example(played: Mapping[str, RunRecord], use: str, replayers: Mapping[str, Replayer]) -> Example:
    control = played["control"].episode
    replays = {kind: replayers[kind].replay(record.episode) for kind, record in played.items()}
    sights = []
    for kind, record in played.items():
        episode = record.episode
        views = [view_picture(view, replays[kind].images) for view in episode.views if view["turn"] > 0]
        # Of an arm there is no source to show it in.
        views = [replace(view, turn=0, frame=None, source=None, area="") for view in views]
        sights.append(Sight(kind, views, episode.answer, episode.correct, same_answer(control, episode)))
    return Example(control.sample_id, replays["control"].question, control.target, use, sights)


def print_audit(result: Mapping[str, Any], console: Console) -> None:
    """Print what one audit found."""
    say(console, f"\n{result['run']}: {result['n_samples']} samples")
    if result["med"] is not None:
        console.print(_med_table(result["med"]))
    if result["counterfactual"] is not None:
        operations = result["counterfactual"]["operations"]
        for name, operation in operations.items():
            # One operation alone is all of them.
            if name == "all" or len(operations) > 2:
                _print_operation(name, operation, console)
    _print_adaptive(result["adaptive"], console)
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
        drifts = (f"{drift[name]:+.3f}" for name in ("intrinsic", "operations"))
        table.add_row(f"{step:g}", *(f"{values[name]:.3f}" for name in names), *drifts)
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


def _print_adaptive(adaptive: Mapping[str, Any], console: Console) -> None:
    if rows := adaptive_rows(adaptive):
        kinds = {"solvable": adaptive["solvability"], "easy": adaptive["need"]}
        counts = [f"{kind['n_easy']} of {kind['n']} {name}" if kind else "" for name, kind in kinds.items()]
        table = Table("adaptive use", *counts, "", box=None)
        for label, explanation, cells in rows:
            table.add_row(label, *(f"{one.text} ({one.interval})" if one else "" for one in cells), explanation)
        console.print()
        console.print(table)
    if uses := known_uses(adaptive):
        say(console, "  uses: " + ", ".join(f"{label} {_share(found)}" for label, found in uses))


def _print_operation(name: str, operation: Mapping[str, Any], console: Console) -> None:
    title = "all operations" if name == "all" else name
    console.print()
    if not operation["n"]:
        say(console, f"{title}: no episode could be played again")
        return
    reproduced = f"with the true pixels {_share(operation['reproduced'])} gave the answer on record"
    accuracy = f"accuracy {operation['accuracy_control'][0]:.3f}"
    say(console, f"{title}: {operation['verdict']}", f"  {operation['n']} episodes; {reproduced}, {accuracy}")
    columns = ("instead", "episodes", "answers changed", "beyond the control", "accuracy lost", "lost / gained")
    table = Table(*columns, box=None)
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
