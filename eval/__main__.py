"""`python -m eval`: run a benchmark, report, compare, and look at what happened."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """What it does, and the functions of a module that declare its arguments and run it."""

    text: str
    module: str
    add_arguments: str = "add_arguments"
    run: str = "run"


COMMANDS = {
    "run": Command("run an agent over a benchmark, or over the samples of an environment", ".run_command"),
    "rerun": Command("run again exactly what a manifest says", ".run_command", "add_rerun_arguments", "rerun"),
    "suites": Command("list the benchmarks, what they need, and how large they are", ".suites"),
    "report": Command("write one self-contained HTML file about a run", ".report"),
    "compare": Command(
        "put runs side by side, with what makes them unlike and whether they differ significantly", ".comparison"
    ),
    "leaderboard": Command("put agents and models in one table, the best first", ".leaderboard"),
    "audit": Command("take a score apart: what operations gave and what they cost", ".audit.audit"),
    "replay": Command(
        "play every episode of a run again from its turns, and check all that is on record", ".replay_check"
    ),
    "view": Command("look at many runs in a browser", ".view"),
    "demo": Command("talk to a model about images of your own", ".demo"),
}
#: Those that go on, when they are given again, where they were interrupted.
_CONTINUED = ("run", "audit")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for a wrong argument, 130 after Ctrl-C)."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser(given).parse_args(given)
    try:
        return int(arguments.run_command(arguments))
    except KeyboardInterrupt:
        goes_on = " The same command continues where it stopped." if arguments.command in _CONTINUED else ""
        print(f"\nInterrupted.{goes_on}", file=sys.stderr)
        return 130
    except _mistakes() as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description="Run agents and show their episodes.")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(dest="command", required=True)
    # What a command needs is imported when it is given: `compare` needs neither torch nor a data library.
    wanted = next((argument for argument in given if not argument.startswith("-")), None)
    for name, command in COMMANDS.items():
        of_command = commands.add_parser(
            name, help=command.text, description=f"{command.text[0].upper()}{command.text[1:]}."
        )
        if name == wanted:
            try:
                module = importlib.import_module(command.module, __package__)
            except ModuleNotFoundError as error:
                extra = name if name == "demo" else "eval"
                parser.error(f"{error}, which {name} needs. Install it: pip install 'pxr-gym[{extra}]'.")
            getattr(module, command.add_arguments)(of_command)
            of_command.set_defaults(run_command=getattr(module, command.run))
    return parser


def _mistakes() -> tuple[type[Exception], ...]:
    """What a user can mend: a message is enough. `RuntimeError` is what engines, servers and replays raise."""
    import gymnasium

    return (ValueError, TypeError, OSError, ImportError, RuntimeError, gymnasium.error.Error)


if __name__ == "__main__":
    sys.exit(main())
