"""`python -m pxr_env`: list the tasks, play one, check data and tasks, unpack archives, write documentation pages."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pxr_env.tasks import TASKS, find_task


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 1 where something was found, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m pxr_env", description="Pixel-space reasoning environments.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the registered tasks").set_defaults(run=_list)

    # What a command needs is imported when it is given: `list` stays quick.
    given = list(sys.argv[1:] if arguments is None else arguments)
    for name, text, module in (
        ("play", "take the agent's seat, in the terminal or in a browser", "pxr_env.play"),
        ("check", "check every row of a data set (DIR), or a task (my_module:my/Task-v0)", _checker(given)),
        ("unpack", "unpack an archive of images or videos safely", "pxr_env.datasets.archives"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if given[:1] == [name]:
            implementation = importlib.import_module(module)
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run)

    pages = commands.add_parser("docs", help="write the documentation pages of tasks, yours included")
    pages.add_argument(
        "task",
        nargs="*",
        help="task ids, my_module:my/Task-v0 for your own; all registered by this package if left out",
    )
    pages.add_argument("--out", type=Path, default=Path("docs/environments"), help="directory (default: %(default)s)")
    pages.set_defaults(run=_docs)

    args = parser.parse_args(arguments)
    status: int = args.run(args)
    return status


def _checker(given: Sequence[str]) -> str:
    """The module that checks what is named: the id of a task ends with its version, a data set is a path."""
    names_task = any(
        re.fullmatch(r"(\S+:)?\S+-v\d+", argument) and not Path(argument).exists() for argument in given[1:]
    )
    return "pxr_env.testing.run" if names_task else "pxr_env.datasets.check"


def _list(args: argparse.Namespace) -> int:
    width = max(map(len, TASKS))
    for task in TASKS.values():
        print(f"{task.id:<{width}}  {task.summary}")
    return 0


def _docs(args: argparse.Namespace) -> int:
    from pxr_env.pages import page

    try:
        for task in [find_task(name) for name in args.task or TASKS]:
            path = args.out / f"{task.id.rpartition('/')[2]}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page(task), encoding="utf-8")
            print(path)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


#: What `pxr NAME ...` runs: the command line of a package, as `python -m PACKAGE` does.
PACKAGES = {"env": "pxr_env", "train": "training", "eval": "eval"}


def pxr(arguments: Sequence[str] | None = None) -> int:
    """The console command: `pxr env|train|eval ...` is `python -m pxr_env|training|eval ...`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in PACKAGES:
        print(f"usage: pxr {'|'.join(PACKAGES)} ...: the same as python -m {'|'.join(PACKAGES.values())} ...")
        return 0 if given in (["-h"], ["--help"]) else 2
    status: int = importlib.import_module(f"{PACKAGES[given[0]]}.__main__").main(given[1:])
    return status


if __name__ == "__main__":
    raise SystemExit(main())
