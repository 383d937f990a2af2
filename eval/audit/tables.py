"""An audit in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.audit.med import TERMS

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


def print_audit(result: Mapping[str, Any], console: Console) -> None:
    """Print what one audit found; nothing is cut where the output is no terminal."""
    if not console.is_terminal:
        console.width = 160
    console.print(f"\n{result['run']}: {result['n_samples']} samples", markup=False, highlight=False)
    if result["med"] is not None:
        console.print(_med_table(result["med"]))
    if result["counterfactual"] is not None:
        for name, operation in result["counterfactual"]["operations"].items():
            # One operation alone is all of them.
            if name == "all" or len(result["counterfactual"]["operations"]) > 2:
                _print_operation(name, operation, console)
    for note in result["notes"]:
        console.print(f"Note: {note}", markup=False, highlight=False)


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
        console.print(f"{title}: no episode could be played again", markup=False, highlight=False)
        return
    console.print(f"{title}: {operation['verdict']}", markup=False, highlight=False)
    console.print(
        f"  {operation['n']} episodes; with the true pixels {_share(operation['reproduced'])} gave the answer on record"
        f", accuracy {operation['accuracy_control'][0]:.3f}",
        markup=False,
        highlight=False,
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
    console.print(f"  uses: {uses or 'none could be changed'}", markup=False, highlight=False)
    for need, counts in (operation["need"] or {}).items():
        found = ", ".join(f"{use} {counts[use]}" for use in operation["uses"] if use in counts)
        console.print(f"  where an operation is {need}: {found or 'none'}", markup=False, highlight=False)
    faithfulness = operation["faithfulness"]
    if faithfulness is not None:
        right = faithfulness["faithful_correct"]
        console.print(
            f"  faithful (a view contains the evidence): {_share(faithfulness['faithful'])} of {faithfulness['n']}"
            + (f"; of right answers {_share(right)}" if right is not None else ""),
            markup=False,
            highlight=False,
        )


def _share(found: list[float], *, signed: bool = False) -> str:
    value, low, high = found
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})" if signed else f"{value:.3f} ({low:.3f} to {high:.3f})"
