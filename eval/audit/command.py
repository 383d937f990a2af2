"""`python -m eval audit RUN [RUN ...]`: does the operation cause the answer, and what did training change?"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.audit.agent import add_whereabouts, whereabouts
from eval.audit.audit import CHANGES, PROTOCOLS, Plan, audit_checkpoints, audit_run, write_json
from eval.audit.page import write_page
from eval.audit.tables import print_audit, print_checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, what to measure, and how to get the agent."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="finished runs; several in order of training")
    parser.add_argument("--protocol", choices=(*PROTOCOLS, "both"), default="both")
    parser.add_argument("--limit", type=int, help="only the first samples of each run (default: all)")
    parser.add_argument(
        "--change",
        action="append",
        choices=CHANGES,
        help="intervention of the counterfactual protocol; may be repeated (default: all)",
    )
    parser.add_argument("--data", metavar="DIR", help="where the data lie now, if they were moved")
    parser.add_argument("--seed", type=int, default=0, help="of paired tests and shifted boxes (default: 0)")
    parser.add_argument(
        "--steps", help="training steps of the runs, such as 0,100,200 (default: numbers in their names)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="for several runs (default: audit beside them)")
    add_whereabouts(parser.add_argument_group("the agent of the run, where its manifest does not say enough"))


def run(arguments: argparse.Namespace) -> int:
    """Audit every run, print tables, write `audit.json` and `audit.html`."""
    if len(arguments.runs) > 1 and (arguments.model or arguments.agent):
        raise ValueError("--model or --agent came with several runs; expected one run, or runs that know their own")
    where = whereabouts(arguments)
    plan = Plan(
        protocols=PROTOCOLS if arguments.protocol == "both" else (arguments.protocol,),
        changes=tuple(arguments.change or CHANGES),
        limit=arguments.limit,
        data=arguments.data,
        seed=arguments.seed,
    )
    steps = steps_of(arguments.runs, arguments.steps)
    console = Console(soft_wrap=True)
    results = []
    for directory in arguments.runs:
        result = audit_run(directory, where, plan)
        _write(directory / "audit", [result], [0], console)
        print_audit(result, console)
        results.append(result)
    if len(results) > 1:
        out = arguments.out or Path(os.path.commonpath([run.resolve().parent for run in arguments.runs])) / "audit"
        _write(out, results, steps, console)
        print_checkpoints(audit_checkpoints(results, steps), console)
    return 0


def steps_of(runs: Sequence[Path], given: str | None) -> list[float]:
    """Training step of every run: as given, else the last number in each name, else 0, 1, 2, ...

    Raises:
        ValueError: not as many as runs, or not in ascending order.
    """
    if given is not None:
        try:
            steps = [float(step) for step in given.split(",")]
        except ValueError:
            raise ValueError(f"--steps {given} came; expected numbers with commas, such as 0,100,200") from None
    else:
        numbers = [re.findall(r"\d+", directory.resolve().name) for directory in runs]
        steps = [float(found[-1]) for found in numbers if found]
        if len(steps) < len(runs) or steps != sorted(set(steps)):
            steps = [float(number) for number in range(len(runs))]
    if len(steps) != len(runs) or steps != sorted(set(steps)):
        raise ValueError(f"the steps {steps} came for {len(runs)} runs; expected one for each, in ascending order")
    return steps


def _write(out: Path, results: Sequence[Mapping[str, Any]], steps: Sequence[float], console: Console) -> None:
    audit = audit_checkpoints(results, steps)
    write_json(out / "audit.json", results[0] if len(results) == 1 else audit)
    write_page(out / "audit.html", audit)
    console.print(f"Written to {out / 'audit.json'} and {out / 'audit.html'}", markup=False, highlight=False)
