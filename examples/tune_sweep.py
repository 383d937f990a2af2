"""A sweep over keys of a recipe with Ray Tune, one PPO run per combination:

    python -m examples.tune_sweep ppo_tiny --grid "lr=[1e-4, 3e-4]" --grid "curiosity.preset=['paper', 'off']"

Every trial is an ordinary run directory, OUT/TRIAL/run, with its metrics, checkpoints and episodes. The same command
again goes on where the sweep was interrupted: finished trials stay, others resume from their checkpoints.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from training.config import PPORecipe, load_recipe
from training.recipe_reader import RecipeError
from training.rllib.algorithm import VLMPPO, VLMPPOConfig
from training.rllib.run import run_ppo


def train(choice: dict[str, Any], *, source: str, overrides: Sequence[str]) -> None:
    """One trial: the recipe with the trial's choice of keys, reported to Tune after every iteration."""
    out = Path(tune.get_context().get_trial_dir()) / "run"
    recipe = load_recipe(source, PPORecipe, [*overrides, *_overrides(choice), f"out={out}"])
    run_ppo(recipe, on_iteration=lambda metrics: tune.report(dict(metrics)))


def sweep(
    source: str, overrides: Sequence[str], grid: dict[str, list[Any]], *, out: Path, metric: str, at_once: int
) -> tune.ResultGrid:
    """Run all combinations of the values in `grid`.

    Args:
        source: recipe, by path or name.
        overrides: "key=value", the same for all trials.
        grid: dotted key -> its values.
        out: directory of the sweep.
        metric: what the best trial has most of.
        at_once: trials at the same time; 0 for as many as the cluster has room for.
    """
    recipe = load_recipe(source, PPORecipe, overrides)
    # Trials have working directories of their own.
    fixed = [*overrides, f"model={Path(recipe.model).absolute()}"] if Path(recipe.model).exists() else [*overrides]
    if Path(source).exists():
        source = str(Path(source).absolute())
    trainable = tune.with_resources(
        tune.with_parameters(train, source=source, overrides=fixed),
        # A driver, and a place for each env runner and learner.
        VLMPPO.default_resource_request(VLMPPOConfig().recipe(recipe)),
    )
    if tune.Tuner.can_restore(str(out.absolute())):
        tuner = tune.Tuner.restore(str(out.absolute()), trainable, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={key: tune.grid_search(values) for key, values in grid.items()},
            tune_config=tune.TuneConfig(metric=metric, mode="max", max_concurrent_trials=at_once or None),
            run_config=tune.RunConfig(name=out.name, storage_path=str(out.parent.absolute())),
        )
    return tuner.fit()


def _overrides(choice: dict[str, Any]) -> list[str]:
    # What JSON writes of numbers, strings, booleans and lists is TOML, too.
    return [f"{key}={json.dumps(value)}" for key, value in choice.items()]


def _grid(text: str) -> tuple[str, list[Any]]:
    key, equals, values = text.partition("=")
    try:
        parsed = tomllib.loads(f"values = {values}")["values"]
    except tomllib.TOMLDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {error}; expected KEY=[VALUE, ...], such as lr=[1e-4, 3e-4]"
        ) from error
    if not equals or not isinstance(parsed, list) or not parsed:
        raise argparse.ArgumentTypeError(f"{text!r} came; expected KEY=[VALUE, ...], such as lr=[1e-4, 3e-4]")
    return key.strip(), parsed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A sweep over keys of a PPO recipe.")
    parser.add_argument("recipe", help="a TOML file, or the name of a recipe in training/recipes")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes for all trials")
    parser.add_argument("--grid", action="append", type=_grid, default=[], metavar="KEY=[VALUE, ...]", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--metric", default="accuracy", help="what the best trial has most of (default: accuracy)")
    parser.add_argument("--at-once", type=int, default=0, help="trials at the same time (default: as many as fit)")
    arguments = parser.parse_args(argv)
    try:
        results = sweep(
            arguments.recipe,
            arguments.overrides,
            dict(arguments.grid),
            out=arguments.out,
            metric=arguments.metric,
            at_once=arguments.at_once,
        )
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for result in results:
        value = (result.metrics or {}).get(arguments.metric)
        shown = "failed" if result.error else f"{arguments.metric} {value:.3f}" if value is not None else "not reported"
        print(f"{shown:<24} {json.dumps(result.config)}  {result.path}/run")
    return int(results.num_errors > 0)


if __name__ == "__main__":
    sys.exit(main())
