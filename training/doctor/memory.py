"""Whether a recipe's learners and env runners fit into the memory there is. Reads headers of files, no weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from training.config import PPORecipe
from training.doctor.findings import Finding
from training.doctor.machine import GIB, Machine
from training.memory import Memory, adapter_parameters, estimate

TOPIC = "memory"
#: Share of a device that weights, gradients and optimizer may take: activations, CUDA and fragments need the rest.
ROOM = 0.8

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a parameter -> its shape."""


def parameter_shapes(model: Path) -> dict[str, tuple[int, ...]]:
    """The parameters in the safetensors files of a directory (https://huggingface.co/docs/safetensors, "Format"); empty
    if there are no such files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return shapes


def learner_memory(recipe: PPORecipe, shapes: Shapes) -> Memory:
    """`training.memory.estimate` for a checkpoint with these parameters."""
    n_parameters = sum(math.prod(shape) for shape in shapes.values())
    learner = recipe.learner
    if not learner.lora_rank:
        return estimate(recipe, n_parameters)
    # Adapters are for the linear layers of the language model only: "...layers.0.self_attn.q_proj.weight".
    ends = tuple(f".{target}.weight" for target in learner.lora_targets)
    layers = [
        (shape[0], shape[1])
        for name, shape in shapes.items()
        if name.endswith(ends) and "visual" not in name.split(".") and len(shape) == 2
    ]
    adapters = adapter_parameters(learner.lora_rank, layers)
    return estimate(recipe, n_parameters + adapters, adapters)


def check_memory(recipe: PPORecipe, machine: Machine) -> Iterator[Finding]:
    """Yields what the processes of a recipe will hold on this machine; nothing for a model that is not on its disk."""
    shapes = parameter_shapes(Path(recipe.model))
    if not shapes:
        yield Finding(
            topic=TOPIC, level="note", text=f"{recipe.model} is no directory with *.safetensors: memory not estimated"
        )
        return
    n_parameters = sum(math.prod(shape) for shape in shapes.values())
    memory = learner_memory(recipe, shapes)
    yield Finding(
        topic=TOPIC,
        level="ok",
        text=f"{n_parameters / 1e9:.2f} billion parameters; a learner holds {memory.total / GIB:.1f} GiB: weights "
        f"{memory.weights / GIB:.1f}, gradients {memory.gradients / GIB:.1f}, optimizer {memory.optimizer / GIB:.1f}, "
        f"reference {memory.reference / GIB:.1f}; {memory.host / GIB:.1f} of it in main memory",
    )
    if recipe.num_gpus_per_learner and machine.gpus:
        yield from _check_device(recipe, memory, machine)
    yield from _check_host(recipe, memory, 4 * n_parameters, machine)


def _check_device(recipe: PPORecipe, memory: Memory, machine: Machine) -> Iterator[Finding]:
    gpu = min(machine.gpus, key=lambda gpu: gpu.memory)
    shared = min(recipe.num_gpus_per_learner, 1.0)
    room = gpu.memory * shared
    if memory.device > ROOM * room:
        yield Finding(
            topic=TOPIC,
            level="error" if memory.device > room else "warning",
            text=f"a learner keeps {memory.device / GIB:.1f} GiB on a {gpu.name} and has {room / GIB:.1f} GiB of it; "
            f"expected at most {ROOM:.0%}, so that activations fit beside it.",
            remedy='More learners with learner.kind="zero3"; learner.offload_optimizer=true; learner.dtype="bfloat16"; '
            "or adapters: learner.lora_rank=32 (docs/learners.md).",
        )


def _check_host(recipe: PPORecipe, memory: Memory, copy: float, machine: Machine) -> Iterator[Finding]:
    """Main memory: learners on the CPU or what they offload, and float32 copies of the model in env runners."""
    here = max(recipe.num_learners, 1)
    if recipe.num_gpus_per_learner:
        here = min(here, max(len(machine.gpus), 1))
        learners = here * memory.host
    else:
        learners = here * memory.total
    runners = max(recipe.num_env_runners, 1) * copy if recipe.engine.kind == "transformers" else 0.0
    if learners + runners > ROOM * machine.memory:
        yield Finding(
            topic=TOPIC,
            level="error" if learners + runners > machine.memory else "warning",
            text=f"learners take {learners / GIB:.1f} GiB of main memory and env runners {runners / GIB:.1f} GiB; "
            f"there are {machine.memory / GIB:.1f} GiB.",
            remedy='Fewer processes, engine.kind="vllm" (env runners then hold no model), or adapters: '
            "learner.lora_rank=32.",
        )
