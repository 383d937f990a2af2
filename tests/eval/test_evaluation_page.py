"""What the page about evaluation says is what the command line takes and what runs write."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from eval import leaderboard, run_command
from eval.intervals import SIGN_CHANGES
from eval.records import RunFiles
from eval.suites import SUITES

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def options() -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser()
    run_command.add_arguments(parser)
    return {name: action for action in parser._actions for name in action.option_strings}


def test_its_options_exist() -> None:
    again, board = argparse.ArgumentParser(), argparse.ArgumentParser()
    run_command.add_rerun_arguments(again)
    leaderboard.add_arguments(board)
    known = options().keys() | board._option_string_actions.keys()
    assert {"--data", "--base-url", "--model", "--agent", "--judge-base-url"} <= again._option_string_actions.keys()
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) <= known


def test_its_defaults_are_the_defaults() -> None:
    known = options()
    assert f"`--attempts` ({known['--attempts'].default})" in PAGE
    assert f"`--retry-seconds` ({known['--retry-seconds'].default:.0f})" in PAGE
    assert f"`--timeout` ({known['--timeout'].default:.0f} s)" in PAGE
    assert f"{SIGN_CHANGES:,} random ones" in PAGE


def test_it_names_every_suite() -> None:
    table = PAGE.partition("## Suites")[2].partition("\n## ")[0]
    for name in SUITES:
        assert f"`{name.removeprefix('synthetic')}`" in table or f"`{name}`" in table


def test_its_statistics_and_fields_are_those_of_a_run(oracle_run: Path) -> None:
    written = RunFiles(oracle_run).metrics()["statistics"]
    table = PAGE.partition("## Metrics")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([\w@/]+)`", table))
    # Parts of the reward, and counts, are described elsewhere.
    described = {name for name in written if not name.startswith(("reward", "n_", "operations/", "failures/"))}
    described -= {
        f"{name}_{kind}" for name in ("usage_rate", "first_turn_rate") for kind in ("needs_operation", "easy")
    }
    assert described <= named
    fields = PAGE.partition("## The manifest")[2].partition("\n## ")[0]
    manifest = RunFiles(oracle_run).manifest()
    assert manifest.keys() - {"n_samples", "samples_sha256", "agent"} <= set(re.findall(r"`(\w+)`", fields))
