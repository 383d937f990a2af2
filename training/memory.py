"""How much memory a learner needs, before anything is started: arithmetic and headers of files, no model is loaded.

What stays for the whole run, in bytes, with P parameters, of which T are trained, on N learners. It is the accounting
of "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (arXiv 1910.02054, section 3.1 and figure 1)
with gradients accumulated in float32 (4 bytes instead of 2):

              weights                        gradients   optimizer
    ddp       4 P                            4 T         8 T        AdamW's two averages
    zero2     2 P in bfloat16, else 4 P      4 T / N     12 T / N   and the float32 weights that are stepped
    zero3     (2 P or 4 P) / N               4 T / N     12 T / N

Several DDP learners hold gradients twice: once more in the buckets that travel (torch's documentation of
`gradient_as_bucket_view`). With ZeRO-2, T = P and bfloat16 this is 2 P + 16 P / N, the paper's 2 P + 14 P / N and two
bytes more for each gradient.

What comes and goes depends on the batch: see `transient`. Neither counts the CUDA context (0.5 to 1 GiB) and
fragmentation; plan for 80% of a device.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.config import PPORecipe

GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of one learner."""

    weights: float
    gradients: float
    optimizer: float
    """AdamW's two averages, and the float32 weights it steps where there are separate ones."""
    reference: float
    """A second copy of the checkpoint, for a KL penalty."""
    offloaded: tuple[str, ...] = ()
    """Which of these are in the memory of the CPU instead of the device's."""

    @property
    def device(self) -> float:
        """Bytes on the learner's device (on a CPU, there is but one memory: see `total`)."""
        return self.total - self.host

    @property
    def host(self) -> float:
        """Bytes in the memory of the CPU, by offloading."""
        return float(sum(getattr(self, name) for name in self.offloaded))

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.reference


def parameter_shapes(model: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parameters in the safetensors files of a directory (huggingface.co/docs/safetensors,
    "Format"); empty if there are no such files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return shapes


def learner_memory(recipe: PPORecipe, shapes: Mapping[str, tuple[int, ...]]) -> Memory:
    """`estimate` for a checkpoint with these parameters."""
    n_parameters, learner = sum(map(math.prod, shapes.values())), recipe.learner
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


def estimate(recipe: PPORecipe, n_parameters: int, n_trainable: int | None = None) -> Memory:
    """What one learner of a recipe holds for the whole run.

    Args:
        recipe: `learner`, `num_learners` and `kl_coef` count.
        n_parameters: of the model, adapters included.
        n_trainable: of these, how many are trained; all of them by default, see `adapter_parameters` for the others.

    Raises:
        ValueError: more are trained than there are.
    """
    trained = n_parameters if n_trainable is None else n_trainable
    if not 0 < trained <= n_parameters:
        raise ValueError(f"n_trainable is {n_trainable} with n_parameters {n_parameters}; expected 1 to n_parameters")
    learner, n_learners = recipe.learner, max(recipe.num_learners, 1)
    sharded = learner.kind != "ddp"
    share = 1 / n_learners if sharded else 1.0
    # DDP keeps float32 weights whatever it computes in, and steps those.
    weight_bytes = 2 if sharded and learner.dtype == "bfloat16" else 4
    offloaded = []
    if learner.offload_optimizer:
        # The optimizer steps where its states are: gradients go there.
        offloaded += ["gradients", "optimizer"]
    if learner.offload_parameters:
        offloaded.append("weights")
    # The second copy is what travels between DDP's learners.
    gradient_bytes = 8 if not sharded and n_learners > 1 else 4
    return Memory(
        weights=weight_bytes * n_parameters * (share if learner.kind == "zero3" else 1.0),
        gradients=gradient_bytes * trained * share,
        optimizer=(12 if sharded else 8) * trained * share,
        # Adapters that are switched off are a reference for nothing.
        reference=4.0 * n_parameters if recipe.kl_coef and not learner.lora_rank else 0.0,
        offloaded=tuple(offloaded),
    )


def adapter_parameters(rank: int, shapes: Sequence[tuple[int, int]]) -> int:
    """Parameters of low-rank adapters: `rank * (out + in)` for each layer's (out, in), arXiv 2106.09685."""
    return sum(rank * (out + into) for out, into in shapes)


def transient(
    recipe: PPORecipe,
    *,
    n_tokens: int,
    n_actions: int,
    width: int,
    n_layers: int,
    n_vocabulary: int,
    largest_layer: int = 0,
) -> float:
    """An estimate of the bytes that come and go in one forward and backward pass of a learner.

    - Logits: the softmax is float32 over the whole vocabulary at each action id. Log-probabilities, their exponentials
      (for the entropy) and the gradient are there at the same time, and the logits in the type that computes:
      n_actions * n_vocabulary * (3 * 4 + bytes).
    - Activations: with gradient checkpointing the inputs of the layers, n_tokens * width * n_layers * bytes, and one
      layer's inside; without, the inside of all layers, 34 * width per token in 2-byte types (Korthikanti et al.,
      arXiv 2205.05198, equation 1, without the attention matrix, which is never stored here).
    - Under ZeRO-3, the layer at work and the next one, whole.

    Args:
        recipe: `learner` counts.
        n_tokens: ids in one pass, padding included (`learner.micro_batch_tokens`).
        n_actions: of these, those the model sampled.
        width: of the hidden states.
        n_layers: of the language model.
        n_vocabulary: rows of the language model's head.
        largest_layer: parameters of the largest layer (or of the embedding, where it is larger).
    """
    size = 2 if recipe.learner.dtype == "bfloat16" else 4
    inside = 34 * width * n_tokens * size / 2
    kept = n_tokens * width * n_layers * size + inside if recipe.learner.gradient_checkpointing else inside * n_layers
    gathered = 2 * largest_layer * size if recipe.learner.kind == "zero3" else 0
    return float(n_actions * n_vocabulary * (12 + size) + kept + gathered)
