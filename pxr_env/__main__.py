"""`python -m pxr_env list`: the registered tasks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pxr_env.tasks import TASKS


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m pxr_env", description="Pixel-space reasoning environments.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the registered tasks")
    parser.parse_args(arguments)
    width = max(map(len, TASKS))
    for task in TASKS.values():
        print(f"{task.id:<{width}}  {task.summary}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
