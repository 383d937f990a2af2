"""Weights and checkpoints out of a learner group, whose learners may hold but a part of them each.

What is sharded is gathered by all learners together; whatever asks one learner alone would wait forever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from torch import Tensor

from training.config import PPORecipe
from training.deepspeed_engine import gathered
from training.lora import adapter_weights, export_model, plain_weights

SHARDS = "shards"


def on_learners(learner_group: Any, function: Callable[[Any], Any]) -> list[Any]:
    """What `function(learner)` returns on each learner, all at the same time; the first exception is raised here."""
    results = list(learner_group.foreach_learner(function))
    for result in results:
        if not result.ok:
            raise result.get()
    return [result.get() for result in results]


def named_weights(learner: Any) -> Iterator[tuple[str, Tensor]]:
    """The model's weights on a learner, one tensor after the other, under the names transformers gives them.

    Adapters are merged. All learners have to iterate together; a tensor is whole until the next one is asked for.
    """
    return plain_weights(learner.module[DEFAULT_MODULE_ID].unwrapped().model, gathered)


def learner_weights(learner_group: Any) -> dict[str, Tensor]:
    """The model's state dict, under the names transformers gives its parameters, on the CPU."""
    return {name: torch.as_tensor(value) for name, value in _from_first(learner_group, named_weights).items()}


def learner_state(learner_group: Any) -> dict[str, Any]:
    """What env runners with an engine of their own take in `set_state`: the weights and their version."""
    weights = {f"model.{name}": value for name, value in _from_first(learner_group, named_weights).items()}
    return {
        COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: weights},
        WEIGHTS_SEQ_NO: learner_version(learner_group),
    }


def learner_version(learner_group: Any) -> int:
    """How many updates made the learners' weights: the version that env runners and engines know them by."""
    state = learner_group.get_state(components=f"{COMPONENT_LEARNER}/{WEIGHTS_SEQ_NO}")
    return int(state[COMPONENT_LEARNER][WEIGHTS_SEQ_NO])


def export(learner_group: Any, recipe: PPORecipe, path: Path) -> None:
    """Write the trained model as a plain checkpoint directory, which everything loads; adapters are merged into it.

    The adapters alone are in its folder `adapter`.

    Args:
        learner_group: all of its learners are alive.
        recipe: of the run.
        path: the directory.
    """
    adapters: dict[str, Any] = _from_first(learner_group, _named_adapters) if recipe.learner.lora_rank else {}
    named = {name: torch.as_tensor(tensor) for name, tensor in adapters.items()}
    export_model(recipe, learner_weights(learner_group), named, path)


def save_shards(learner_group: Any, path: Path) -> None:
    """Let every learner write its part of a checkpoint below `path`, a directory that all of them see.

    Learners that each hold everything write nothing: RLlib saves what the first of them has.
    """
    folder = Path(path).absolute() / SHARDS
    on_learners(learner_group, lambda learner: learner.save_shard(folder) if hasattr(learner, "save_shard") else None)


def load_shards(learner_group: Any, path: Path) -> None:
    """Let every learner read its part of a checkpoint (see `save_shards`).

    Raises:
        ValueError: other numbers of learners wrote it.
    """
    folder = Path(path).absolute() / SHARDS
    if not folder.exists():
        return
    n_learners, n_shards = max(len(learner_group), 1), len(list(folder.glob("*/*_optim_states.pt")))
    if n_shards != n_learners:
        raise ValueError(
            f"{path} was written by {n_shards} learners and is read by {n_learners}; expected as many. Resume with "
            f"num_learners={n_shards}, or start a new run from its folder `model`."
        )
    on_learners(learner_group, lambda learner: learner.load_shard(folder))


def _named_adapters(learner: Any) -> Iterator[tuple[str, Tensor]]:
    return adapter_weights(learner.module[DEFAULT_MODULE_ID].unwrapped().model, gathered)


def _from_first(learner_group: Any, named: Callable[[Any], Iterator[tuple[str, Tensor]]]) -> dict[str, Any]:
    """What the first learner gets by iterating over `named(learner)` while all others do."""
    return on_learners(learner_group, lambda learner: _collect(named(learner)))[0]


def _collect(named: Iterator[tuple[str, Tensor]]) -> dict[str, Any]:
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    collected = {}
    for name, tensor in named:
        if first:
            collected[name] = _portable(tensor)
    return collected


def _portable(tensor: Tensor) -> np.ndarray | Tensor:
    """A copy that travels well: Ray shares arrays between processes without copies. numpy has no bfloat16."""
    copy = tensor.detach().to("cpu", copy=True)
    return copy if copy.dtype == torch.bfloat16 else np.asarray(copy.numpy())
