"""Writes one self-contained HTML file about an evaluation run or a quick start."""

from __future__ import annotations

from pathlib import Path

from eval.records import RunDirectory
from eval.rendering import write_page
from eval.run_page import run_context
from eval.training_page import training_context

#: Episodes that are shown with pictures, where nobody says how many.
PICTURED = 24


def write_report(directory: Path, out: Path, *, n_episodes: int | None = PICTURED) -> None:
    """Write the report of `directory` to the file `out`.

    Args:
        directory: an evaluation run (`python -m eval run`), or a quick start (which has a `summary.json`).
        out: the HTML file; it needs nothing else, neither other files nor the network.
        n_episodes: how many episodes are shown with their pictures, None for all; the others of an evaluation are
            there as text. For a quick start: how many samples.

    Raises:
        FileNotFoundError: `directory` is neither of the two, or its run is not finished.
    """
    if (directory / "summary.json").exists():
        write_page(out, "training.html.jinja", training_context(directory, n_episodes=n_episodes))
    elif RunDirectory(directory).manifest_file.exists():
        write_page(out, "run.html.jinja", run_context(RunDirectory(directory), n_episodes=n_episodes))
    else:
        raise FileNotFoundError(
            f'"{directory}" holds neither a manifest.json nor a summary.json. Expected a directory written by '
            "`python -m eval run` or by the quick start; check the path."
        )
