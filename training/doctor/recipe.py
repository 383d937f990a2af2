"""What a recipe needs: packages, processes, GPUs, disk, a model and an environment that can be opened."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.config import PPORecipe, SFTRecipe, TracesRecipe, load_recipe
from training.doctor.findings import Finding
from training.doctor.machine import GIB, Machine, free_disk
from training.doctor.versions import Installed
from training.recipe_reader import RECIPES

TOPIC = "recipe"

AnyRecipe = PPORecipe | SFTRecipe | TracesRecipe

#: The checkpoint that is written and the two that are kept (see `training.run_directory`).
CHECKPOINTS = 3
#: Float32 weights and Adam's two averages, in sizes of a bfloat16 checkpoint.
FULL_CHECKPOINT = 6


def load_any(source: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Reads a recipe of whatever kind its keys say: "traces" is for `sft`, an environment without a model for `traces`.

    Raises:
        RecipeError: as `load_recipe`.
    """
    keys = _keys(source) | {override.partition("=")[0].strip() for override in overrides}
    if "traces" in keys:
        return load_recipe(source, SFTRecipe, overrides)
    if "count" in keys and "model" not in keys:
        return load_recipe(source, TracesRecipe, overrides)
    return load_recipe(source, PPORecipe, overrides)


def _keys(source: str | Path) -> set[str]:
    """The keys of a recipe file; none if it cannot be read, which `load_recipe` says better."""
    path = Path(source)
    if path.suffix not in (".toml", ".json"):
        path = RECIPES / f"{source}.toml"
    try:
        text = path.read_text(encoding="utf-8")
        return set(json.loads(text) if path.suffix == ".json" else tomllib.loads(text))
    except (OSError, ValueError):
        return set()


def parts_of(recipe: AnyRecipe | None) -> set[str]:
    """The parts of the trainer (see `versions.NEEDS`) that a recipe uses; without a recipe those of the quick start."""
    if isinstance(recipe, TracesRecipe):
        return {"environments"}
    parts = {"environments", "training"}
    if recipe is None or isinstance(recipe, PPORecipe) or recipe.num_learners:
        parts.add("ray")
    if isinstance(recipe, PPORecipe) and recipe.engine.kind == "vllm":
        parts.add("vllm")
    if recipe is not None and recipe.learner.kind != "ddp":
        parts.add("deepspeed")
    if recipe is not None and recipe.learner.lora_rank:
        parts.add("lora")
    return parts


def check_recipe(recipe: AnyRecipe, machine: Machine, packages: Installed) -> Iterator[Finding]:
    """Yields what a recipe needs, and what of it this machine does not have. Opens its model and its environment."""
    if not isinstance(recipe, TracesRecipe):
        yield from _check_processes(recipe, machine)
    yield from _check_out(recipe, machine)
    if parts_of(recipe) <= {"environments"} or {"torch", "transformers"} <= packages.keys():
        yield from _check_start(recipe)
    if not isinstance(recipe, TracesRecipe):
        yield _check_wandb(recipe.wandb, machine.environment, packages)


def processes(recipe: PPORecipe | SFTRecipe) -> dict[str, tuple[int, float, float]]:
    """Kind of process -> how many, and the CPUs and GPUs that Ray reserves for each."""
    kinds = {"learners": (recipe.num_learners, recipe.num_cpus_per_learner, recipe.num_gpus_per_learner)}
    if isinstance(recipe, PPORecipe):
        kinds["env runners"] = (recipe.num_env_runners, recipe.num_cpus_per_env_runner, 0.0)
    if isinstance(recipe, PPORecipe) and recipe.engine.kind == "vllm":
        engine = recipe.engine
        kinds["vLLM engines"] = (engine.num_engines, engine.num_cpus_per_engine, engine.num_gpus_per_engine)
    return {name: kind for name, kind in kinds.items() if kind[0]}


def _check_processes(recipe: PPORecipe | SFTRecipe, machine: Machine) -> Iterator[Finding]:
    kinds = processes(recipe)
    told = [f"{n} {name} ({cpus:g} CPUs, {gpus:g} GPUs each)" for name, (n, cpus, gpus) in kinds.items()]
    yield Finding(topic=TOPIC, level="ok", text=f"1 driver{''.join(f', {one}' for one in told)}")
    gpus = sum(n * each for n, _, each in kinds.values())
    here = len(machine.gpus)
    if gpus > here:
        nodes = "" if not here else f" ({-(-gpus // here):g} nodes like this one)"
        yield Finding(
            topic=TOPIC,
            # On a cluster the driver's node is one of many; without any GPU it may be a head that only schedules.
            level="warning" if here or "RAY_ADDRESS" in machine.environment else "error",
            text=f"it needs {gpus:g} GPUs{nodes}; this machine has {here}. Alone it would wait for them for ever.",
            remedy="Start it on a cluster that has them (docs/cluster.md), or ask for less: num_learners, "
            "engine.num_engines, num_gpus_per_learner, engine.num_gpus_per_engine.",
        )
    busy = 1 + sum(n for n, _, _ in kinds.values())
    if busy > 2 * machine.cpus and "RAY_ADDRESS" not in machine.environment:
        yield Finding(
            topic=TOPIC,
            level="warning",
            text=f"{busy} processes share {machine.cpus} CPUs.",
            remedy="Lower num_env_runners, or start it on a cluster (docs/cluster.md).",
        )


def _check_out(recipe: AnyRecipe, machine: Machine) -> Iterator[Finding]:
    out = Path(recipe.out)
    if (out / "model").exists():
        yield Finding(
            topic=TOPIC,
            level="error",
            text=f"out={recipe.out} holds a finished run, which is never overwritten.",
            remedy="Choose another out=..., or remove the directory.",
        )
    if "RAY_ADDRESS" in machine.environment and not out.is_absolute():
        yield Finding(
            topic=TOPIC,
            level="warning",
            text=f"out={recipe.out} is relative: a submitted job runs in a copy of the working directory, which Ray "
            f"removes.",
            remedy="Give out=... as an absolute path on a file system that stays (docs/cluster.md).",
        )
    if isinstance(recipe, TracesRecipe):
        return
    free, wanted = free_disk(out), _checkpoint_bytes(recipe)
    if wanted > free:
        yield Finding(
            topic=TOPIC,
            level="error",
            text=f"{free / GIB:.0f} GiB are free at out={recipe.out}; {CHECKPOINTS} checkpoints take about "
            f"{wanted / GIB:.0f} GiB.",
            remedy="Free some, or choose out=... on a larger disk.",
        )
    else:
        yield Finding(
            topic=TOPIC, level="ok", text=f"{free / GIB:.0f} GiB free at {out}, checkpoints take {wanted / GIB:.1f} GiB"
        )


def _checkpoint_bytes(recipe: PPORecipe | SFTRecipe) -> int:
    """About what all checkpoints take, from the size of a local model's files; 0 for one that is not here."""
    weights = sum(file.stat().st_size for file in Path(recipe.model).glob("*.safetensors"))
    return CHECKPOINTS * weights * (1 if recipe.learner.lora_rank else FULL_CHECKPOINT)


def _check_start(recipe: AnyRecipe) -> Iterator[Finding]:
    from training.preflight import check_model, check_start

    try:
        if isinstance(recipe, PPORecipe):
            check_start(recipe)
            yield Finding(topic=TOPIC, level="ok", text=f"{recipe.model} and {recipe.env.id} can be opened and fit")
        elif isinstance(recipe, SFTRecipe):
            check_model(recipe.model)
            if not Path(recipe.traces).exists():
                raise FileNotFoundError(f"traces={recipe.traces} does not exist; expected a JSONL file or a folder")
            yield Finding(topic=TOPIC, level="ok", text=f"{recipe.model} can be opened, {recipe.traces} is there")
        else:
            _open_environment(recipe)
            yield Finding(topic=TOPIC, level="ok", text=f"{recipe.env.id} can be opened")
    # An environment of a user may raise anything; here it is a finding, like every other reason.
    except Exception as error:
        yield Finding(
            topic=TOPIC,
            level="error",
            text=f"{type(error).__name__}: {error}",
            remedy="The message says what was expected; after a change of the recipe run the doctor again.",
        )


def _open_environment(recipe: TracesRecipe) -> None:
    import gymnasium

    env: gymnasium.Env[Any, Any] = gymnasium.make(recipe.env.id, **recipe.env.kwargs)
    env.reset(seed=recipe.seed)
    env.close()


def _check_wandb(wanted: bool, environment: Mapping[str, str], packages: Installed) -> Finding:
    if not wanted:
        text = "wandb is off (wandb = false)"
    elif "wandb" not in packages:
        text = "wandb is not installed: numbers and episodes go to the run's directory only"
    elif environment.get("WANDB_MODE"):
        text = f"wandb is in mode {environment['WANDB_MODE']} (WANDB_MODE)"
    elif environment.get("WANDB_API_KEY"):
        text = "wandb logs online: WANDB_API_KEY is set"
    else:
        text = "wandb logs offline: WANDB_API_KEY is not set; `wandb sync OUT/wandb/offline-run-*` uploads it later"
    return Finding(topic=TOPIC, level="note", text=text)
