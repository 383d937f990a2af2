"""Low-rank adapters (LoRA, arXiv 2106.09685) inside a transformers model, by peft.

A linear layer `W x` becomes `W x + (alpha / rank) B A x`. `W` is frozen, `A` (rank x in) starts at random and `B`
(out x rank) at zero, so that training starts from the model as it was. The policy without its adapters is the reference
of a KL penalty, at no memory (`adapters_off`); engines and plain checkpoints get `W + (alpha / rank) B A`
(`plain_weights`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pxr_agents.vlm import VLM
from pxr_env.errors import did_you_mean
from training.config import LearnerRecipe, PPORecipe, SFTRecipe

# Tensors that are sharded over processes are whole inside `gather([...])`; all processes have to ask for the same ones.
Gather = Callable[[Sequence[Tensor]], AbstractContextManager[None]]

_BASE, _A, _B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


def _held(tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
    return nullcontext()


def add_adapters(model: Any, learner: LearnerRecipe, *, seed: int = 0) -> None:
    """Give linear layers of the language model an adapter each, and freeze everything else. Changes the model in place.

    Args:
        model: a transformers model.
        learner: its `lora_...` keys; layers of the vision tower stay as they are, whatever they are called.
        seed: of the random matrices.

    Raises:
        ImportError: peft is not installed.
        ValueError: no layer has such a name.
    """
    config = _config(learner)
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
        _peft().inject_adapter_in_model(config, model)


def has_adapters(model: Any) -> bool:
    return any(name.endswith(_A) for name, _ in model.named_parameters())


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Inside, the model is what it was before training: the reference of a KL penalty. Compute it without gradients."""
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def plain_weights(model: Any, gather: Gather = _held) -> Iterator[tuple[str, Tensor]]:
    """The state dict of a model, one tensor after the other, under the names it has without adapters.

    Adapters are added to the weights they belong to, in float32 and rounded once. A tensor may be used until the next
    one is asked for.
    """
    state: Mapping[str, Tensor] = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if name.endswith((_A, _B)):
            continue
        prefix = name.partition(_BASE)[0]
        if prefix + _A not in state or not name.endswith("weight"):
            with gather([tensor]):
                yield name.replace(_BASE, "."), tensor.detach()
            continue
        down, up = state[prefix + _A], state[prefix + _B]
        with gather([tensor, down, up]), torch.no_grad():
            scaling = model.get_submodule(prefix).scaling["default"]
            delta = scaling * (up.float() @ down.float())
            yield name.replace(_BASE, "."), (tensor.float() + delta).to(tensor.dtype)


def adapter_weights(model: Any, gather: Gather = _held) -> Iterator[tuple[str, Tensor]]:
    """The adapters, one tensor after the other, under the names in peft's files."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name.endswith((_A, _B)):
            with gather([tensor]):
                yield f"base_model.model.{name.replace('.default.', '.')}", tensor.detach()


def export_model(
    recipe: PPORecipe | SFTRecipe, weights: Mapping[str, Tensor], adapters: Mapping[str, Tensor], path: Path
) -> None:
    """Write a trained model as a plain checkpoint directory, which everything loads; adapters once more in `adapter`.

    Those are as peft writes them, for `PeftModel.from_pretrained(base_model, path)` and for engines that take them.

    Args:
        recipe: of the run.
        weights: as `plain_weights` yields them.
        adapters: as `adapter_weights` yields them; none without adapters.
        path: the directory.
    """
    vlm = VLM.from_pretrained(recipe.model, dtype=getattr(torch, recipe.learner.dtype))
    vlm.model.load_state_dict(weights)
    vlm.save(path)
    if adapters:
        base = Path(recipe.model)
        config = _config(recipe.learner, str(base.absolute()) if base.exists() else recipe.model)
        config.save_pretrained(path / "adapter")
        whole = {name: tensor.contiguous() for name, tensor in adapters.items()}
        save_file(whole, path / "adapter" / "adapter_model.safetensors")


def _config(learner: LearnerRecipe, base: str | None = None) -> Any:
    return _peft().LoraConfig(
        r=learner.lora_rank,
        lora_alpha=learner.lora_alpha,
        target_modules=list(learner.lora_targets),
        exclude_modules=r"(.*\.)?visual\..*",
        base_model_name_or_path=base,
        inference_mode=base is not None,
    )


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            "learner.lora_rank is above 0 and peft is not installed: pip install pxr-gym[lora]"
        ) from error
    return peft
