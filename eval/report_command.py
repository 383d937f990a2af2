"""`python -m eval report`: the page of a run, or of a quick start."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where the page goes."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="of an evaluation or of a quick start")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: DIR/report.html")
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument(
        "--episodes", type=int, default=24, metavar="N", help="episodes to show with their pictures (default: 24)"
    )
    how_many.add_argument("--all", action="store_true", help="show all with pictures, as far as a file can hold them")


def run(arguments: argparse.Namespace) -> int:
    """Write the page."""
    from eval.rendering import file_size
    from eval.report import write_report

    if arguments.episodes < 0:
        raise ValueError(f"--episodes {arguments.episodes} came; expected 0 or more")
    out = arguments.out or arguments.directory / "report.html"
    write_report(arguments.directory, out, n_episodes=None if arguments.all else arguments.episodes)
    print(f"Written to {out} ({file_size(out.stat().st_size)})")
    return 0
