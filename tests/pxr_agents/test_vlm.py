from __future__ import annotations

import numpy as np
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


def test_logprobs_equal_the_plain_forward_pass(tiny_vlm, noise_image):
    tokens = row(tiny_vlm, [noise_image(84, 56), noise_image()], "\\boxed{A}")
    patches, grids = patchify(tokens.images, tiny_vlm.norm)
    ids = torch.from_numpy(tokens.ids).long()[None]
    with torch.no_grad():
        logits = tiny_vlm.model(
            input_ids=ids,
            pixel_values=patches,
            image_grid_thw=grids,
            mm_token_type_ids=(ids == tiny_vlm.chat.image_id).int(),
        ).logits[0]
        got_ids, logprobs, _ = token_distributions(tiny_vlm, collate([tokens]))
    allowed = torch.ones(logits.shape[-1], dtype=torch.bool)
    allowed[list(tiny_vlm.chat.banned_ids)] = False
    allowed[len(tiny_vlm.chat.tokenizer) :] = False
    logits[:, ~allowed] = float("-inf")
    places = np.flatnonzero(tokens.action)
    expected = torch.stack([logits[p - 1].log_softmax(-1) for p in places])
    assert got_ids.tolist() == tokens.ids[places].tolist()
    torch.testing.assert_close(logprobs[:, allowed], expected[:, allowed], atol=1e-5, rtol=0)
    assert bool((logprobs[:, ~allowed] == float("-inf")).all())


def test_batched_equals_single(tiny_vlm, noise_image):
    shared = noise_image()
    rows = [
        row(tiny_vlm, [shared], "\\boxed{A}"),
        row(tiny_vlm, [noise_image(56, 28), shared], "a long turn that goes on and on"),
        row(tiny_vlm, [shared], "\\boxed{T}", question="?"),
        row(tiny_vlm, [], "no image"),
    ]
    with torch.no_grad():
        _, batched, _ = token_distributions(tiny_vlm, collate(rows))
        single = torch.cat([token_distributions(tiny_vlm, collate([r]))[1] for r in rows])
    finite = torch.isfinite(single)
    torch.testing.assert_close(batched[finite], single[finite], atol=1e-5, rtol=0)


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
    with pytest.raises(ValueError, match="9 image placeholder ids came with 0 image features"):
        tiny_vlm.hidden_states(batch.ids, batch.positions, ())


def test_saves_what_it_loads(tiny_vlm, tmp_path, noise_image):
    tiny_vlm.save(tmp_path / "copy")
    again = VLM.from_pretrained(tmp_path / "copy")
    assert again.norm == tiny_vlm.norm
    tokens = row(tiny_vlm, [noise_image()], "\\boxed{A}")
    with torch.no_grad():
        before = token_distributions(tiny_vlm, collate([tokens]))[1]
        after = token_distributions(again, collate([tokens]))[1]
    assert torch.equal(before, after)


def test_checkpoint_without_processor_is_refused(tiny_vlm, tmp_path):
    tiny_vlm.model.save_pretrained(tmp_path)
    tiny_vlm.chat.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config\.json"):
        VLM.from_pretrained(tmp_path)
