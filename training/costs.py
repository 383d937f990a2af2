"""Every formula of memory and time: what a learner holds, what a pass of a model computes and moves.

`training.doctor` compares memory with a machine, `training.plan` makes seconds of an iteration out of them. Sizes
are bytes and times seconds; an operation is one addition or multiplication, as in a device's FLOP/s.

Sources: memory of ZeRO: arXiv 1910.02054, section 3.1; of activations: arXiv 2205.05198, equation 1; of adapters:
arXiv 2106.09685. Operations of a pass: 2 for each weight and id forward, twice that backward, and the attention matrix
(arXiv 2001.08361, section 2.1). That the slower of computing and moving decides: the roofline model (Williams et al.,
CACM 52(4), 2009); for a language model that writes: arXiv 2211.05102.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from training.config import PPORecipe, SFTRecipe

#: Name -> shape of each parameter of a model, as transformers has them.
Shapes = Mapping[str, tuple[int, ...]]

#: Name of a type -> bytes.
WIDTHS = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """What a checkpoint's configuration says of the model's size; weights are not looked at."""

    shapes: Shapes
    vocabulary: int
    width: int  # of the hidden states
    layers: int  # of the language model
    queries: int  # numbers in the queries of an id in a layer
    keys: int  # numbers in its keys, and as many in its values
    text: int  # weights of the layers that an id is multiplied with: of a mixture of experts those of its experts
    patch: int  # weights of the vision tower that a patch is multiplied with
    merger: int  # and those that a vision token is
    merge: int  # patches in a vision token
    unit: int  # side of a vision token in pixels
    vision_width: int
    vision_layers: int  # that see the whole image
    window_layers: int  # that see a window
    window: int  # patches in a window

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.shapes.values()))

    @property
    def largest_layer(self) -> int:
        """Parameters of the largest matrix, which is the embedding of a small model."""
        return max(map(math.prod, self.shapes.values()))


def model_size(model: str) -> ModelSize:
    """The size of a checkpoint, a directory or a hub name, counted from its config.json alone.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is of another architecture (see `pxr_agents.checkpoint.ARCHITECTURES`).
    """
    import torch
    from transformers import AutoModelForImageTextToText

    from pxr_agents.checkpoint import find_checkpoint, read_config

    config = read_config(find_checkpoint(model), model)
    text, vision = config.text_config, config.vision_config
    # The model without its numbers: half a second, whatever the size.
    with torch.device("meta"):
        whole = AutoModelForImageTextToText.from_config(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in whole.named_parameters()}
    share = getattr(text, "num_experts_per_tok", 1) / (getattr(text, "num_experts", 0) or 1)

    def weights(prefix: str) -> int:
        """Of the matrices below a name."""
        chosen = {name: shape for name, shape in shapes.items() if name.startswith(prefix) and len(shape) > 1}
        return round(sum(math.prod(s) * (share if ".experts." in name else 1) for name, s in chosen.items()))

    visual, merge = "model.visual.", vision.spatial_merge_size
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    full = getattr(vision, "fullatt_block_indexes", range(vision.depth))
    return ModelSize(
        shapes=shapes,
        vocabulary=text.vocab_size,
        width=text.hidden_size,
        layers=text.num_hidden_layers,
        queries=head * text.num_attention_heads,
        keys=head * text.num_key_value_heads,
        text=weights("model.language_model.layers."),
        patch=weights(f"{visual}blocks.") + weights(f"{visual}patch_embed."),
        merger=weights(f"{visual}merger.") + weights(f"{visual}deepstack_merger_list."),
        merge=merge**2,
        unit=merge * vision.patch_size,
        vision_width=vision.hidden_size,
        vision_layers=len(full),
        window_layers=vision.depth - len(full),
        window=(getattr(vision, "window_size", 0) // vision.patch_size) ** 2,
    )


# -- memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of one learner, for the whole run."""

    weights: float
    gradients: float
    optimizer: float
    """AdamW's two averages, and the float32 weights it steps where there are separate ones."""
    reference: float
    """A second copy of the checkpoint, for a KL penalty."""
    host: float
    """Of all these, what is offloaded to the memory of the CPU."""

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.reference


def learner_memory(recipe: PPORecipe | SFTRecipe, shapes: Shapes) -> Memory:
    """`estimate` for a model with these parameters."""
    n_parameters, adapters = sum(map(math.prod, shapes.values())), adapter_parameters(recipe, shapes)
    vision = sum(math.prod(shape) for name, shape in shapes.items() if "visual" in name.split("."))
    return estimate(recipe, n_parameters + adapters, adapters or n_parameters - vision * recipe.learner.freeze_vision)


def adapter_parameters(recipe: PPORecipe | SFTRecipe, shapes: Shapes) -> int:
    """Parameters of a recipe's adapters: `rank * (out + in)` for each layer's (out, in); 0 if it has none."""
    # They are for the linear layers of the language model only: "...layers.0.self_attn.q_proj.weight".
    ends = tuple(f".{target}.weight" for target in recipe.learner.lora_targets)
    layers = [
        shape
        for name, shape in shapes.items()
        if name.endswith(ends) and "visual" not in name.split(".") and len(shape) == 2
    ]
    return recipe.learner.lora_rank * sum(map(sum, layers))


def estimate(recipe: PPORecipe | SFTRecipe, n_parameters: int, n_trainable: int | None = None) -> Memory:
    """What one learner holds for the whole run, by the formulas of docs/learners.md.

    Args:
        recipe: `learner`, `num_learners` and `kl_coef` count.
        n_parameters: of the model, adapters included.
        n_trainable: of these, how many are trained; all of them by default.

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
    weights = weight_bytes * n_parameters * (share if learner.kind == "zero3" else 1.0)
    gradients = (8 if not sharded and n_learners > 1 else 4) * trained * share
    optimizer = (12 if sharded else 8) * trained * share
    # The optimizer steps where its states are: gradients go there.
    host = (gradients + optimizer) * learner.offload_optimizer + weights * learner.offload_parameters
    # Adapters that are switched off are a reference for nothing.
    has_reference = isinstance(recipe, PPORecipe) and recipe.kl_coef and not learner.lora_rank
    reference = 4.0 * n_parameters if has_reference else 0.0
    return Memory(weights=weights, gradients=gradients, optimizer=optimizer, reference=reference, host=host)


def transient(
    recipe: PPORecipe | SFTRecipe, *, n_tokens: int, n_actions: int, width: int, n_layers: int, n_vocabulary: int,
    largest_layer: int = 0,
) -> float:  # fmt: skip
    """The bytes that come and go in one forward and backward pass of a learner, by the formulas of docs/learners.md.

    Args:
        recipe: `learner` counts.
        n_tokens: ids in one pass, padding included (`learner.micro_batch_tokens`).
        n_actions: of these, those the model sampled.
        width: of the hidden states.
        n_layers: of the language model.
        n_vocabulary: rows of the language model's head.
        largest_layer: parameters of the largest layer (or of the embedding, where it is larger).
    """
    from pxr_agents.vlm import CHUNK

    size = WIDTHS[recipe.learner.dtype]
    inside = 34 * width * n_tokens * size / 2
    kept = n_tokens * width * n_layers * size + inside if recipe.learner.gradient_checkpointing else inside * n_layers
    gathered = 2 * largest_layer * size if recipe.learner.kind == "zero3" else 0
    return float(20 * min(n_actions * n_vocabulary, CHUNK) + kept + gathered)


def cache_bytes(size: ModelSize, dtype: str) -> int:
    """Keys and values of one id in all layers."""
    return 2 * size.layers * size.keys * WIDTHS[dtype]
