"""Says before anything is started what will fail on this machine, and what to do: `python -m training doctor [RECIPE]`.

findings = examine("ppo_3b_lora_1gpu")
print(report(findings)); sys.exit(exit_status(findings))

`check_start` and `check_model` are the part that every run begins with.
"""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents.engines.vllm.arguments import NO_NEW_EXPERTS
from pxr_env.env import VisualReasoningEnv
from .config import PPORecipe, SFTRecipe, TracesRecipe, load_recipe
from .costs import learner_memory, model_size
from .env_recipe import EnvRecipe, shares_of
from .environments import make_env
from .machine import (
    GIB,
    OBJECT_STORE_SHARE,
    Finding,
    Installed,
    Level,
    Machine,
    check_attention,
    check_machine,
    check_versions,
    free_disk,
    installed,
    load_error,
    this_machine,
)  # fmt: skip
from .recipe_reader import read_table
from .rewards import Rewards
from .run_directory import CHECKPOINTS, first_line, samples_named

if TYPE_CHECKING:
    from pxr_agents.checkpoint import Checkpoint

AnyRecipe = PPORecipe | SFTRecipe | TracesRecipe

_SIGNS: dict[Level, str] = {"ok": "  ok ", "note": "     ", "warning": " ??  ", "error": " !!  "}
#: Modules that are known to be installed and not to load.
FRAGILE = ("torchvision", "decord")
#: Float32 weights and Adam's two averages, in sizes of a bfloat16 checkpoint.
FULL_CHECKPOINT = 6
#: Share of a device that weights, gradients and optimizer may take: activations, CUDA and fragments need the rest.
ROOM = 0.8


def examine(source: str | Path | None = None, overrides: Sequence[str] = ()) -> list[Finding]:
    """Everything that can be found out before a start. Imports of fragile packages are tried in processes of their own.

    Args:
        source: a recipe, by path or name; None to look at the installation and the machine only.
        overrides: "key=value", as for `load_recipe`.

    Raises:
        RecipeError: the recipe cannot be read.
    """
    recipe = None if source is None else load_any(source, overrides)
    packages, machine = installed(), this_machine()
    reasons = {name: load_error(name) for name in FRAGILE if name in packages}
    broken = {name: reason for name, reason in reasons.items() if reason is not None}
    findings = [*check_versions(packages, parts_of(recipe), broken=broken), *check_machine(machine, packages)]
    if recipe is not None:
        findings += check_recipe(recipe, machine, packages)
    if isinstance(recipe, PPORecipe | SFTRecipe):
        findings += check_memory(recipe, machine)
    return findings


def exit_status(findings: Sequence[Finding]) -> int:
    """1 if something will fail, else 0."""
    return int(any(finding.level == "error" for finding in findings))


def to_json(findings: Sequence[Finding]) -> str:
    """The findings, and whether all is well, as a JSON object."""
    rows = [dataclasses.asdict(finding) for finding in findings]
    return json.dumps({"ok": not exit_status(findings), "findings": rows}, indent=2)


def report(findings: Sequence[Finding], *, width: int = 110) -> str:
    """The findings as text, by topic."""
    lines: list[str] = []
    for topic in dict.fromkeys(finding.topic for finding in findings):
        lines.append(topic)
        for finding in findings:
            if finding.topic == topic:
                lines += _wrap(finding.text, _SIGNS[finding.level], width)
                # Commands stay in one piece, to be copied.
                lines += _wrap(finding.remedy, "     -> ", width, break_long_words=False)
    n_errors, n_warnings = (sum(each.level == level for each in findings) for level in ("error", "warning"))
    verdict = f"{n_errors} will fail ( !! )," if n_errors else "Nothing found that will fail;"
    return "\n".join([*lines, "", f"{verdict} {n_warnings} may be trouble ( ?? )."])


def _wrap(text: str, sign: str, width: int, *, break_long_words: bool = True) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=sign, subsequent_indent=" " * len(sign), break_on_hyphens=False,
        break_long_words=break_long_words,
    )  # fmt: skip


def load_any(source: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Reads a recipe of whatever kind its keys say: "traces" is for `sft`, an environment without a model for `traces`;
    raises RecipeError as `load_recipe`."""
    keys = {*read_table(source), *(override.partition("=")[0].strip() for override in overrides)}
    if "traces" in keys:
        return load_recipe(source, SFTRecipe, overrides)
    if "count" in keys and "model" not in keys:
        return load_recipe(source, TracesRecipe, overrides)
    return load_recipe(source, PPORecipe, overrides)


def parts_of(recipe: AnyRecipe | None) -> set[str]:
    """The parts of the trainer (see `NEEDS`) that a recipe uses; without a recipe those of the quick start."""
    if isinstance(recipe, TracesRecipe):
        return {"environments"}
    wanted = {
        "ray": recipe is None or isinstance(recipe, PPORecipe) or recipe.num_learners,
        "vllm": isinstance(recipe, PPORecipe) and recipe.engine.kind == "vllm",
        "deepspeed": recipe is not None and recipe.learner.kind != "ddp",
        "lora": recipe is not None and recipe.learner.lora_rank,
    }
    return {"environments", "training", *(part for part, is_wanted in wanted.items() if is_wanted)}


def processes(recipe: PPORecipe | SFTRecipe) -> dict[str, tuple[int, float, float]]:
    """Kind of process -> how many, and the CPUs and GPUs that Ray reserves for each."""
    kinds = {"learners": (recipe.num_learners, recipe.num_cpus_per_learner, recipe.num_gpus_per_learner)}
    if isinstance(recipe, PPORecipe):
        kinds["env runners"] = (recipe.num_env_runners, recipe.num_cpus_per_env_runner, 0.0)
        if recipe.engine.kind == "vllm":
            engine = recipe.engine
            kinds["vLLM engines"] = (engine.num_engines, engine.num_cpus_per_engine, engine.num_gpus_per_engine)
    return {name: kind for name, kind in kinds.items() if kind[0]}


def check_recipe(recipe: AnyRecipe, machine: Machine, packages: Installed) -> Iterator[Finding]:
    """Yields what a recipe needs, and what of it this machine does not have. Opens its model and its environment."""
    trained = None if isinstance(recipe, TracesRecipe) else recipe
    if trained is not None:
        yield from _check_processes(trained, machine)
    out = Path(recipe.out)
    if (out / "model").exists():
        text = f"out={recipe.out} holds a finished run, which is never overwritten."
        yield Finding("recipe", "error", text, "Choose another out=..., or remove the directory.")
    if "RAY_ADDRESS" in machine.environment and not out.is_absolute():
        yield Finding(
            "recipe", "warning",
            f"out={recipe.out} is relative: a submitted job runs in a copy of this directory, which Ray removes.",
            "Give out=... as an absolute path on a file system that stays (docs/cluster.md).",
        )  # fmt: skip
    if trained is not None:
        learner, on_gpu = trained.learner, trained.num_gpus_per_learner > 0
        flash = on_gpu and learner.dtype == "bfloat16"
        yield check_attention(learner.attn_implementation or "sdpa", packages, on_gpu=on_gpu, flash=flash)
        yield _check_disk(trained)
    if trained is None or {"torch", "transformers"} <= packages.keys():
        opening = _check_opening(recipe)
        yield opening
        if isinstance(recipe, PPORecipe) and opening.level == "ok":
            yield from check_conversations(recipe)
    if trained is not None:
        yield Finding("recipe", "note", _wandb(trained.wandb, machine.environment, packages))


def _check_processes(recipe: PPORecipe | SFTRecipe, machine: Machine) -> Iterator[Finding]:
    kinds, here = processes(recipe), len(machine.gpus)
    told = [f"{n} {name} ({cpus:g} CPUs, {gpus:g} GPUs each)" for name, (n, cpus, gpus) in kinds.items()]
    yield Finding("recipe", "ok", ", ".join(["1 driver", *told]))
    gpus = sum(n * each for n, _, each in kinds.values())
    if gpus > here:
        nodes = "" if not here else f" ({-(-gpus // here):g} nodes like this one)"
        yield Finding(
            # On a cluster the driver's node is one of many; without any GPU it may be a head that only schedules.
            "recipe", "warning" if here or "RAY_ADDRESS" in machine.environment else "error",
            f"it needs {gpus:g} GPUs{nodes}; this machine has {here}. Alone it would wait for them for ever.",
            "Start it on a cluster that has them (docs/cluster.md), or ask for less: num_learners, "
            "engine.num_engines, num_gpus_per_learner, engine.num_gpus_per_engine.",
        )  # fmt: skip
    busy = 1 + sum(n for n, _, _ in kinds.values())
    if busy > 2 * machine.cpus and "RAY_ADDRESS" not in machine.environment:
        remedy = "Lower num_env_runners, or start it on a cluster (docs/cluster.md)."
        yield Finding("recipe", "warning", f"{busy} processes share {machine.cpus} CPUs.", remedy)


def _check_disk(recipe: PPORecipe | SFTRecipe) -> Finding:
    """Room for the checkpoints that are kept and the one that is written, from the size of a local model's files."""
    weights, n_checkpoints = sum(file.stat().st_size for file in _weight_files(recipe.model)), CHECKPOINTS + 1
    wanted = n_checkpoints * weights * (1 if recipe.learner.lora_rank else FULL_CHECKPOINT)
    free = free_disk(Path(recipe.out))
    if wanted <= free:
        text = f"{free / GIB:.0f} GiB free at {Path(recipe.out)}, checkpoints take {wanted / GIB:.1f} GiB"
        return Finding("recipe", "ok", text)
    return Finding(
        "recipe", "error",
        f"{free / GIB:.0f} GiB are free at out={recipe.out}; {n_checkpoints} checkpoints take about "
        f"{wanted / GIB:.0f} GiB.",
        "Free some, or choose out=... on a larger disk.",
    )  # fmt: skip


def _weight_files(model: str | Path) -> list[Path]:
    """None for a model that is not here."""
    return sorted(Path(model).glob("*.safetensors"))


def _check_opening(recipe: AnyRecipe) -> Finding:
    try:
        if isinstance(recipe, TracesRecipe):
            env: gymnasium.Env[Any, Any] = gymnasium.make(recipe.env.id, **recipe.env.kwargs)
            env.reset(seed=recipe.seed)
            env.close()
            return Finding("recipe", "ok", f"{recipe.env.id} can be opened")
        if isinstance(recipe, PPORecipe):
            check_start(recipe)
            ids = ", ".join(env.id for env in recipe.envs.values())
            return Finding("recipe", "ok", f"{recipe.model} and {ids} can be opened and fit")
        check_model(recipe.model)
        if not Path(recipe.traces).exists():
            raise FileNotFoundError(f"traces={recipe.traces} does not exist; expected a JSONL file or a folder")
        return Finding("recipe", "ok", f"{recipe.model} can be opened, {recipe.traces} is there")
    # An environment of a user may raise anything; here it is a finding, like every other reason.
    except Exception as error:
        remedy = "The message says what was expected; after a change of the recipe run the doctor again."
        return Finding("recipe", "error", f"{type(error).__name__}: {error}", remedy)


def check_conversations(recipe: PPORecipe) -> Iterator[Finding]:
    """Yields what conversations may grow to, and what of that the engine does not take. Opens model and
    environments."""
    for chosen in recipe.envs.values():
        yield from _check_conversations_in(recipe, chosen)


def _check_conversations_in(recipe: PPORecipe, chosen: EnvRecipe) -> Iterator[Finding]:
    from .conversation_bound import conversation_bound, mute_samples

    checkpoint, env = check_model(recipe.model), make_env(chosen)
    base, chat, room = env.unwrapped, checkpoint.chat, _context(recipe, checkpoint)
    if not isinstance(base, VisualReasoningEnv):
        return
    images = recipe.engine.vllm.images_per_prompt if recipe.engine.kind == "vllm" else None
    bound = conversation_bound(base, chat, max_tokens=recipe.max_tokens)
    told = (
        f"a conversation has at most {bound.total:,} ids (prompt {bound.prompt:,}, {bound.n_images} images "
        f"{bound.images:,}, replies {bound.replies:,}, {base.limits.max_turns} turns {bound.turns:,}), and the engine "
        f"takes {room:,}{'' if images is None else f' with {images} images'}"
    )
    if bound.total <= room and (images is None or bound.n_images <= images):
        yield Finding("recipe", "ok", told)
        return
    if mute := mute_samples(base, chat, n_ids=room - recipe.max_tokens, n_images=images):
        told += f"; there is no room for a single turn in {samples_named(mute)}, which can teach nothing"
    yield Finding(
        "recipe", "warning", f"{told}. What outgrows it ends without an answer (truncated/context).",
        "Lower max_tokens or env.kwargs (max_vision_tokens, max_pixels, max_images, max_turns), or raise the engine's "
        "max_model_len or images_per_prompt.",
    )  # fmt: skip


def _context(recipe: PPORecipe, checkpoint: Checkpoint) -> int:
    """The most ids of a conversation that the recipe's engine takes."""
    most = int(checkpoint.config.text_config.max_position_embeddings)
    return (recipe.engine.vllm.max_model_len if recipe.engine.kind == "vllm" else 0) or most


def _wandb(wanted: bool, environment: Mapping[str, str], packages: Installed) -> str:
    if not wanted:
        return "wandb is off (wandb = false)"
    if "wandb" not in packages:
        return "wandb is not installed: numbers and episodes go to the run's directory only"
    if environment.get("WANDB_MODE"):
        return f"wandb is in mode {environment['WANDB_MODE']} (WANDB_MODE)"
    if environment.get("WANDB_API_KEY"):
        return "wandb logs online: WANDB_API_KEY is set"
    return "wandb logs offline: WANDB_API_KEY is not set; `wandb sync OUT/wandb/offline-run-*` uploads it later"


def check_model(model: str) -> Checkpoint:
    """The checkpoint, after checking that all of it is there; raises FileNotFoundError or ValueError."""
    from pxr_agents.checkpoint import check_weights, has_all_it_gets, read_checkpoint

    checkpoint = read_checkpoint(model)
    if has_all_it_gets(model):
        check_weights(checkpoint.folder)
    return checkpoint


def check_start(recipe: PPORecipe) -> None:
    """Check that the model is there, that the environment can be made, and that the two fit together: an error in a
    second, not a traceback out of a worker.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the environment's images do not fit the model, it has too few samples, or the engine cannot be given
            new weights of this model.
        Exception: whatever the environment raises when it is made.
    """
    checkpoint = check_model(recipe.model)
    if checkpoint.has_experts and recipe.engine.kind == "vllm" and not recipe.engine.num_gpus_per_engine:
        raise ValueError(f"{recipe.model} is a mixture of experts. {NO_NEW_EXPERTS}")
    Rewards(recipe)
    if recipe.max_tokens >= (room := _context(recipe, checkpoint)):
        raise ValueError(
            f"got max_tokens={recipe.max_tokens} for an engine that takes {room} ids, conversation included; expected "
            f"less: make turns shorter, or raise engine.vllm.max_model_len"
        )
    shares = shares_of(recipe.env)
    for name, env in recipe.envs.items():
        n_groups = math.ceil(recipe.groups_per_iteration * shares[name])
        _check_env(recipe, env, n_groups=n_groups, unit=checkpoint.norm.image_unit)


def _check_env(recipe: PPORecipe, chosen: EnvRecipe, *, n_groups: int, unit: int) -> None:
    env = make_env(chosen)
    try:
        base: Any = env.unwrapped
        _warn_of_bad_rows(base.data)
        if len(base.data) < n_groups:
            its = "" if chosen is recipe.env else f", {n_groups} of them of {chosen.id},"
            raise ValueError(
                f"got groups_per_iteration={recipe.groups_per_iteration}{its} for {len(base.data)} samples; expected "
                f"at most as many groups as there are samples"
            )
        observation, _ = env.reset(seed=recipe.seed)
        for image in observation["images"]:
            height, width = image.shape[:2]
            if height % unit or width % unit:
                raise ValueError(
                    f"{chosen.id} shows images of {width}x{height} pixels, and {recipe.model} needs sides that are "
                    f"multiples of {unit}. Set env.kwargs.size_multiple={unit}."
                )
    finally:
        env.close()


def _warn_of_bad_rows(data: Any) -> None:
    """Warns, with the first few, of rows that a data set leaves out (`skip_bad_rows`)."""
    if skipped := getattr(data, "skipped", ()):
        first = "; ".join([*map(str, skipped[:3]), *(["..."] if len(skipped) > 3 else [])])
        warnings.warn(
            f"{len(skipped)} bad rows of {data.path} are left out, {len(data)} are used: {first}. "
            f"`python -m pxr_env check` names them all.",
            UserWarning,
            stacklevel=3,
        )


def check_memory(recipe: PPORecipe | SFTRecipe, machine: Machine) -> Iterator[Finding]:
    """Yields what the processes of a recipe will hold on this machine; only a note where the model's configuration
    cannot be read."""
    try:
        size = model_size(recipe.model)
    except (OSError, ValueError, ImportError) as error:
        yield Finding("memory", "note", f"memory not estimated: {first_line(error)}")
        return
    memory = learner_memory(recipe, size.shapes)
    held = (f"{name} {getattr(memory, name) / GIB:.1f}" for name in ("weights", "gradients", "optimizer", "reference"))
    yield Finding(
        "memory", "ok",
        f"{size.parameters / 1e9:.2f} billion parameters; a learner holds {memory.total / GIB:.1f} GiB: "
        f"{', '.join(held)}; {memory.host / GIB:.1f} of it in main memory",
    )  # fmt: skip
    n_learners, on_gpu = max(recipe.num_learners, 1), recipe.num_gpus_per_learner > 0
    device = memory.total - memory.host
    gpu = min(machine.gpus, key=lambda gpu: gpu.memory, default=None)
    room = gpu.memory * min(recipe.num_gpus_per_learner, 1.0) if gpu else 0
    if gpu and on_gpu and device > ROOM * room:
        yield Finding(
            "memory", "error" if device > room else "warning",
            f"a learner keeps {device / GIB:.1f} GiB on a {gpu.name} and has {room / GIB:.1f} GiB of it; "
            f"expected at most {ROOM:.0%}, so that activations fit beside it.",
            'More learners with learner.kind="zero3"; learner.offload_optimizer=true; learner.dtype="bfloat16"; or '
            "adapters: learner.lora_rank=32 (docs/learners.md).",
        )  # fmt: skip
    # Main memory: learners on the CPU or what they offload, and float32 copies of the model in env runners.
    learners = min(n_learners, max(len(machine.gpus), 1)) * memory.host if on_gpu else n_learners * memory.total
    copies = isinstance(recipe, PPORecipe) and recipe.engine.kind != "vllm" and max(recipe.num_env_runners, 1)
    runners = copies * 4.0 * size.parameters
    if learners + runners > ROOM * machine.memory:
        yield Finding(
            "memory", "error" if learners + runners > machine.memory else "warning",
            f"learners take {learners / GIB:.1f} GiB of main memory and env runners {runners / GIB:.1f} GiB; there are "
            f"{machine.memory / GIB:.1f} GiB.",
            'Fewer processes, engine.kind="vllm" (env runners then hold no model), or adapters: learner.lora_rank=32.',
        )  # fmt: skip
    if isinstance(recipe, PPORecipe) and recipe.engine.vllm.weight_transfer == "none":
        yield from _check_store(recipe, size.parameters, machine)


def _check_store(recipe: PPORecipe, n_parameters: int, machine: Machine) -> Iterator[Finding]:
    """New weights in Ray's object store: one copy a node, however many engines it has, beside the groups."""
    in_half = recipe.learner.dtype == "bfloat16" and recipe.learner.kind != "ddp"
    weights = (2 if in_half else 4) * n_parameters
    store = min(OBJECT_STORE_SHARE * machine.memory, machine.shared_memory or math.inf)
    if weights > ROOM * store:
        yield Finding(
            "memory", "warning",
            f"new weights take {weights / GIB:.1f} GiB of shared memory on every node with engines or env runners; "
            f"Ray's object store has {store / GIB:.1f} GiB here, and goes to the disk beyond.",
            "More for Ray: ray start --object-store-memory (and docker run --shm-size); or "
            'engine.vllm.weight_transfer="nccl".',
        )  # fmt: skip
