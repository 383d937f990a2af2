"""DeepSpeed for the learners of both kinds of training: ZeRO-2 and ZeRO-3, on GPUs and on CPUs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch.distributed
from torch import Tensor

from training.config import PPORecipe, SFTRecipe

#: What DeepSpeed calls a checkpoint, in the directory it is given.
TAG = "deepspeed"
# Gradients that travel together.
BUCKET = 200_000_000


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
    deepspeed = _deepspeed()
    if not on_gpu:
        # Sums in shared memory, which would be compiled first, for minutes; gloo does them as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), dist_init_required=False)
    if learner.offload_optimizer:
        # One pass over memory instead of a dozen; compiled into torch.
        for group in optimizer.param_groups:
            group["fused"] = True
    config = deepspeed_config(recipe, sum(parameter.numel() for parameter in module.parameters()))
    if learner.kind == "zero3":
        # One parameter after the other: the whole model may not fit on a GPU. DeepSpeed leaves their type as it is.
        if learner.dtype == "bfloat16":
            for parameter in module.parameters():
                parameter.data = parameter.data.bfloat16()
        deepspeed.zero.Init(module=module, config_dict_or_path=config)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)
    return engine


def gathered(tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Inside, those of the tensors that are split over the learners (ZeRO-3) are whole. All learners have to enter."""
    split = [tensor for tensor in tensors if hasattr(tensor, "ds_id")]
    whole: AbstractContextManager[None] = _deepspeed().zero.GatheredParameters(split) if split else nullcontext()
    return whole


def _deepspeed() -> Any:
    try:
        import deepspeed
    except ImportError as error:
        raise ImportError(
            "learner.kind is 'zero2' or 'zero3' and DeepSpeed is not installed: pip install pxr-gym[deepspeed]"
        ) from error
    return deepspeed


def deepspeed_config(recipe: PPORecipe | SFTRecipe, n_parameters: int) -> dict[str, Any]:
    """A recipe in DeepSpeed's words (https://www.deepspeed.ai/docs/config-json/).

    Args:
        recipe: the recipe; its `learner.kind` is "zero2" or "zero3".
        n_parameters: of the model.
    """
    learner, on_gpu = recipe.learner, recipe.num_gpus_per_learner > 0
    # Even, for the alignment of what travels.
    bucket = min(BUCKET, n_parameters + n_parameters % 2)
    zero: dict[str, Any] = {
        "stage": 3 if learner.kind == "zero3" else 2,
        # Only ZeRO-2 can overlap where passes are accumulated by hand; on a CPU there is nothing to overlap with.
        "overlap_comm": on_gpu and learner.kind == "zero2",
        # DeepSpeed allocates whole buckets, however small the model is.
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
