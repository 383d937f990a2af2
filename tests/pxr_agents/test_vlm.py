from __future__ import annotations

import pytest
import torch

from pxr_agents.chat import Conversation
from pxr_agents.random_checkpoint import FAMILIES
from pxr_agents.vlm import VLM, collate, patchify, score_tokens
from tests.distributions import token_distributions


def row(vlm, images, turn, question="What letter is in the red box?"):
    conversation = Conversation()
    vlm.chat.prompt(conversation, "You look.", {"text": question, "images": tuple(images)})
    conversation.append_turn((*vlm.chat.encode_text(turn), vlm.chat.stop_id), train=True)
    return conversation.tokens()


def test_patchify_equals_the_checkpoints_own_processor(tiny_vlm, tiny_path, noise_image):
    processor = pytest.importorskip("transformers.models.qwen2_vl").Qwen2VLImageProcessorPil
    images = [noise_image(84, 84), noise_image(84, 56), noise_image(140, 28), noise_image(84, 84)]
    expected = processor.from_pretrained(tiny_path)(images=images, return_tensors="pt")
    patches, grids = patchify(images, tiny_vlm.norm)
    torch.testing.assert_close(patches, expected.pixel_values, atol=1e-6, rtol=0)
    assert grids.tolist() == expected.image_grid_thw.tolist()


def test_encodes_a_shared_image_once(tiny_vlm, noise_image, monkeypatch):
    image = noise_image()
    seen = []
    encode = VLM._encode
    monkeypatch.setattr(VLM, "_encode", lambda self, *patches: seen.append(len(patches[1])) or encode(self, *patches))
    token_distributions(tiny_vlm, collate([row(tiny_vlm, [image], "\\boxed{A}") for _ in range(5)]))
    assert seen == [1]


@pytest.mark.parametrize("family", FAMILIES)
def test_features_that_are_kept_are_those_that_are_not(family, family_path, noise_image, monkeypatch):
    vlm = VLM.from_pretrained(family_path(family))
    side = vlm.chat.image_unit
    images = [noise_image(3 * side, 2 * side), noise_image(side, side)]
    batch = collate([row(vlm, shown, "\\boxed{A}") for shown in (images, images[:1], images[::-1])])
    expected = score_tokens(vlm, batch)
    vlm.keep(images)
    monkeypatch.setattr(VLM, "_encode", None)
    torch.testing.assert_close(score_tokens(vlm, batch).logprobs, expected.logprobs, rtol=0, atol=1e-6)
    assert sum(level.numel() for level in vlm.kept[id(images[0])][1]) == 6 * vlm.feature_width


def test_lost_image_is_an_error_not_a_guess(tiny_vlm, noise_image):
    tokens = row(tiny_vlm, [noise_image()], "\\boxed{A}")
    batch = collate([tokens])
    with pytest.raises(ValueError, match="got 9 image placeholder ids with 0 image features"):
        tiny_vlm.hidden_states(batch.ids, batch.positions, ())


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 1000])
@pytest.mark.parametrize("train_entropy", [False, True])
def test_scores_in_parts_equal_the_whole_distributions(
    tiny_path, noise_image, monkeypatch, rows_at_a_time, train_entropy
):
    vlm = VLM.from_pretrained(tiny_path)
    batch = collate([row(vlm, [noise_image()], turn) for turn in ("\\boxed{A}", "The letter is \\boxed{T}")])

    def outcome(scores):
        logprobs, entropy = scores
        loss = (logprobs * torch.linspace(-1, 2, len(logprobs))).sum() + (
            entropy.square().sum() if train_entropy else 0
        )
        vlm.model.zero_grad()
        loss.backward()
        return loss.detach(), [p.grad for p in vlm.model.parameters() if p.grad is not None]

    ids, logprobs, hidden = token_distributions(vlm, batch, 0.7)
    kept = logprobs.masked_fill(logprobs == -torch.inf, 0)
    expected = outcome((logprobs[torch.arange(len(ids)), ids], -(logprobs.exp() * kept).sum(-1)))
    monkeypatch.setattr("pxr_agents.vlm.CHUNK", rows_at_a_time * vlm.model.lm_head.out_features)
    scores = score_tokens(vlm, batch, 0.7, train_entropy=train_entropy)
    assert torch.equal(scores.ids, ids)
    torch.testing.assert_close(scores.hidden, hidden)
    assert scores.entropy.requires_grad == train_entropy
    loss, gradients = outcome((scores.logprobs, scores.entropy))
    torch.testing.assert_close(loss, expected[0], rtol=1e-6, atol=1e-6)
    assert len(gradients) == len(expected[1])
    apart = sum(float((x - y).square().sum()) for x, y in zip(gradients, expected[1], strict=True))
    assert apart**0.5 < 2e-6 * sum(float(y.square().sum()) for y in expected[1]) ** 0.5
    with torch.no_grad():
        torch.testing.assert_close(score_tokens(vlm, batch, 0.7).entropy, scores.entropy)
