"""What an iteration of a recipe will hold and take, before anything is started: `python -m training plan RECIPE`.

print(report(make_plan("ppo_7b_8gpu", gpu="h200")))

Nothing is opened but the checkpoint's config.json and the environment, and on a CPU the tokenizer. The formulas are in
`training.costs`, what devices attain in `training.devices`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium

from pxr_env.env import VisualReasoningEnv
from .batch import BUCKET_TOKENS
from .config import EnvRecipe, PPORecipe, RecipeError, SFTRecipe, load_recipe
from .costs import (
    WIDTHS,
    ModelSize,
    Workload,
    checkpoint_seconds,
    engine_cache,
    engine_dtype,
    learner_memory,
    learning_seconds,
    model_size,
    sampling_seconds,
    sync_seconds,
    transient,
)
from .devices import GPUS, Device, rehearse, this_cpu
from .doctor import ROOM, load_any, processes
from .env_recipe import shares_of
from .machine import GIB, this_machine

#: Share of max_tokens that a turn is expected to have, where nothing says better: of 1,024 a paragraph and a call.
TURN_SHARE = 0.25
#: Ids of a system prompt with its operations and a question, and of the text of an answer to a call. Assumed.
PROMPT, REPLY = 600, 60
#: Share of max_length that a conversation of a warm start is expected to have.
TRACE_SHARE = 0.33
#: What an environment's arguments say of the length of a conversation.
BUDGETS = ("max_turns", "min_pixels", "max_pixels", "max_operations")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """An iteration of PPO, or a step of a warm start: phase -> seconds, for each of its parts."""

    recipe: PPORecipe | SFTRecipe
    size: ModelSize
    work: Workload
    device: Device
    gpus: int
    sample: Mapping[str, float]
    learn: Mapping[str, float]
    sync: float
    checkpoint: float

    @property
    def sampling(self) -> float:
        """Env runners and vLLM's engines work side by side; an engine in an env runner waits for environments."""
        environment = self.sample.get("environment", 0.0)
        engine = sum(self.sample.values()) - environment
        beside = isinstance(self.recipe, PPORecipe) and self.recipe.engine.kind == "vllm"
        return max(engine, environment) if beside else engine + environment

    @property
    def learning(self) -> float:
        return sum(self.learn.values())

    @property
    def overlaps(self) -> bool:
        """Whether rollouts run beside the learners."""
        return isinstance(self.recipe, PPORecipe) and self.recipe.max_staleness > 0

    @property
    def seconds(self) -> float:
        sampling, environment = self.sampling, self.sample.get("environment", 0.0)
        both = sampling + self.learning
        if self.overlaps:
            # On one GPU an engine and a learner still take turns; environments go on meanwhile.
            shared = 0 < self.recipe.num_gpus_per_learner < 1
            both = max(both - environment, environment) if shared else max(sampling, self.learning)
        return both + self.sync + self.checkpoint

    @property
    def bottleneck(self) -> str:
        """The longest phase of the part that an iteration waits for most."""
        part = max((self.sample, self.learn), key=lambda phases: sum(phases.values()))
        return max(part, key=part.__getitem__)

    @property
    def activations(self) -> float:
        """Bytes that come and go in a learner's largest pass."""
        size, n_tokens, n_actions = self.size, *largest_pass(self.recipe, self.work)
        return transient(
            self.recipe, n_tokens=n_tokens, n_actions=n_actions, width=size.width, n_layers=size.layers,
            n_vocabulary=size.vocabulary, largest_layer=size.largest_layer,
        )  # fmt: skip

    @property
    def fits(self) -> bool:
        """Whether learners and engines have the memory they need."""
        memory, on_gpu = learner_memory(self.recipe, self.size.shapes), self.recipe.num_gpus_per_learner
        learner = memory.total - memory.host + self.activations
        if isinstance(self.recipe, SFTRecipe) or self.recipe.engine.kind != "vllm":
            return not on_gpu or learner <= ROOM * self.device.memory
        longest = self.work.ids * 4 * self.size.layers * self.size.keys
        shared = self.recipe.engine.vllm.gpu_memory_utilization if on_gpu < 1 else 0.0
        room = (1 - shared) * self.device.memory if shared else ROOM * self.device.memory
        return learner <= room and engine_cache(self.recipe, self.size, self.device) > longest


def largest_pass(recipe: PPORecipe | SFTRecipe, work: Workload) -> tuple[int, int]:
    """The most ids that go through a learner at once, and how many of them the model wrote."""
    if isinstance(recipe, SFTRecipe):
        n_tokens = recipe.learner.micro_batch_tokens or recipe.pack_tokens or recipe.max_length or BUCKET_TOKENS
        return n_tokens, n_tokens
    n_tokens = recipe.learner.micro_batch_tokens or BUCKET_TOKENS
    turns = max(budget_arguments(env)["max_turns"] for env in recipe.envs.values())
    return n_tokens, min(n_tokens, recipe.max_tokens * turns)


def expected(recipe: PPORecipe | SFTRecipe, size: ModelSize, turns: float = 0, turn: float = 0) -> Workload:
    """An iteration's rollouts by the environment's budgets: its question comes with an image of the largest size, and
    operations show the smallest, to which a crop is enlarged. 0 stands for what is expected without knowing better:
    turns are halfway between one and as many as may be, each of `TURN_SHARE` of max_tokens."""
    if isinstance(recipe, SFTRecipe):
        ids = TRACE_SHARE * (recipe.max_length or 4096)
        image = min(recipe.images.max_pixels / size.unit**2, ids / 2)
        return Workload(
            groups=recipe.batch_size, group_size=1, text=ids / 2 - image, image=image, turns=1, turn=ids / 2, reply=0,
            operations=0, result=0,
        )  # fmt: skip
    env = dict.fromkeys(BUDGETS, 0.0)
    for name, share in shares_of(recipe.env).items():
        env = {key: env[key] + share * value for key, value in budgets(recipe.envs[name]).items()}
    turns = turns or (1 + env["max_turns"]) / 2
    unit = size.unit**2
    return Workload(
        groups=recipe.groups_per_iteration, group_size=recipe.group_size, text=PROMPT, image=env["max_pixels"] / unit,
        turns=turns, turn=turn or TURN_SHARE * recipe.max_tokens, reply=REPLY,
        operations=min(turns - 1, env["max_operations"]), result=env["min_pixels"] / unit,
    )  # fmt: skip


def budget_arguments(recipe: EnvRecipe) -> dict[str, int]:
    """The arguments of an environment that `BUDGETS` names, or their defaults."""
    defaults = inspect.signature(VisualReasoningEnv).parameters
    return {name: recipe.kwargs.get(name, defaults[name].default) for name in BUDGETS}


def budgets(recipe: EnvRecipe) -> dict[str, int]:
    """What an environment shows and allows at most, by the names of `BUDGETS`."""
    known = budget_arguments(recipe)
    # What a procedural task wants its images to be stands nowhere else; other environments may need data.
    with suppress(Exception):
        opened: Any = gymnasium.make(recipe.id, **recipe.kwargs)
        known |= {name: opened.unwrapped.rules.image_budget[name] for name in ("min_pixels", "max_pixels")}
        opened.close()
    return known


def make_plan(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    gpu: str | None = None,
    gpus: int | None = None,
    turns: float = 0,
    turn_ids: float = 0,
) -> Plan:
    """A plan.

    Args:
        source, overrides: a recipe, as for `load_recipe`.
        gpu: "h200", "h100", "a100" or "cpu", which is measured; by default "h100", or "cpu" for a recipe without GPUs.
        gpus: how many, shared between learners and engines as in the recipe; by default as many as it asks for.
        turns, turn_ids: mean turns of an episode, and ids in one; 0 for what `expected` says.

    Raises:
        RecipeError, FileNotFoundError, ValueError: recipe or checkpoint cannot be read, or there is no such device.
    """
    recipe = load_any(source, overrides)
    if not isinstance(recipe, PPORecipe | SFTRecipe):
        raise ValueError(f"{source} makes demonstrations; expected a recipe that trains: ppo or sft")
    asked = round(sum(n * each for n, _, each in processes(recipe).values()))
    kind = gpu or ("h100" if asked else "cpu")
    if kind != "cpu" and kind not in GPUS:
        raise ValueError(f"got --gpu {kind}; expected one of {', '.join(GPUS)}, cpu")
    if gpus and gpus != asked:
        recipe = load_recipe(source, type(recipe), [*overrides, *_on(recipe, gpus, asked)])
    size = model_size(recipe.model)
    work = expected(recipe, size, turns, turn_ids)
    if kind != "cpu":
        return predict(recipe, size, work, GPUS[kind], gpus or asked)
    turn = 0.0
    if isinstance(recipe, PPORecipe):
        seen = rehearse(recipe, round(work.turn))
        work, turn = replace(work, text=seen.text, image=seen.image, reply=seen.reply), seen.seconds
    return predict(recipe, size, work, this_cpu(this_machine().memory, turn), 0)


def _on(recipe: PPORecipe | SFTRecipe, gpus: int, asked: int) -> Iterator[str]:
    """The changes that give a recipe for `asked` GPUs another number of them."""
    if not asked:
        raise ValueError(f"got --gpus {gpus} for a recipe without any; expected one with num_gpus_per_learner")
    learners = max(round(recipe.num_learners * gpus / asked), 1)
    yield f"num_learners={learners}"
    if isinstance(recipe, PPORecipe) and recipe.engine.kind == "vllm":
        left = gpus - learners * recipe.num_gpus_per_learner
        engines = int(left / recipe.engine.num_gpus_per_engine) if recipe.engine.num_gpus_per_engine else 1
        if engines < 1:
            raise ValueError(f"got --gpus {gpus}, of which learners take {learners}; expected some for engines, too")
        yield f"engine.num_engines={engines}"


def predict(recipe: PPORecipe | SFTRecipe, size: ModelSize, work: Workload, device: Device, gpus: int) -> Plan:
    """The plan for a workload on a device."""
    ppo = recipe if isinstance(recipe, PPORecipe) else None
    return Plan(
        recipe=recipe, size=size, work=work, device=device, gpus=gpus,
        sample=sampling_seconds(ppo, size, work, device) if ppo else {},
        learn=learning_seconds(recipe, size, work, device),
        sync=sync_seconds(ppo, size, device) if ppo else 0.0,
        checkpoint=checkpoint_seconds(recipe, size) / recipe.checkpoint_every,
    )  # fmt: skip


def changes(plan: Plan, source: str | Path, overrides: Sequence[str]) -> list[tuple[str, Plan]]:
    """Changes of the recipe that fit the same GPUs, the one that saves most first: its words, and its plan."""
    recipe, n = plan.recipe, plan.gpus
    micro = recipe.learner.micro_batch_tokens or 0
    tried = ["learner.gradient_checkpointing=false", "learner.freeze_vision=true"]
    tried += [f"learner.micro_batch_tokens={k}" for k in (2 * micro, micro // 2) if k]
    if isinstance(recipe, PPORecipe):
        tried += ["max_staleness=1", f"max_tokens={recipe.max_tokens // 2}"]
        tried += [f"num_env_runners={2 * max(recipe.num_env_runners, 1)}"]
        pixels = recipe.env.kwargs.get("max_pixels") if isinstance(recipe.env, EnvRecipe) else None
        tried += [f"env.kwargs.max_pixels={pixels // 2}"] if pixels else []
        whole = recipe.num_gpus_per_learner == recipe.engine.num_gpus_per_engine == 1
        tried += ["engine.vllm.weight_transfer=nccl"] * whole
        tried += [f"num_learners={n - k} engine.num_engines={k}" for k in range(1, n) if whole]
        tried += [f"engine.colocate=true num_learners={n} engine.num_engines={n} max_staleness=0"] if whole else []
    found = []
    for change in tried:
        # A change may be refused, or name what a recipe does not have.
        with suppress(RecipeError):
            other = load_recipe(source, type(recipe), [*overrides, *change.split()])
            shorter = getattr(other, "max_tokens", 1) / getattr(recipe, "max_tokens", 1)
            work = replace(expected(other, plan.size, plan.work.turns), turn=plan.work.turn * shorter)
            if plan.device.name == "cpu":
                work = replace(work, text=plan.work.text, image=plan.work.image, reply=plan.work.reply)
            found.append((change, predict(other, plan.size, work, plan.device, n)))
    better = [(words, each) for words, each in found if each.fits and each.seconds < 0.99 * plan.seconds]
    better.sort(key=lambda pair: pair[1].seconds)
    splits = [pair for pair in better if pair[0].startswith("num_learners")]
    return [pair for pair in better if pair not in splits[1:]]


def notes(plan: Plan) -> list[str]:
    """What the comment of a recipe says of memory and time: the lines of a report before what could be changed."""
    recipe, size = plan.recipe, plan.size
    memory, n_tokens, n_actions = learner_memory(recipe, size.shapes), *largest_pass(recipe, plan.work)
    names = ("weights", "gradients", "optimizer", "reference")
    held = ", ".join(f"{name} {getattr(memory, name) / GIB:.1f}" for name in names if getattr(memory, name))
    over = f"{recipe.learner.kind} over {max(recipe.num_learners, 1)}"
    lines = [
        f"Memory ({size.parameters / 1e9:.2f} billion parameters):",
        f"  learner {memory.total / GIB:6.1f} GiB  {over}: {held}",
        f"          {plan.activations / GIB:6.1f} GiB  while it computes: at most {n_tokens:,} ids at once, of which "
        f"{n_actions:,} carry a loss",
    ]
    if isinstance(recipe, PPORecipe) and recipe.engine.kind == "vllm":
        share, weights = recipe.engine.vllm.gpu_memory_utilization, size.parameters * WIDTHS[engine_dtype(recipe)]
        lines.append(
            f"  engine  {share * plan.device.memory / GIB:6.1f} GiB  gpu_memory_utilization {share:g}: weights "
            f"{weights / GIB:.1f}, the rest is cache"
        )
    what = "iteration" if isinstance(recipe, PPORecipe) else "step"
    where = f"{plan.gpus} {plan.device.name}" if plan.gpus else "one thread of a CPU for each process"
    lines.append(f"Predicted, not measured: {_s(plan.seconds)} an {what} on {where}".replace("an step", "a step"))
    work = plan.work
    turns = (
        f"{work.episodes:,} episodes of {work.turns:g} turns of {work.turn:.0f} ids, {work.ids:,.0f} ids in all each"
    )
    lines.append(f"  {turns}" if what == "iteration" else f"  {work.episodes:,} conversations of {work.ids:,.0f} ids")
    parts = {"sample": (plan.sampling, plan.sample), "learn": (plan.learning, plan.learn)}
    for name, (seconds, phases) in parts.items():
        told = ", ".join(f"{phase} {_s(each)}" for phase, each in phases.items() if each >= 0.01 * plan.seconds)
        lines += [f"  {name:<7} {_s(seconds):>8}  {told}"] if phases else []
    rest = ", ".join(f"{name} {_s(s)}" for name, s in (("weights", plan.sync), ("checkpoint", plan.checkpoint)) if s)
    side = "rollouts beside learners" if plan.overlaps else "one after the other"
    lines.append(f"  longest: {plan.bottleneck}; {side}; {rest}")
    return lines


def _s(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def report(plan: Plan, better: Sequence[tuple[str, Plan]] = ()) -> str:
    """The plan as text, and what one change would bring."""
    lines = notes(plan) + ([] if plan.fits else ["It does not fit: see `pxr train doctor`."])
    if better:
        lines += ["", "One change at equal GPUs:"]
    lines += [f"  {each.seconds / plan.seconds - 1:+5.0%} {_s(each.seconds):>8}  {words}" for words, each in better]
    return "\n".join(lines)


def to_json(plan: Plan, better: Sequence[tuple[str, Plan]] = ()) -> str:
    """The same as a JSON object; sizes in bytes, times in seconds."""
    memory = asdict(learner_memory(plan.recipe, plan.size.shapes)) | {"activations": plan.activations}
    return json.dumps(
        {
            "device": asdict(plan.device), "gpus": plan.gpus, "parameters": plan.size.parameters, "fits": plan.fits,
            "workload": asdict(plan.work) | {"ids": plan.work.ids}, "memory": memory, "sample": dict(plan.sample),
            "learn": dict(plan.learn), "sync": plan.sync, "checkpoint": plan.checkpoint, "seconds": plan.seconds,
            "bottleneck": plan.bottleneck, "changes": [[words, each.seconds] for words, each in better],
        },
        indent=2,
    )  # fmt: skip
