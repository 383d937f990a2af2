"""What a warm start trains: a model and its optimizer, held whole by every process, or spread over them by DeepSpeed.

Both learners take the same steps, and give the same numbers up to rounding. All processes call the same methods in the
same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pxr_agents.vlm import VLM, TokenBatch
from training.config import SFTRecipe
from training.deepspeed_engine import TAG, start_engine
from training.lora import add_adapters
from training.sft import ADAM_BETAS, Optimizers, summed_loss


class Processes:
    """The processes that train together, joined by `torch.distributed`; one that nobody joined is alone.

    Attributes:
        rank: the number of this process, from 0; the first one writes what only one may write.
        size: how many there are.
    """

    def __init__(self) -> None:
        joined = dist.is_initialized()
        self.rank = dist.get_rank() if joined else 0
        self.size = dist.get_world_size() if joined else 1

    def gather(self, value: Any = None) -> list[Any]:
        """What each process passes, in the order of their numbers; nobody goes on before all have come here."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def sum(self, *numbers: float) -> list[float]:
        """The sum of each number over all processes."""
        return [float(sum(column)) for column in zip(*self.gather(numbers), strict=True)]


def open_model(recipe: SFTRecipe, device: torch.device | str = "cpu") -> VLM:
    """The model of a recipe in float32, with what of it is trained, and how."""
    vlm = VLM.from_pretrained(recipe.model, device=device, attn_implementation=recipe.attn_implementation)
    if recipe.freeze_vision:
        for name, parameter in vlm.model.named_parameters():
            if "visual." in name:
                parameter.requires_grad_(False)
    if recipe.learner.lora_rank:
        add_adapters(vlm.model, recipe.learner, seed=recipe.seed)
    if recipe.learner.gradient_checkpointing:
        vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # transformers checkpoints in training only. These architectures have no dropout.
        vlm.model.train()
    return vlm


class PlainLearner:
    """A whole model in every process; gradients are added up before each step.

    With `learner.dtype` "bfloat16" weights stay float32, and what is computed with them is rounded.

    Attributes:
        vlm: the model.
        equal_parts: whether all processes have to accumulate equally often.
    """

    equal_parts = False

    def __init__(self, recipe: SFTRecipe, processes: Processes, device: torch.device | str = "cpu") -> None:
        self.vlm = open_model(recipe, device)
        self._processes, self._max_grad_norm = processes, recipe.max_grad_norm
        self._optimizers = Optimizers(self.vlm, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self._rounds = recipe.learner.dtype == "bfloat16"

    def accumulate(self, batches: Sequence[TokenBatch], normalizer: float) -> float:
        """Add the gradients of the summed loss over `normalizer`; returns the summed loss."""
        with torch.autocast(self.vlm.device.type, torch.bfloat16, enabled=self._rounds):
            loss = summed_loss(self.vlm, batches)
        (loss / normalizer).backward()
        return float(loss.detach())

    def step(self, lr_factor: float) -> float:
        """Update by the gradients of all processes, and forget them; returns their norm. If it is no finite number
        nothing is updated."""
        if self._processes.size > 1:
            self._add_gradients()
        norm = self._optimizers.clip(self._max_grad_norm)
        if math.isfinite(norm):
            self._optimizers.update(lr_factor)
            self._optimizers.zero_grad()
        return norm

    def save(self, path: Path) -> None:
        """Write weights and optimizer into a directory that all processes see."""
        if self._processes.rank == 0:
            state = {"model": self.vlm.model.state_dict(), "optimizers": self._optimizers.state_dict()}
            torch.save(state, path / "learner.pt")

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        state: dict[str, Any] = torch.load(path / "learner.pt", map_location=self.vlm.device)
        self.vlm.model.load_state_dict(state["model"])
        self._optimizers.load_state_dict(state["optimizers"])

    def _add_gradients(self) -> None:
        """Replace each gradient by its sum over all processes; one that no process has stays away."""
        parameters = self._optimizers.parameters
        has = self._processes.sum(*(parameter.grad is not None for parameter in parameters))
        pending = []
        for parameter, somewhere in zip(parameters, has, strict=True):
            if somewhere:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                pending.append(dist.all_reduce(parameter.grad, async_op=True))
        for work in pending:
            work.wait()


class _SummedLoss(torch.nn.Module):
    """The whole of a pass, as DeepSpeed wants to see it: what comes when follows from the outermost call."""

    def __init__(self, vlm: VLM) -> None:
        super().__init__()
        self.model = vlm.model
        # The VLM itself is no torch module.
        self._vlm = vlm

    def forward(self, batches: Sequence[TokenBatch]) -> Tensor:
        return summed_loss(self._vlm, batches)


class DeepSpeedLearner:
    """As `PlainLearner`, but optimizer and gradients (ZeRO-2), and weights (ZeRO-3), are spread over the processes."""

    # Weights are gathered (ZeRO-3) and gradients added up (both) pass by pass, by all processes together.
    equal_parts = True

    def __init__(self, recipe: SFTRecipe, processes: Processes) -> None:
        self._processes, self._lr = processes, recipe.lr
        self.vlm = open_model(recipe)
        trained = [parameter for parameter in self.vlm.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, betas=ADAM_BETAS)
        module = _SummedLoss(self.vlm)
        if recipe.learner.gradient_checkpointing:
            module.train()
        self._engine = start_engine(module, optimizer, recipe)

    def accumulate(self, batches: Sequence[TokenBatch], normalizer: float) -> float:
        loss = self._engine(batches)
        # DeepSpeed takes the mean over the processes.
        self._engine.backward(loss * (self._processes.size / normalizer))
        return float(loss.detach())

    def step(self, lr_factor: float) -> float:
        """As the other, but weights have been updated by a norm that is no number before it is known."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._lr * lr_factor
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def save(self, path: Path) -> None:
        self._engine.save_checkpoint(str(path), tag=TAG, save_latest=False)

    def load(self, path: Path) -> None:
        """Read what `save` wrote.

        Raises:
            ValueError: other numbers of processes wrote it.
        """
        n_parts = len(list(path.glob(f"{TAG}/*_optim_states.pt")))
        if n_parts != self._processes.size:
            raise ValueError(
                f"{path} was written by {n_parts} learners and is read by {self._processes.size}; expected as many. "
                f"Resume with num_learners={n_parts}."
            )
        self._engine.load_checkpoint(str(path), tag=TAG)
