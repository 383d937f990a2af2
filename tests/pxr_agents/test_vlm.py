from __future__ import annotations

import pytest
import torch

from pxr_agents.chat import Conversation
from pxr_agents.vlm import VLM, collate, patchify, token_distributions


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
    encode = VLM.encode_images
    monkeypatch.setattr(VLM, "encode_images", lambda self, images: seen.append(len(images)) or encode(self, images))
    token_distributions(tiny_vlm, collate([row(tiny_vlm, [image], "\\boxed{A}") for _ in range(5)]))
    assert seen == [1]


def test_lost_image_is_an_error_not_a_guess(tiny_vlm, noise_image):
    tokens = row(tiny_vlm, [noise_image()], "\\boxed{A}")
    batch = collate([tokens])
    with pytest.raises(ValueError, match="got 9 image placeholder ids with 0 image features"):
        tiny_vlm.hidden_states(batch.ids, batch.positions, ())
