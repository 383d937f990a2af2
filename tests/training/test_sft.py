from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from pxr_agents.vlm import VLM
from tests.training.conftest import ENV
from tests.training.rows import trained_logprobs
from training.quickstart.recipe import TraceRecipe
from training.quickstart.stages import search_trace
from training.sft import Optimizers, TokenWeights, cross_entropy, token_accuracy


@pytest.fixture(scope="module")
def vlm(speaker):
    return VLM.from_pretrained(speaker)


@pytest.fixture(scope="module")
def rows(vlm):
    env, rng = gymnasium.make(ENV.id, **ENV.kwargs), np.random.default_rng(1)
    return [search_trace(env, vlm.chat, f"train-{k}", TraceRecipe(zoom=0.5), rng) for k in range(100, 108)]


@torch.no_grad()
def test_the_weighted_loss_is_a_sum_of_means(vlm, rows):
    letters = frozenset(vlm.chat.encode_text(letter)[0] for letter in "ACHLTX")
    numbers = frozenset(vlm.chat.encode_text(number)[0] for number in ("0", "28", "56", "84"))
    losses = [(token, -float(logprobs[token])) for row in rows for token, logprobs in trained_logprobs(vlm, row)]
    expected = 0.5 * np.mean([loss for _, loss in losses])
    expected += 2.0 * np.mean([loss for token, loss in losses if token in letters])
    expected += 0.25 * np.mean([loss for token, loss in losses if token in numbers])
    weights = TokenWeights(base=0.5, groups={"letters": (letters, 2.0), "numbers": (numbers, 0.25)})
    assert float(cross_entropy(vlm, rows, weights)) == pytest.approx(expected, rel=1e-4)
    # A group that is not there adds nothing.
    absent = TokenWeights(groups={"absent": (frozenset(vlm.chat.encode_text("~")), 5.0)})
    assert float(cross_entropy(vlm, rows, absent)) == pytest.approx(np.mean([loss for _, loss in losses]), rel=1e-4)


@torch.no_grad()
def test_token_accuracy_counts_runs_that_are_right_to_the_last_token(vlm, rows):
    numbers = frozenset(vlm.chat.encode_text(number)[0] for number in ("0", "28", "56", "84"))
    # Rows of one length keep their order.
    rows = [row for row in rows if len(row.ids) == max(len(row.ids) for row in rows)]
    right = [
        int(logprobs.argmax()) == token
        for row in rows
        for token, logprobs in trained_logprobs(vlm, row)
        if token in numbers
    ]
    assert len(right) % 4 == 0
    assert 0 < sum(right) < len(right)
    assert token_accuracy(vlm, rows, numbers) == pytest.approx(np.mean(right))
    pairs = [all(right[k : k + 2]) for k in range(0, len(right), 2)]
    assert token_accuracy(vlm, rows, numbers, run=2) == pytest.approx(np.mean(pairs))
    with pytest.raises(ValueError, match="expected a positive multiple of 7"):
        token_accuracy(vlm, rows, numbers, run=len(right) + 1 if len(right) % 7 == 0 else 7)


def test_only_matrices_outside_embeddings_go_to_muon(speaker, rows):
    vlm = VLM.from_pretrained(speaker)
    before = {name: value.clone() for name, value in vlm.model.named_parameters()}
    optimizers = Optimizers(vlm, lr=0.0, muon_lr=1e-3, weight_decay=0.0)
    optimizers.step(cross_entropy(vlm, rows, TokenWeights()))
    changed = {name for name, value in vlm.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all(before[name].ndim == 2 and "embed" not in name for name in changed)


def test_the_factor_scales_both_learning_rates_and_gradients_are_clipped(speaker, rows):
    vlm = VLM.from_pretrained(speaker)
    optimizers = Optimizers(vlm, lr=1e-3, muon_lr=2e-3)
    optimizers.step(cross_entropy(vlm, rows, TokenWeights()), 0.5, max_grad_norm=1e-3)
    assert [state["param_groups"][0]["lr"] for state in optimizers.state_dict()] == [5e-4, 1e-3]
    norm = torch.stack([p.grad.norm() for p in vlm.model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
