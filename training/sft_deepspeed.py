"""A model whose optimizer and gradients (ZeRO-2), and weights (ZeRO-3), are spread over processes by DeepSpeed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pxr_agents.vlm import VLM, TokenBatch
from training.config import SFTRecipe
from training.deepspeed_engine import TAG, start_engine
from training.processes import Processes
from training.sft import ADAM_BETAS, summed_loss
from training.sft_learner import open_model


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
    """See `training.sft_learner.Learner`. Needs the processes to be joined (`torch.distributed`)."""

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
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._lr * lr_factor
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if not norm < float("inf"):
            raise FloatingPointError(f"The norm of the gradients is {norm}")
        return norm

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
