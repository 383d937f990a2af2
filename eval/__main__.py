"""`python -m eval run` and `python -m eval report`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console
from rich.table import Table

from eval.replay import ReplayError
from pxr_agents.types import Sampling


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for a wrong argument, 130 after Ctrl-C)."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except KeyboardInterrupt:
        print("\nInterrupted. The same command continues where it stopped.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, gymnasium.error.Error, ReplayError) as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval", description="Evaluate agents and show their episodes.")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(required=True, metavar="run|report")

    run = commands.add_parser("run", help="run an agent over the samples of an environment")
    run.add_argument("env_id", metavar="ENV_ID", help="such as pxr_env:pxr/SyntheticSearch-v0")
    run.add_argument("--agent", required=True, help="oracle, random, transformers, or module:factory")
    run.add_argument("--model", help="checkpoint directory (for --agent transformers)")
    run.add_argument(
        "--env-arg",
        action="append",
        default=[],
        type=_key_value,
        metavar="KEY=VALUE",
        help="argument of the environment, VALUE as JSON or plain text; may be repeated",
    )
    run.add_argument("--limit", type=int, help="number of samples (default: all)")
    run.add_argument("--seed", type=int, default=0, help="seed of sampling noise and random turns (default: 0)")
    run.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: 0)")
    run.add_argument("--max-tokens", type=int, default=512, help="longest turn in tokens (default: 512)")
    run.add_argument("--envs", type=int, default=64, help="episodes at once (default: 64)")
    run.add_argument("--out", type=Path, help="directory for the results (default: runs/eval/TASK-AGENT)")
    run.set_defaults(command=_run)

    report = commands.add_parser("report", help="write one self-contained HTML file about a run")
    report.add_argument("directory", type=Path, metavar="DIR", help="of an evaluation or of a quick start")
    report.add_argument("--out", type=Path, metavar="FILE", help="default: DIR/report.html")
    report.add_argument("--episodes", type=int, default=24, help="episodes to show with their images (default: 24)")
    report.set_defaults(command=_report)
    return parser


def _key_value(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} came; expected KEY=VALUE, such as max_turns=4")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _run(arguments: argparse.Namespace) -> int:
    from eval.runner import evaluate

    task = arguments.env_id.rpartition("/")[2]
    out = arguments.out or Path("runs", "eval", f"{task}-{arguments.agent.replace(':', '-')}")
    metrics = evaluate(
        arguments.env_id,
        out=out,
        agent=arguments.agent,
        model=arguments.model,
        env_args=dict(arguments.env_arg),
        limit=arguments.limit,
        seed=arguments.seed,
        sampling=Sampling(temperature=arguments.temperature, max_tokens=arguments.max_tokens),
        n_envs=arguments.envs,
    )
    console = Console()
    console.print(_table(metrics))
    console.print(f"Written to {out}. Pictures of the episodes: python -m eval report {out}", soft_wrap=True)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from eval.report import write_report

    out = arguments.out or arguments.directory / "report.html"
    write_report(arguments.directory, out, n_episodes=arguments.episodes)
    print(f"Written to {out}")
    return 0


def _table(metrics: dict[str, Any]) -> Table:
    table = Table("metric", "value", "95% interval", box=None)
    for name, value in metrics["statistics"].items():
        low, high = metrics["intervals"].get(name, (None, None))
        interval = "" if low is None else f"{low:.3f} to {high:.3f}"
        table.add_row(name, f"{value:.0f}" if name.startswith("n_") else f"{value:.3f}", interval)
    return table


if __name__ == "__main__":
    sys.exit(main())
