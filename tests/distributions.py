"""What a model says of its target ids over the whole vocabulary, all of it at once."""

from __future__ import annotations

from torch import Tensor

from pxr_agents.vlm import VLM, TokenBatch


def token_distributions(vlm: VLM, batch: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """(T,) target ids, row after row; (T, V) log-probabilities where each was chosen, (T, d) hidden states there."""
    hidden = vlm.hidden_states(batch.ids, batch.positions, batch.images)
    chosen_at = hidden[:, :-1][batch.target[:, 1:]]
    return batch.ids[:, 1:][batch.target[:, 1:]], vlm.log_softmax(chosen_at, temperature), chosen_at
