"""What a warm start trains: the loss on token rows, the optimizers, and a model that is held whole by every process, or
spread over them by DeepSpeed.

Both learners take the same steps, and give the same numbers up to rounding. All processes call the same methods in the
same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pxr_agents.types import Tokens
from pxr_agents.vlm import VLM, TokenBatch, TokenScores, collate, score_tokens, split_by_length
from .config import SFTRecipe
from .learners import TAG, prepare, start_engine

# Decay rates of AdamW's two averages.
ADAM_BETAS = (0.9, 0.98)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenWeights:
    """Loss = `base` * mean over all target tokens + weight * mean over the tokens of each group.

    A group is a set of ids whose own mean is added, so that rare informative tokens (coordinates, letters) are not
    drowned by the many that are mere form.
    """

    base: float = 1.0
    groups: Mapping[str, tuple[frozenset[int], float]] = field(default_factory=dict)


def cross_entropy(vlm: VLM, rows: Sequence[Tokens], weights: TokenWeights) -> Tensor:
    """The weighted cross entropy of the trained tokens (`Tokens.action`) of the rows."""
    scores = _scores(vlm, rows)
    loss = -torch.cat([part.logprobs for part in scores])
    ids = torch.cat([part.ids for part in scores])
    total = weights.base * loss.mean()
    for group, weight in weights.groups.values():
        members = _in_group(ids, group)
        if weight and bool(members.any()):
            total = total + weight * loss[members].mean()
    return total


@torch.no_grad()
def token_accuracy(vlm: VLM, rows: Sequence[Tokens], group: frozenset[int], *, run: int = 1) -> float:
    """Share of runs of `run` successive group tokens that are the most likely ones, given the true text before.

    With run=2 it is the share of (x, y) pairs right, with run=4 of boxes. On deterministic text this equals
    greedy decoding up to the first error.
    """
    scores = _scores(vlm, rows)
    ids = torch.cat([part.ids for part in scores])
    best = torch.cat([vlm.log_softmax(part.hidden).argmax(-1) for part in scores])
    right = (best == ids)[_in_group(ids, group)]
    if not len(right) or len(right) % run:
        raise ValueError(f"got {len(right)} tokens of the group, expected a positive multiple of {run}")
    return float(right.view(-1, run).all(1).float().mean())


def _in_group(ids: Tensor, group: frozenset[int]) -> Tensor:
    """(T,) bool: which ids belong to the group."""
    return torch.isin(ids, torch.tensor(sorted(group), device=ids.device))


def _scores(vlm: VLM, rows: Sequence[Tokens]) -> list[TokenScores]:
    """Of the target ids of all rows; whole rows, shorter ones first."""
    return [
        score_tokens(vlm, collate([rows[k] for k in part]).to(vlm.device))
        for part in split_by_length([len(row.ids) for row in rows])
    ]


def summed_loss(vlm: VLM, batches: Sequence[TokenBatch]) -> Tensor:
    """The sum of the cross entropies of all trained tokens, as it adds up over parts of a step and over processes."""
    return -torch.cat([score_tokens(vlm, batch.to(vlm.device)).logprobs for batch in batches]).sum()


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonalized (https://kellerjordan.github.io/posts/muon/), as large as those of AdamW
    (arXiv 2502.16982, section 2.2).

    `torch.optim.Muon` does the same in bfloat16, which is slow on a CPU without instructions for it, and one matrix
    after the other; here matrices of one shape go together.
    """

    def __init__(self, matrices: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            ahead: dict[torch.Size, dict[Tensor, Tensor]] = {}
            for matrix in group["params"]:
                if (grad := matrix.grad) is not None:
                    mean = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                    mean.lerp_(grad, 1 - momentum)
                    ahead.setdefault(matrix.shape, {})[matrix] = grad.lerp(mean, momentum)
            for shape, directions in ahead.items():
                steps = orthogonalized(torch.stack([*directions.values()])) * (0.2 * math.sqrt(max(shape)))
                for matrix, step in zip(directions, steps, strict=True):
                    matrix.mul_(1 - lr * group["weight_decay"]).sub_(step, alpha=lr)


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with their singular values brought near 1 (0.7 to 1.2), by five rounds of a quintic
    Newton-Schulz iteration in float32."""
    wide = matrices.float() if matrices.shape[1] <= matrices.shape[2] else matrices.float().mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return (wide if matrices.shape[1] <= matrices.shape[2] else wide.mT).to(matrices.dtype)


class Optimizers:
    """AdamW, or Muon for the matrices with AdamW for the rest, driven by one learning-rate factor.

    Muon (orthogonalized momentum) reaches the same loss in a fraction of the steps on small transformers; it applies to
    two-dimensional weights other than embeddings. What is frozen stays as it is. `parameters` are those trained.
    """

    def __init__(self, vlm: VLM, *, lr: float, muon_lr: float | None = None, weight_decay: float = 0.01) -> None:
        named = [(name, p) for name, p in vlm.model.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in named]
        matrices = {name: p for name, p in named if muon_lr is not None and p.ndim == 2 and "embed" not in name}
        rest = [p for name, p in named if name not in matrices]
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, betas=ADAM_BETAS), lr)
        ]
        if matrices and muon_lr is not None:
            muon = Muon(matrices.values(), lr=muon_lr, weight_decay=weight_decay)
            self._optimizers.append((muon, muon_lr))

    def step(self, loss: Tensor, lr_factor: float = 1.0, max_grad_norm: float = 1.0) -> None:
        """Backpropagate and update."""
        self.zero_grad()
        loss.backward()
        self.clip(max_grad_norm)
        self.update(lr_factor)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer, _ in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def clip(self, max_grad_norm: float) -> float:
        """Scale the gradients down to a global norm; returns the norm they had."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, max_grad_norm))

    def update(self, lr_factor: float = 1.0) -> None:
        """Update by the gradients as they are."""
        for optimizer, lr in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * lr_factor
            optimizer.step()

    def state_dict(self) -> list[dict[str, object]]:
        return [optimizer.state_dict() for optimizer, _ in self._optimizers]

    def load_state_dict(self, state: list[dict[str, object]]) -> None:
        for (optimizer, _), values in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(values)


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
    vlm = VLM.from_pretrained(recipe.model, device=device, attn_implementation=recipe.learner.attn_implementation)
    prepare(vlm.model, recipe.learner, seed=recipe.seed)
    # These architectures have no dropout.
    vlm.model.train(recipe.learner.gradient_checkpointing)
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
        shared = [parameter for parameter, somewhere in zip(parameters, has, strict=True) if somewhere]
        for parameter in shared:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for work in [dist.all_reduce(parameter.grad, async_op=True) for parameter in shared]:
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
        """Read what `save` wrote; raises ValueError if other numbers of processes wrote it."""
        n_parts = len(list(path.glob(f"{TAG}/*_optim_states.pt")))
        if n_parts != self._processes.size:
            raise ValueError(
                f"{path} was written by {n_parts} learners and is read by {self._processes.size}; expected as many. "
                f"Resume with num_learners={n_parts}."
            )
        self._engine.load_checkpoint(str(path), tag=TAG)
