"""`python -m training traces|sft|ppo|quickstart|doctor [RECIPE] [key=value ...]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from training.config import PPORecipe, RecipeError, SFTRecipe, TracesRecipe, load_recipe, recipe_keys
from training.errors import TrainingError
from training.run_directory import FinishedRunError, Interrupted

Recipe = TypeVar("Recipe")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 if training cannot go on, 2 for a wrong argument, 130 after
    Ctrl-C."""
    # Before torch is loaded: OpenMP threads that spin while they wait make a machine that does anything else beside the
    # training slower by an order of magnitude; sleeping ones cost nothing that can be measured.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        return 130
    except TrainingError as error:
        if arguments.traceback:
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except (RecipeError, FinishedRunError, ValueError, OSError) as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train agents by recipes.")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(required=True, metavar="traces|sft|ppo|quickstart|doctor")
    added: dict[str, argparse.ArgumentParser] = {}
    for name, function, text in (
        ("traces", _traces, "demonstrations for the warm start, by an environment's oracle"),
        ("sft", _sft, "warm start: supervised training on traces"),
        ("ppo", _ppo, "reinforcement learning with PPO on Ray"),
        ("quickstart", _quickstart, "the whole chain with a tiny model, without and with curiosity"),
        ("doctor", _doctor, "what will fail here before anything is started: versions, devices, a recipe's needs"),
    ):
        command = added[name] = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "recipe",
            nargs="?",
            help="a TOML file, or the name of a recipe in training/recipes",
        )
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the recipe, such as seed=1")
        command.set_defaults(command=function)
        if name != "doctor":
            command.add_argument("--keys", action="store_true", help="list the keys of the recipe and stop")
    added["doctor"].add_argument("--json", action="store_true", help="findings as JSON")
    return parser


def _split(arguments: argparse.Namespace) -> tuple[str | None, list[str]]:
    """A first KEY=VALUE where the recipe may be left out is an override."""
    recipe, overrides = arguments.recipe, list(arguments.overrides)
    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        return None, [recipe, *overrides]
    return recipe, overrides


def _list_keys(recipe_class: type) -> int:
    for key, text in recipe_keys(recipe_class):
        print(f"{key:<40} {text}")
    return 0


def _quickstart(arguments: argparse.Namespace) -> int:
    _quiet()
    from training.quickstart.recipe import QuickstartRecipe

    if arguments.keys:
        return _list_keys(QuickstartRecipe)
    recipe = _load(arguments, QuickstartRecipe)
    from rich.console import Console

    from training.quickstart.pipeline import Quickstart

    Quickstart(recipe, Console()).run()
    return 0


def _ppo(arguments: argparse.Namespace) -> int:
    _quiet()
    if arguments.keys:
        return _list_keys(PPORecipe)
    recipe = _load(arguments, PPORecipe)
    from rich.console import Console

    from training.progress import StageProgress
    from training.rllib.run import run_ppo

    console = Console()
    with StageProgress(console) as progress:
        report = progress.begin("PPO", recipe.iterations)
        model = run_ppo(recipe, on_iteration=lambda m: report(int(m["iteration"]), recipe.iterations, m))
    console.print(f"Trained model: {model}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from training.doctor import examine, exit_status, report, to_json

    recipe, overrides = _split(arguments)
    if recipe is None and overrides:
        raise ValueError(f"{overrides[0]} came without a recipe; expected one that it changes: doctor RECIPE KEY=VALUE")
    findings = examine(recipe, overrides)
    print(to_json(findings) if arguments.json else report(findings))
    return exit_status(findings)


def _traces(arguments: argparse.Namespace) -> int:
    if arguments.keys:
        return _list_keys(TracesRecipe)
    recipe = _load(arguments, TracesRecipe)
    from training.demonstrations import oracle_traces, write_traces

    write_traces(recipe.out, oracle_traces(recipe))
    print(f"{recipe.count} traces: {recipe.out}")
    return 0


def _sft(arguments: argparse.Namespace) -> int:
    _quiet()
    if arguments.keys:
        return _list_keys(SFTRecipe)
    recipe = _load(arguments, SFTRecipe)
    from rich.console import Console

    from training.progress import StageProgress
    from training.sft_run import run_sft

    console = Console()
    with StageProgress(console) as progress:
        report = progress.begin("SFT", recipe.steps)
        model = run_sft(recipe, report=report)
    console.print(f"Trained model: {model}")
    return 0


def _load(arguments: argparse.Namespace, recipe_class: type[Recipe]) -> Recipe:
    recipe, overrides = _split(arguments)
    return load_recipe(recipe, recipe_class, overrides)


def _quiet() -> None:
    """Progress bars of our own only."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


if __name__ == "__main__":
    sys.exit(main())
