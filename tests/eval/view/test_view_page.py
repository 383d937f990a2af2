"""What the page about looking at runs says is what the commands take and what the pages offer."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from eval import report
from eval.facts import FILTERS
from eval.report import PICTURE_BYTES, PICTURED
from eval.view import command
from eval.view.index import MAX_INDEXES

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "view.md").read_text(encoding="utf-8")


def options() -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    other = argparse.ArgumentParser()
    report.add_arguments(other)
    actions = [*parser._actions, *other._actions]
    return {name: action for action in actions for name in action.option_strings}


def test_its_options_and_defaults_are_those_of_the_commands() -> None:
    known = options()
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) <= known.keys() | {"--k"}
    assert f"`--port N` ({known['--port'].default})" in PAGE
    assert known["--episodes"].default == PICTURED
    assert f"{PICTURED} by default" in PAGE
    assert f"{PICTURE_BYTES / 1e6:.0f} MB" in PAGE
    assert f"last {MAX_INDEXES} runs" in PAGE


def test_it_names_the_filters() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| `f`"))
    assert all(text in row for tag, text in FILTERS.items() if tag not in ("truncated", "unscored"))


def test_its_picture_is_there_and_small() -> None:
    assert 0 < (DOCS / "images" / "view.png").stat().st_size <= 300_000
