"""The vision tower with few calls of attention says what transformers' own says, and its gradients are the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from pxr_agents.attention import BATCHED, batched_attention
from pxr_agents.random_checkpoint import FAMILIES
from pxr_agents.vlm import VLM

# Numbers of vision tokens down and across; windows of Qwen2.5-VL are four tokens a side.
GRIDS = ((3, 3), (1, 6), (9, 5), (9, 5), (12, 8))


@pytest.fixture
def calls(monkeypatch) -> list[torch.Size]:
    """The shapes that torch's attention is called with."""
    shapes: list[torch.Size] = []
    original = functional.scaled_dot_product_attention

    def counted(query, *args, **kwargs):
        shapes.append(query.shape)
        return original(query, *args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    monkeypatch.setattr("pxr_agents.attention.scaled_dot_product_attention", counted)
    return shapes


@pytest.mark.parametrize("family", FAMILIES)
def test_features_and_gradients_are_those_of_transformers(family, family_path, calls):
    vlm = VLM.from_pretrained(family_path(family))
    side = vlm.chat.image_unit
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h * side, w * side, 3), dtype=np.uint8) for h, w in GRIDS]
    tower, config = vlm.model.model.visual, vlm.model.config.vision_config

    def outcome(implementation: str):
        config._attn_implementation = implementation
        vlm.model.zero_grad()
        calls.clear()
        encoded = vlm.encode_images(images)
        pooled = [features[0] for features in encoded]
        weights = torch.linspace(-1, 1, pooled[0].shape[-1])
        torch.stack([(features * weights).sum() for features in pooled]).square().sum().backward()
        gradients = {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}
        return torch.cat(pooled).detach(), gradients, len(calls)

    assert config._attn_implementation == BATCHED, "what from_pretrained chooses"
    ours, ours_gradients, n_ours = outcome(BATCHED)
    theirs, their_gradients, n_theirs = outcome("sdpa")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(ours_gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    # Two of the images are equally large: their sequences, and those of neighbouring windows, share calls.
    assert 0 < n_ours < n_theirs


def test_sequences_do_not_see_each_other():
    """Against a softmax by hand, of sequences of 3, 2, 2 and 1 places with two heads."""
    torch.manual_seed(0)
    bounds = [0, 3, 5, 7, 8]
    query, key, value = torch.randn(3, 1, 2, 8, 4, dtype=torch.float64).unbind(0)
    out, weights = batched_attention(
        None, query, key, value, None, cu_seq_lens_q=torch.tensor(bounds), max_length_q=3, scaling=0.5
    )
    assert weights is None
    for start, end in itertools.pairwise(bounds):
        for head in range(2):
            scores = query[0, head, start:end] @ key[0, head, start:end].T * 0.5
            expected = torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True) @ value[0, head, start:end]
            torch.testing.assert_close(out[0, start:end, head], expected)


@pytest.mark.gpu
def test_half_precision_on_a_gpu_is_one_call_and_agrees():
    torch.manual_seed(0)
    bounds = torch.tensor([0, 64, 128, 160], dtype=torch.int32, device="cuda")
    states = torch.randn(3, 1, 16, 160, 80, device="cuda")
    arguments = {"cu_seq_lens_q": bounds, "max_length_q": 64, "scaling": 80**-0.5}
    exact = batched_attention(None, *states.unbind(0), None, **arguments)[0]
    half = batched_attention(None, *states.bfloat16().unbind(0), None, **arguments)[0]
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=0.03)
