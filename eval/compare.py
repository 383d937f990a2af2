"""`python -m eval compare A B`: what is unlike first, then the numbers, then who is better."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.comparison import Comparison, compare_runs, verdict
from eval.differences import MODEL_FIELDS, describe

_MATTERS = {"yes": "matters", "maybe": "may matter", "compared": "is compared", "no": "does not matter"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and what is meant to differ."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="two or more finished runs")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="FIELD",
        help="field of the manifest that is meant to differ besides the model, such as prompt or pixels.image; may be "
        "repeated",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random changes of sign (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison."""
    comparison = compare_runs(arguments.runs, compared=(*MODEL_FIELDS, *arguments.allow), seed=arguments.seed)
    print_comparison(comparison)
    if arguments.json is not None:
        content = asdict(comparison) | {"obstacles": comparison.obstacles}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print all of it; nothing is cut where the output is no terminal."""
    console = console or Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = 240
    _print_differences(comparison, console)
    console.print()
    counts = ", ".join(f"{name} {n}" for name, n in zip(comparison.names, comparison.n_samples, strict=True))
    left_out = f"{comparison.n_unscored} that a run could not score, {comparison.n_changed} with other content"
    console.print(f"{comparison.n_common} samples are compared (of {counts}; left out: {left_out}).", markup=False)
    if comparison.n_clusters < comparison.n_common:
        together = (
            f"They belong to {comparison.n_clusters} images, videos or questions; intervals and tests go by these."
        )
        console.print(together, markup=False, highlight=False)
    console.print(_numbers(comparison))
    if comparison.categories:
        console.print(_categories(comparison))
    for pair in comparison.pairs:
        for metric, test in pair.tests.items():
            console.print(
                f"{pair.second} - {pair.first}: {metric} {test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f}), "
                f"better on {test.n_second} samples, worse on {test.n_first}; p = {test.p_value:.3g} "
                f"({'exact McNemar' if test.name == 'mcnemar' else 'sign-flip test'})"
                + (f", {pair.adjusted[metric]:.3g} after Holm" if len(comparison.pairs) > 1 else ""),
                markup=False,
                highlight=False,
            )
    console.print()
    for pair in comparison.pairs:
        for metric in pair.tests:
            console.print(verdict(comparison, pair, metric), markup=False, highlight=False)
        # Why two runs are not ranked is the same for all metrics and pairs.
        if comparison.obstacles:
            break


def _print_differences(comparison: Comparison, console: Console) -> None:
    """A line for each, so that no terminal is too narrow."""
    if not comparison.differences:
        console.print("The manifests are alike.")
        return
    console.print(f"Unlike manifests ({' | '.join(comparison.names)}):", markup=False, highlight=False)
    for difference in comparison.differences:
        line = f"  {_MATTERS[difference.matters]:<16} {difference.field}: {describe(difference)} ({difference.why})"
        console.print(line, markup=False, highlight=False)


def _categories(comparison: Comparison) -> Table:
    table = Table(f"{comparison.metric} by category", *comparison.names, box=None)
    for category in comparison.categories:
        found = [of_run["by_category"].get(category, {"statistics": {}}) for of_run in comparison.metrics]
        table.add_row(Text(category), *(_cell(of_run, comparison.metric) for of_run in found))
    return table


def _cell(metrics: Mapping[str, Any], name: str) -> str:
    value = metrics["statistics"].get(name)
    low, high = metrics.get("intervals", {}).get(name, (None, None))
    interval = "" if low is None else f" ({low:.3f} to {high:.3f})"
    return "" if value is None else f"{value:.3f}{interval}"


def _numbers(comparison: Comparison) -> Table:
    table = Table("metric", *comparison.names, box=None)
    names = dict.fromkeys(name for metrics in comparison.metrics for name in metrics["statistics"])
    for name in names:
        table.add_row(name, *(_cell(metrics, name) for metrics in comparison.metrics))
    return table
