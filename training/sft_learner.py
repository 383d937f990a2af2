"""What a warm start trains: a model with its optimizer, held whole by every process.

`training.sft_deepspeed` has one whose parts are spread over the processes. Both take the same steps, and give the same
numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch

from pxr_agents.vlm import VLM, TokenBatch
from training.config import SFTRecipe
from training.lora import add_adapters
from training.processes import Processes
from training.sft import Optimizers, summed_loss


class Learner(Protocol):
    """One process' share in training one model. All processes call the same methods in the same order.

    Attributes:
        vlm: the model.
        equal_parts: whether all of them have to accumulate equally often.
    """

    vlm: VLM
    equal_parts: bool

    def accumulate(self, batches: Sequence[TokenBatch], normalizer: float) -> float:
        """Add the gradients of the summed loss over `normalizer`; returns the summed loss."""

    def step(self, lr_factor: float) -> float:
        """Update by the gradients of all processes and forget them; returns their norm.

        Raises:
            FloatingPointError: the norm is no number.
        """

    def save(self, path: Path) -> None:
        """Write weights and optimizer into a directory that all processes see."""

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""


def open_model(recipe: SFTRecipe, device: torch.device | str = "cpu") -> VLM:
    """The model of a recipe in float32, with what of it is trained, and how."""
    vlm = VLM.from_pretrained(recipe.model, device=device, attn_implementation=recipe.attn_implementation)
    learner = recipe.learner
    if recipe.freeze_vision:
        for name, parameter in vlm.model.named_parameters():
            if "visual." in name:
                parameter.requires_grad_(False)
    if learner.lora_rank:
        add_adapters(
            vlm.model, rank=learner.lora_rank, alpha=learner.lora_alpha, targets=learner.lora_targets, seed=recipe.seed
        )
    if learner.gradient_checkpointing:
        vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # transformers checkpoints in training only. These architectures have no dropout.
        vlm.model.train()
    return vlm


class PlainLearner:
    """A whole model in every process; gradients are added up before each step.

    With `learner.dtype` "bfloat16" weights stay float32, and what is computed with them is rounded.
    """

    equal_parts = False

    def __init__(self, recipe: SFTRecipe, processes: Processes, device: torch.device | str = "cpu") -> None:
        self.vlm = open_model(recipe, device)
        self._processes, self._max_grad_norm = processes, recipe.max_grad_norm
        self._optimizers = Optimizers(self.vlm, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self._rounds = recipe.learner.dtype == "bfloat16"

    def accumulate(self, batches: Sequence[TokenBatch], normalizer: float) -> float:
        with self._autocast():
            loss = summed_loss(self.vlm, batches)
        (loss / normalizer).backward()
        return float(loss.detach())

    def step(self, lr_factor: float) -> float:
        self._processes.add_gradients(self._optimizers.parameters)
        norm = self._optimizers.clip(self._max_grad_norm)
        if not norm < float("inf"):
            raise FloatingPointError(f"The norm of the gradients is {norm}")
        self._optimizers.update(lr_factor)
        self._optimizers.zero_grad()
        return norm

    def save(self, path: Path) -> None:
        if self._processes.first:
            state = {"model": self.vlm.model.state_dict(), "optimizers": self._optimizers.state_dict()}
            torch.save(state, path / "learner.pt")

    def load(self, path: Path) -> None:
        state: dict[str, Any] = torch.load(path / "learner.pt", map_location=self.vlm.device)
        self.vlm.model.load_state_dict(state["model"])
        self._optimizers.load_state_dict(state["optimizers"])

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.vlm.device.type, torch.bfloat16, enabled=self._rounds)
