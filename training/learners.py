"""What learners of both kinds of training share (docs/learners.md): adapters (LoRA, arXiv 2106.09685) inside a
transformers model by peft, DeepSpeed (ZeRO-2 and ZeRO-3, on GPUs and CPUs), and learning rates over a run.

A linear layer `W x` with an adapter is `W x + (alpha / rank) B A x`. `W` is frozen, `A` (rank x in) starts at random
and `B` (out x rank) at zero. The model without its adapters is the reference of a KL penalty (`adapters_off`); engines
and plain checkpoints get `W + (alpha / rank) B A` (`plain_weights`).
"""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
from argparse import Namespace
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from safetensors.torch import save_file
from torch import Tensor

from pxr_agents.vlm import VLM
from pxr_env.errors import did_you_mean
from .config import LearnerRecipe, PPORecipe, SFTRecipe

T = TypeVar("T")

_BASE, _A, _B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"

#: What DeepSpeed calls a checkpoint, in the directory it is given.
TAG = "deepspeed"
# Gradients that travel together.
_BUCKET = 200_000_000
# Bytes of weights that are gathered and handed on together.
_BATCH = 2**28


def read_ahead(items: Iterator[T], ahead: int) -> Generator[T, None, None]:
    """The items, of which `ahead` are made in a thread before they are asked for; 0 for no thread.

    What is raised in the making is raised where the item would have come. `close` ends the thread once the item in
    the making is made.
    """
    if not ahead:
        yield from items
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="read_ahead")
    end: Any = object()
    try:
        waiting = deque(pool.submit(next, items, end) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def lr_factor(step: int, steps: int, *, warmup: int, decay_fraction: float) -> float:
    """Linear warm-up over `warmup` steps (the first, step 0, has 1 / warmup of the rate), and linear decay towards 0
    over the last share of the steps (the last one has 1 / (decay_fraction * steps) of it)."""
    up = min(1.0, (step + 1) / max(warmup, 1))
    decay = decay_fraction * steps
    return up * (min(1.0, (steps - step) / decay) if decay >= 1 else 1.0)


def prepare(model: Any, learner: LearnerRecipe, *, seed: int = 0) -> None:
    """Freeze, adapt and checkpoint layers of a transformers model as a recipe says, in place; `seed` draws adapters.

    transformers computes layers a second time in training mode only.
    """
    if learner.freeze_vision:
        model.model.visual.requires_grad_(False)
    if learner.lora_rank:
        add_adapters(model, learner, seed=seed)
    if learner.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def add_adapters(model: Any, learner: LearnerRecipe, *, seed: int = 0) -> None:
    """Give linear layers of the language model an adapter each, and freeze everything else, in place.

    Args:
        model: a transformers model.
        learner: its `lora_...` keys; layers of the vision tower stay as they are, whatever they are called.
        seed: of the random matrices.

    Raises:
        ImportError: peft is not installed.
        ValueError: no layer has such a name.
    """
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".visual." not in f".{name}"
    }
    for target in learner.lora_targets:
        if target not in names:
            raise ValueError(
                f"lora_targets names {target!r}, and the language model has no such linear layer; "
                f"expected some of {', '.join(sorted(names))}.{did_you_mean(target, names)}"
            )
    # All learners, and a run that is resumed, draw the same matrices.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _import("peft", "lora").inject_adapter_in_model(_lora_config(learner), model)


def has_adapters(model: Any) -> bool:
    return any(name.endswith(_A) for name, _ in model.named_parameters())


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Inside, the model is what it was before training. Compute it without gradients."""
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def gathered(tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Inside, those of the tensors that are split over the learners (ZeRO-3) are whole. All learners have to enter."""
    # Tied ones once.
    split = list({tensor.ds_id: tensor for tensor in tensors if hasattr(tensor, "ds_id")}.values())
    whole: AbstractContextManager[None] = nullcontext()
    return _import("deepspeed", "deepspeed").zero.GatheredParameters(split) if split else whole


def weight_batches(model: Any) -> Iterator[dict[str, Tensor]]:
    """The state dict of a model in parts of about `_BATCH` bytes, under the names it has without adapters.

    Adapters are added to the weights they belong to, in float32 and rounded once. A part may be used until the next one
    is asked for; all learners have to iterate together.
    """
    state: Mapping[str, Tensor] = model.state_dict(keep_vars=True)
    names = [name for name in state if not name.endswith((_A, _B))]
    sizes = [getattr(state[name], "ds_numel", state[name].numel()) * state[name].element_size() for name in names]
    ends = [end // _BATCH for end in itertools.accumulate(sizes)]
    for _, part in itertools.groupby(zip(names, ends, strict=True), key=lambda pair: pair[1]):
        pairs = {name: _adapters_of(name, state) for name, _ in part}
        whole = [tensor for name, pair in pairs.items() for tensor in (state[name], *pair)]
        with gathered(whole), torch.no_grad():
            yield {name.replace(_BASE, "."): _merged(model, name, state[name], pair) for name, pair in pairs.items()}


def _adapters_of(name: str, state: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """`A` and `B` of the adapter that belongs to a weight; nothing where there is none."""
    prefix = name.partition(_BASE)[0]
    return (state[prefix + _A], state[prefix + _B]) if prefix + _A in state and name.endswith("weight") else ()


def _merged(model: Any, name: str, weight: Tensor, adapter: tuple[Tensor, ...]) -> Tensor:
    if not adapter:
        return weight.detach()
    down, up = adapter
    delta = model.get_submodule(name.partition(_BASE)[0]).scaling["default"] * (up.float() @ down.float())
    return (weight.float() + delta).to(weight.dtype)


def plain_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """`weight_batches`, one tensor after the other."""
    for batch in weight_batches(model):
        yield from batch.items()


def adapter_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The adapters, as `plain_weights` the weights, under the names in peft's files."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name.endswith((_A, _B)):
            with gathered([tensor]):
                yield f"base_model.model.{name.replace('.default.', '.')}", tensor.detach()


def export_model(
    recipe: PPORecipe | SFTRecipe, weights: Mapping[str, Tensor], adapters: Mapping[str, Tensor], path: Path
) -> None:
    """Write a trained model as a plain checkpoint directory, which everything loads; its adapters, if it has some, once
    more in `path/adapter`, as peft writes them.

    Args:
        recipe: of the run.
        weights, adapters: what `plain_weights` and `adapter_weights` yield.
        path: the directory.
    """
    vlm = VLM.from_pretrained(recipe.model, dtype=getattr(torch, recipe.learner.dtype))
    vlm.model.load_state_dict(weights)
    vlm.save(path)
    if adapters:
        base = Path(recipe.model)
        config = _lora_config(recipe.learner, str(base.absolute()) if base.exists() else recipe.model)
        config.save_pretrained(path / "adapter")
        whole = {name: tensor.contiguous() for name, tensor in adapters.items()}
        save_file(whole, path / "adapter" / "adapter_model.safetensors")


def _lora_config(learner: LearnerRecipe, base: str | None = None) -> Any:
    return _import("peft", "lora").LoraConfig(
        r=learner.lora_rank,
        lora_alpha=learner.lora_alpha,
        target_modules=list(learner.lora_targets),
        exclude_modules=r"(.*\.)?visual\..*",
        base_model_name_or_path=base,
        inference_mode=base is not None,
    )


def start_engine(module: torch.nn.Module, optimizer: torch.optim.Optimizer, recipe: PPORecipe | SFTRecipe) -> Any:
    """DeepSpeed's engine around a module in float32 on the CPU, of which every learner keeps its part.

    With `learner.dtype` "bfloat16" the module computes in bfloat16; the optimizer keeps float32 copies of the weights.
    Needs the processes to be joined (`torch.distributed`).

    Raises:
        ImportError: DeepSpeed is not installed.
    """
    learner, on_gpu = recipe.learner, recipe.num_gpus_per_learner > 0
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    deepspeed = _import("deepspeed", "deepspeed")
    if not on_gpu:
        # Sums in shared memory, which would be compiled first, for minutes; gloo does them as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), dist_init_required=False)
    if learner.offload_optimizer:
        # One pass over memory instead of a dozen; compiled into torch.
        for group in optimizer.param_groups:
            group["fused"] = True
    config = _deepspeed_config(recipe, sum(parameter.numel() for parameter in module.parameters()))
    if learner.kind == "zero3":
        # One parameter after the other: the whole model may not fit on a GPU. DeepSpeed leaves their type as it is.
        if learner.dtype == "bfloat16":
            for parameter in module.parameters():
                parameter.data = parameter.data.bfloat16()
        deepspeed.zero.Init(module=module, config_dict_or_path=config)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)
    return engine


def universal_checkpoint(shards: Path, whole: Path) -> None:
    """Put the parts together that learners wrote with DeepSpeed: weights, averages and steps of every parameter, which
    any number of learners can read (arXiv 2406.18820)."""
    shutil.rmtree(whole, ignore_errors=True)
    folders = {"input_folder": str(shards / TAG), "output_folder": str(whole / TAG)}
    workers = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False}
    arguments = Namespace(**folders, **workers, strict=True, inject_missing_state=True)
    _import("deepspeed.checkpoint.ds_to_universal", "deepspeed").main(arguments)


def _deepspeed_config(recipe: PPORecipe | SFTRecipe, n_parameters: int) -> dict[str, Any]:
    """A recipe in DeepSpeed's words (https://www.deepspeed.ai/docs/config-json/)."""
    learner, on_gpu = recipe.learner, recipe.num_gpus_per_learner > 0
    # DeepSpeed allocates whole buckets, however small the model is; even, for the alignment of what travels.
    bucket = min(_BUCKET, n_parameters + n_parameters % 2)
    zero: dict[str, Any] = {
        "stage": 3 if learner.kind == "zero3" else 2,
        # Only ZeRO-2 can overlap where passes are accumulated by hand; on a CPU there is nothing to overlap with.
        "overlap_comm": on_gpu and learner.kind == "zero2",
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if learner.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if learner.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    return {
        # Batches are ours: DeepSpeed only has to know that each of its passes stands for itself.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # An optimizer step comes where `step` is called, after as many passes as there were.
        "managed_gradient_accumulation": False,
        "gradient_clipping": recipe.max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": learner.dtype == "bfloat16"},
        # Many small bfloat16 gradients added up in bfloat16 would lose most of their digits.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        # torch's AdamW, as everywhere else here: DeepSpeed's own for CPUs has to be compiled first.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def _import(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"the recipe's `learner` needs {name}, which is not installed: pip install pxr-gym[{extra}]"
        ) from error
