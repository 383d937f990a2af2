"""`python -m pxr_env check my_module:my/Task-v0`: the conformance suite from the command line."""

from __future__ import annotations

import argparse
import sys

import gymnasium

from pxr_env.errors import did_you_mean, quote
from pxr_env.play.command import read_settings
from pxr_env.tasks import import_module_of
from pxr_env.testing.task import SAMPLES, check_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument("task", metavar="ID", help="id of the task, or my_module:my/Task-v0 for your own")
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, metavar="N", help="samples to look at (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="leave out the checks that start Python processes")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of the task, such as data=DIR or operations=zoom_in,rotate",
    )


def run(args: argparse.Namespace) -> int:
    """Checks a task and prints a line for every check.

    Returns:
        0 if all checks passed, 1 if one failed, 2 if there is no such task or the arguments are none.
    """
    problem = _problem(args.task)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    try:
        arguments = read_settings(args.task.rpartition(":")[2], args.set)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    report = check_task(args.task, samples=args.samples, seed=args.seed, arguments=arguments, processes=not args.quick)
    print(report.table())
    return 0 if report.passed else 1


def _problem(target: str) -> str | None:
    """Says why a target cannot be checked at all, or None."""
    try:
        task_id = import_module_of(target)
    except ValueError as error:
        return str(error)
    if task_id not in gymnasium.registry:
        known = [name for name in gymnasium.registry if name.startswith("pxr/")]
        return (
            f'the task "{quote(task_id)}" came; expected a registered id, such as one of {", ".join(known)}.'
            f"{did_you_mean(task_id, gymnasium.registry)} Name the module of your own: my_module:{quote(task_id)}."
        )
    return None
