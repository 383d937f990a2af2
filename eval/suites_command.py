"""`python -m eval suites`: the benchmarks, what each needs, and how large it is."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import gymnasium
from rich.console import Console
from rich.table import Table

from eval.run_command import key_value
from eval.suites import SUITES, Suite, get_suite
from pxr_env.tasks import TASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which of them, and where their data are."""
    parser.add_argument("names", nargs="*", metavar="SUITE", help="suites (default: all)")
    parser.add_argument("--data", metavar="DIR", help="data of the one suite that is named: its size is counted")
    parser.add_argument(
        "--set", dest="env_args", action="append", default=[], type=key_value, metavar="KEY=VALUE",
        help="argument of the environment, as for `run`; may be repeated",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Print the table, and the size of a suite whose data are given."""
    suites = [get_suite(name) for name in arguments.names] or list(SUITES.values())
    if arguments.data is not None and (len(arguments.names) != 1 or not suites[0].needs_data):
        raise ValueError("--data came without the name of one suite that reads data; expected one, such as vstar")
    if arguments.env_args and len(arguments.names) != 1:
        raise ValueError("--set came without the name of one suite; expected one")
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = 240
    table = Table("suite", "task", "data", "known by", "size", box=None)
    for suite in suites:
        given = dict(arguments.env_args) | ({} if arguments.data is None else {"data": arguments.data})
        task = suite.env_id.removeprefix("pxr_env:")
        size = "" if suite.needs_data and "data" not in given else _size(suite, given)
        table.add_row(suite.name, task, _data(suite), suite.metrics[0], size)
    console.print(table)
    for suite in suites if arguments.names else ():
        console.print(f"\n{suite.name}: {suite.protocol}\nSource: {suite.source}", markup=False, highlight=False)
    return 0


def _data(suite: Suite) -> str:
    if not suite.needs_data:
        return "none: drawn"
    task = TASKS[suite.env_id.removeprefix("pxr_env:")]
    return f"--data DIR ({task.data.rpartition(':')[2]} in docs/data.md)"


def _size(suite: Suite, given: dict[str, Any]) -> str:
    env = gymnasium.make(suite.env_id, **{**suite.arguments, **given})
    try:
        data: Any = env.unwrapped.data  # type: ignore[attr-defined]
        if not suite.needs_data:
            return f"{len(data):,} samples"
        samples = [data.record(name) for name in data.sample_ids()]
    finally:
        env.close()
    counts = Counter(sample.category for sample in samples if sample.category is not None)
    clusters = len({sample.cluster for sample in samples})
    size = f"{len(samples):,} samples about {clusters:,} images or videos"
    return size + "".join(f", {count:,} {name}" for name, count in sorted(counts.items()))
