"""`python -m training traces|sft|ppo|quickstart|doctor|plan [RECIPE] [key=value ...]`."""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .config import PPORecipe, SFTRecipe, TracesRecipe, load_recipe, recipe_keys
from .run_directory import FinishedRunError, Interrupted, TrainingError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 if training cannot go on, 2 for a wrong argument, 130 after
    Ctrl-C."""
    # Before torch is loaded: OpenMP threads that spin while they wait make a machine that does anything else beside the
    # training slower by an order of magnitude; sleeping ones cost nothing that can be measured.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = _parse(argv)
    try:
        return _run(arguments)
    except (KeyboardInterrupt, Interrupted) as stop:
        print(f"\n{stop if isinstance(stop, Interrupted) else 'Interrupted.'}", file=sys.stderr)
        return 130
    except (FinishedRunError, ValueError, OSError) as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrainingError) else 2


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description="Train agents by recipes.")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, (_, train, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("recipe", nargs="?", help="a TOML file, or the name of a recipe in training/recipes")
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the recipe, such as seed=1")
        if train is None:
            command.add_argument("--json", action="store_true", help="as JSON")
            if name == "plan":
                _add_plan_options(command)
        else:
            command.add_argument("--keys", action="store_true", help="list the keys of the recipe and stop")
        if train is _ppo:
            command.add_argument("--plain", action="store_true", help="in one process, without Ray (training/loop.py)")
    # argparse takes positional arguments in one piece only: those behind an option are left over.
    arguments, left_over = parser.parse_known_args(argv)
    if unknown := [word for word in left_over if word.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    words = [word for word in (arguments.recipe, *arguments.overrides, *left_over) if word is not None]
    # An override in the first place: the recipe was left out.
    left_out = not words or ("=" in words[0] and not Path(words[0]).exists())
    arguments.recipe, arguments.overrides = (None, words) if left_out else (words[0], words[1:])
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    class_name, train, _ = COMMANDS[arguments.command]
    if arguments.command == "plan":
        return _plan(arguments)
    if train is None:
        return _doctor(arguments.recipe, arguments.overrides, as_json=arguments.json)
    recipe_class = pkgutil.resolve_name(f"{__package__}{class_name}")
    if arguments.keys:
        for key, text in recipe_keys(recipe_class):
            print(f"{key:<40} {text}")
    else:
        train = _ppo_plain if getattr(arguments, "plain", False) else train
        train(load_recipe(arguments.recipe, recipe_class, arguments.overrides))
    return 0


def _add_plan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--gpu", help='"h200", "h100", "a100", or "cpu", which is measured (by the recipe: h100 or cpu)'
    )
    command.add_argument("--gpus", type=int, help="how many GPUs; as many as the recipe asks for by default")
    command.add_argument("--turns", type=float, default=0, help="mean turns of an episode (halfway to max_turns)")
    command.add_argument("--turn-ids", type=float, default=0, help="mean ids of a turn (a quarter of max_tokens)")


def _plan(arguments: argparse.Namespace) -> int:
    from .plan import changes, make_plan, report, to_json

    if arguments.recipe is None:
        raise ValueError("got no recipe; expected one: plan RECIPE")
    plan = make_plan(
        arguments.recipe, arguments.overrides, gpu=arguments.gpu, gpus=arguments.gpus, turns=arguments.turns,
        turn_ids=arguments.turn_ids,
    )  # fmt: skip
    better = changes(plan, arguments.recipe, arguments.overrides)
    print(to_json(plan, better) if arguments.json else report(plan, better))
    return 0


def _doctor(recipe: str | None, overrides: Sequence[str], *, as_json: bool) -> int:
    from .doctor import examine, exit_status, report, to_json

    if recipe is None and overrides:
        raise ValueError(f"got {overrides[0]} without a recipe; expected one that it changes: doctor RECIPE KEY=VALUE")
    findings = examine(recipe, overrides)
    print(to_json(findings) if as_json else report(findings))
    return exit_status(findings)


def _traces(recipe: TracesRecipe) -> None:
    from .demonstrations import oracle_traces, write_traces

    write_traces(recipe.out, oracle_traces(recipe))
    print(f"{recipe.count} traces: {recipe.out}")


def _sft(recipe: SFTRecipe) -> None:
    from .sft_run import run_sft

    _with_a_bar("SFT", recipe.steps, lambda report: run_sft(recipe, report=report))


def _ppo(recipe: PPORecipe) -> None:
    from .rllib.run import run_ppo

    _with_iterations(recipe, run_ppo)


def _ppo_plain(recipe: PPORecipe) -> None:
    from .loop import run_plain

    _with_iterations(recipe, run_plain)


def _with_iterations(recipe: PPORecipe, run: Callable[..., Path]) -> None:
    n = recipe.iterations
    _with_a_bar("PPO", n, lambda report: run(recipe, on_iteration=lambda m: report(int(m["iteration"]), n, m)))


def _with_a_bar(title: str, total: int, train: Callable[[Any], Path]) -> None:
    """Trains with a progress bar, which `train` gets the function to move of."""
    _quiet()
    from rich.console import Console

    from .logs import StageProgress

    console = Console()
    with StageProgress(console) as progress:
        model = train(progress.begin(title, total))
    console.print(f"Trained model: {model}")


def _quickstart(recipe: Any) -> None:
    _quiet()
    from rich.console import Console

    from .quickstart.pipeline import Quickstart

    Quickstart(recipe, Console()).run()


def _quiet() -> None:
    """Progress bars of our own only."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


#: Command -> its recipe class, what is done with a recipe, and its help. What a command needs is imported by it alone.
COMMANDS: dict[str, tuple[str, Callable[[Any], None] | None, str]] = {
    "traces": (".config:TracesRecipe", _traces, "demonstrations for the warm start, by a task's oracle"),
    "sft": (".config:SFTRecipe", _sft, "warm start: supervised training on traces"),
    "ppo": (".config:PPORecipe", _ppo, "reinforcement learning with PPO on Ray"),
    "quickstart": (
        ".quickstart.recipe:QuickstartRecipe", _quickstart,
        "the whole chain with a tiny model, without and with curiosity",
    ),
    "plan": ("", None, "memory and seconds of an iteration from a recipe alone, and what one change would bring"),
    "doctor": ("", None, "what will fail here before anything is started: versions, devices, a recipe's needs"),
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
