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

from .config import PPORecipe, SFTRecipe
from .devices import DISK, NODE, Device

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
    vision = vision_parameters(shapes)
    return estimate(recipe, n_parameters + adapters, adapters or n_parameters - vision * recipe.learner.freeze_vision)


def vision_parameters(shapes: Shapes) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if "visual" in name.split("."))


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


# -- what an iteration has to do


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The rollouts of an iteration, in means."""

    groups: int
    group_size: int
    text: float  # ids of the system prompt and the question
    image: float  # vision tokens of the images that come with it
    turns: float
    turn: float  # ids that the model writes in a turn
    reply: float  # ids of text in an environment's answer to one
    operations: float  # executed ones
    result: float  # vision tokens of an operation's result
    teaching: float = 1.0  # share of the episodes that carry a loss

    @property
    def episodes(self) -> int:
        return self.groups * self.group_size

    @property
    def actions(self) -> float:
        """Ids of an episode that the model writes."""
        return self.turns * self.turn

    @property
    def replies(self) -> float:
        """Ids of an episode that the environment adds."""
        return (self.turns - 1) * self.reply + self.operations * self.result

    @property
    def ids(self) -> float:
        """Of an episode."""
        return self.text + self.image + self.actions + self.replies


#: Padding of a learner's passes: rows in one are at most a quarter longer than its shortest.
PADDING = 1.1
#: The longest turn, and the longest episode, in means.
LONGEST = 2.0


def text_flops(size: ModelSize, ids: float, context: float) -> float:
    """Forward, for ids that see `context` of them each: weights, and the products of queries with keys and of what
    comes out with values."""
    return ids * (2 * size.text + 4 * size.layers * size.queries * context)


def vision_flops(size: ModelSize, images: float, tokens: float) -> float:
    """Forward, for images of `tokens` vision tokens each."""
    patches = tokens * size.merge
    seen = size.vision_layers * patches + size.window_layers * min(size.window, patches)
    return images * (patches * (2 * size.patch + 4 * size.vision_width * seen) + tokens * 2 * size.merger)


def head_flops(size: ModelSize, ids: float) -> float:
    return 2.0 * ids * size.width * size.vocabulary


def pass_seconds(size: ModelSize, device: Device, flops: float, ids: float, calls: float) -> float:
    """Of passes forward over so many ids in all."""
    return (
        flops / device.flops
        + ids * size.layers * size.width * device.elementwise
        + calls * (device.call + size.layers * device.call_layer)
    )


def sampling_seconds(recipe: PPORecipe, size: ModelSize, work: Workload, device: Device) -> dict[str, float]:
    """Phase of the rollouts -> seconds. Engines share the episodes; a group's prompt is computed once."""
    engine, on_vllm = recipe.engine, recipe.engine.kind == "vllm"
    runners = max(recipe.num_env_runners, 1)
    n, gpus = (engine.num_engines, engine.vllm.tensor_parallel_size) if on_vllm else (runners, 1)
    waves = engine_rows(recipe, size, work, device)[1]
    dtype = engine_dtype(recipe)
    steps = waves * work.turns * min(recipe.max_tokens, LONGEST * work.turn)
    if on_vllm:
        # Rows that are over make room for others; in the end the longest conversations run alone.
        steps = (waves + LONGEST - 1) * work.actions
    written = work.episodes / n * work.actions
    weights = WIDTHS[dtype] * (size.parameters - vision_parameters(size.shapes))
    context = work.text + work.image + (work.actions + work.replies) / 2
    products = (text_flops(size, written, 0) + head_flops(size, written)) / device.flops
    decode = (
        steps * (device.step + size.layers * device.step_layer)
        + written * device.row
        + max(products, steps * weights / device.bandwidth) / gpus
        + written * context * cache_bytes(size, dtype) / device.cache / gpus
        + written * size.layers * size.width * device.elementwise
    )
    read = (work.groups * (work.text + work.image) + work.episodes * work.replies) / n
    calls = 0.0 if on_vllm else waves * work.turns
    flops = text_flops(size, read, context / 2)
    images = work.groups * vision_flops(size, 1, work.image)
    images += work.episodes * work.operations * vision_flops(size, 1, work.result)
    return {
        "prefill": pass_seconds(size, device, flops / gpus, read, calls),
        "decode": decode,
        "vision": images / n / gpus / device.flops,
        "environment": work.episodes * work.turns * device.turn / runners,
    }


def engine_dtype(recipe: PPORecipe) -> str:
    """What an engine holds weights and cache in."""
    given = recipe.engine.vllm.dtype if recipe.engine.kind == "vllm" else "float32"
    return given if given in WIDTHS else recipe.learner.dtype


def engine_cache(recipe: PPORecipe, size: ModelSize, device: Device) -> float:
    """Bytes of a vLLM engine's cache on all its GPUs."""
    vllm = recipe.engine.vllm
    whole = vllm.gpu_memory_utilization * device.memory * vllm.tensor_parallel_size
    return vllm.kv_cache_memory_bytes or whole - size.parameters * WIDTHS[engine_dtype(recipe)]


def engine_rows(recipe: PPORecipe, size: ModelSize, work: Workload, device: Device) -> tuple[float, float]:
    """Conversations that an engine completes at once, and how often it takes so many in an iteration."""
    runners, at_once = max(recipe.num_env_runners, 1), recipe.max_envs_per_runner
    if recipe.engine.kind != "vllm":
        share = work.episodes / runners
        return min(share, at_once), math.ceil(share / at_once)
    n, dtype = recipe.engine.num_engines, engine_dtype(recipe)
    room = engine_cache(recipe, size, device) / (work.ids * cache_bytes(size, dtype))
    rows = max(min(work.episodes / n, runners * at_once / n, recipe.engine.vllm.max_num_seqs, room), 1.0)
    return rows, work.episodes / n / rows


def learning_seconds(
    recipe: PPORecipe | SFTRecipe, size: ModelSize, work: Workload, device: Device
) -> dict[str, float]:
    """Phase of an update -> seconds; learners share the episodes, and work side by side."""
    learner, n = recipe.learner, max(recipe.num_learners, 1)
    ppo = recipe if isinstance(recipe, PPORecipe) else None
    episodes = work.episodes * work.teaching / n
    ids = episodes * work.ids * PADDING
    minibatches = (ppo.num_minibatches if ppo else 1) * (ppo.num_epochs if ppo else 1)
    epochs = ppo.num_epochs if ppo else 1
    micro = max(learner.micro_batch_tokens // (work.ids * PADDING), 1) if learner.micro_batch_tokens else episodes
    calls = max(math.ceil(episodes * epochs / minibatches / micro), 1) * minibatches
    # In parts of few episodes the images that a group shares are computed for each of them.
    firsts = episodes if learner.micro_batch_tokens else work.groups * work.teaching / n
    images = firsts * vision_flops(size, 1, work.image)
    images += episodes * work.operations * vision_flops(size, 1, work.result)
    text, head = text_flops(size, ids, work.ids / 2), head_flops(size, episodes * work.actions)
    forward = pass_seconds(size, device, text + head + images, ids, calls / epochs)
    again, backward = float(learner.gradient_checkpointing), 1.0 if learner.lora_rank else 2.0
    frozen = bool(learner.lora_rank) or learner.freeze_vision
    # Logits are computed a second time on the way back (`pxr_agents.vlm.score_tokens`).
    times = 1 + again + backward
    train = epochs * pass_seconds(
        size, device, text * times + head * (2 + backward) + images * (1 if frozen else times), ids * times,
        calls / epochs * times,
    )  # fmt: skip
    scored = {
        "old log-probabilities": ppo is not None and ppo.old_logprobs == "learner",
        "critic": ppo is not None and ppo.advantage == "gae",
        "reference": ppo is not None and bool(ppo.kl_coef),
    }
    passes = sum(scored.values())
    stepped = learner_memory(recipe, size.shapes)
    moved = 2 * (stepped.optimizer + stepped.gradients + stepped.weights)
    return {
        **{name: forward for name, is_wanted in scored.items() if is_wanted},
        "forward and backward": train,
        "between learners": link_seconds(recipe, size, device, calls, passes * calls / epochs),
        "optimizer": minibatches * moved / (device.host if learner.offload_optimizer else device.bandwidth),
    }


def link_seconds(recipe: PPORecipe | SFTRecipe, size: ModelSize, device: Device, calls: float, scored: float) -> float:
    """What learners wait for each other's bytes: ZeRO-3 gathers the weights in each pass forward, again and backward,
    ZeRO-2 once a step; gradients are summed after each (arXiv 1910.02054, section 7). Nothing overlaps: see
    `training.learners`.

    Args:
        calls: passes forward and backward.
        scored: passes without gradients.
    """
    learner, n = recipe.learner, recipe.num_learners
    if n < 2:
        return 0.0
    adapters = adapter_parameters(recipe, size.shapes)
    trained, weights = adapters or size.parameters, WIDTHS[learner.dtype] * size.parameters
    gathers = (2 + learner.gradient_checkpointing) * calls + scored if learner.kind == "zero3" else 0
    moved = gathers * weights + calls * 4 * trained * (2 if learner.kind == "ddp" else 1)
    return moved * (n - 1) / n / (device.link if n <= NODE else device.network)


def sync_seconds(recipe: PPORecipe, size: ModelSize, device: Device) -> float:
    """New weights from the learners to all engines or env runners."""
    width = WIDTHS[recipe.learner.dtype] if recipe.learner.kind != "ddp" else 4
    weights, way = size.parameters * width, recipe.engine.vllm.weight_transfer
    if recipe.engine.kind == "vllm" and way != "none":
        gpus = recipe.num_learners + recipe.engine.num_engines * recipe.engine.vllm.tensor_parallel_size
        between = device.link if gpus <= NODE else device.network
        return weights / (between if way == "nccl" else device.bandwidth)
    if not recipe.num_env_runners and not recipe.num_learners:
        return 0.0
    # Off the learner, into shared memory, out of it, and onto the engines, all of them at once.
    return 4 * weights / device.host


def checkpoint_seconds(recipe: PPORecipe | SFTRecipe, size: ModelSize) -> float:
    """Of one checkpoint: weights, and what the learners hold for the optimizer."""
    memory, n = learner_memory(recipe, size.shapes), max(recipe.num_learners, 1)
    parts = n if recipe.learner.kind != "ddp" else 1
    return (memory.optimizer * parts + size.parameters * WIDTHS[recipe.learner.dtype]) / DISK
