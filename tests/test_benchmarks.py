"""The benchmarks against peers, small: that both sides do equal work, not how fast they are here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import rollouts, trl
from pxr_agents.chat import Conversation
from pxr_agents.vlm import VLM, collate, score_tokens
from tests.adapters.venvs import environment

pytestmark = pytest.mark.slow


def test_rollouts_beside_generate(tiny_vlm):
    """The most likely ids are the same on both sides, so that the work is."""
    result = rollouts.compare(tiny_vlm, 2, blocks=1, temperature=0)
    assert (result["episodes"], result["ids"]) == (2, 1.0)
    assert rollouts.table([result]).count("\n") == 2


def test_a_widened_checkpoint_says_the_same(tiny_vlm, tmp_path, noise_image):
    tiny_vlm.save(tmp_path / "small")
    trl.widen(str(tmp_path / "small"), tmp_path / "wide", width=192, layers=4)
    wide = VLM.from_pretrained(tmp_path / "wide")
    assert wide.model.num_parameters() > 2 * tiny_vlm.model.num_parameters()
    conversation = Conversation()
    tiny_vlm.chat.prompt(conversation, "You look.", {"text": "red?", "images": (noise_image(),)})
    conversation.append_turn((5, 6, 7), train=True)
    with torch.no_grad():
        small, large = (score_tokens(vlm, collate([conversation.tokens()])).logprobs for vlm in (tiny_vlm, wide))
    np.testing.assert_allclose(large, small, atol=2e-3)


def test_an_iteration_beside_trl(tiny_vlm, tmp_path, monkeypatch):
    """Where TRL cannot be installed, pip's own words are in the report of the skipped test."""
    try:
        environment("trl")
    except RuntimeError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(trl, "WARM_UP", 0)
    tiny_vlm.save(tmp_path)
    pairs = trl.compare(str(tmp_path), groups=1, iterations=2, repeats=1)
    assert all(pairs[0][side]["episodes"] == 8 for side in ("trl", "ours"))
    assert trl.table([{"trl": pairs[0]["ours"], "ours": pairs[0]["ours"]}]).endswith("| 8 | 8 | 1.00 |")
