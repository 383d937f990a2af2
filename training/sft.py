"""Supervised training on token rows: the loss, the optimizers, one step. Plain PyTorch on one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from pxr_agents.types import Tokens
from pxr_agents.vlm import VLM, TokenBatch, collate, split_by_length, token_distributions

# Decay rates of AdamW's two averages.
ADAM_BETAS = (0.9, 0.98)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenWeights:
    """Loss = `base` * mean over all target tokens + weight * mean over the tokens of each group.

    A group is a set of ids whose own mean is added, so that rare informative tokens (coordinates, letters) are
    not drowned by the many that are mere form.
    """

    base: float = 1.0
    groups: Mapping[str, tuple[frozenset[int], float]] = field(default_factory=dict)


def in_group(ids: Tensor, group: frozenset[int]) -> Tensor:
    """(T,) bool: which ids belong to the group."""
    return torch.isin(ids, torch.tensor(sorted(group), device=ids.device))


def cross_entropy(vlm: VLM, rows: Sequence[Tokens], weights: TokenWeights) -> Tensor:
    """The weighted cross entropy of the trained tokens (`Tokens.action`) of the rows."""
    ids, logprobs = _distributions(vlm, rows)
    loss = F.nll_loss(logprobs, ids, reduction="none")
    total = weights.base * loss.mean()
    for group, weight in weights.groups.values():
        members = in_group(ids, group)
        if weight and bool(members.any()):
            total = total + weight * loss[members].mean()
    return total


def summed_loss(vlm: VLM, batches: Sequence[TokenBatch]) -> Tensor:
    """The sum of the cross entropies of all trained tokens, as it adds up over parts of a step and over processes."""
    losses = []
    for batch in batches:
        ids, logprobs, _ = token_distributions(vlm, batch.to(vlm.device))
        losses.append(F.nll_loss(logprobs, ids, reduction="none"))
    return torch.cat(losses).sum()


def _distributions(vlm: VLM, rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """(T,) target ids of all rows and (T, V) their log-probabilities; whole rows, shorter ones first."""
    parts = [
        token_distributions(vlm, collate([rows[k] for k in part]).to(vlm.device))
        for part in split_by_length([len(row.ids) for row in rows])
    ]
    return torch.cat([ids for ids, _, _ in parts]), torch.cat([logprobs for _, logprobs, _ in parts])


class Optimizers:
    """AdamW, or Muon for the matrices with AdamW for the rest, driven by one learning-rate factor.

    Muon (orthogonalized momentum) reaches the same loss in a fraction of the steps on small transformers; it
    applies to two-dimensional weights other than embeddings. What is frozen stays as it is.

    Attributes:
        parameters: what is trained.
    """

    def __init__(self, vlm: VLM, *, lr: float, muon_lr: float | None = None, weight_decay: float = 0.01) -> None:
        named = [(name, p) for name, p in vlm.model.named_parameters() if p.requires_grad]
        matrices = []
        if muon_lr is not None:
            matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n]
        rest = [p for _, p in named if all(p is not m for m in matrices)]
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, betas=ADAM_BETAS), lr)
        ]
        if matrices and muon_lr is not None:
            muon = torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self._optimizers.append((muon, muon_lr))
        self.parameters = [p for _, p in named]

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


@torch.no_grad()
def token_accuracy(vlm: VLM, rows: Sequence[Tokens], group: frozenset[int], *, run: int = 1) -> float:
    """Share of runs of `run` successive group tokens that are the most likely ones, given the true text before.

    With run=2 it is the share of (x, y) pairs right, with run=4 of boxes. On deterministic text this equals
    greedy decoding up to the first error.
    """
    ids, logprobs = _distributions(vlm, rows)
    members = in_group(ids, group)
    right = (logprobs.argmax(-1) == ids)[members]
    if not len(right) or len(right) % run:
        raise ValueError(f"got {len(right)} tokens of the group, expected a positive multiple of {run}")
    return float(right.view(-1, run).all(1).float().mean())
