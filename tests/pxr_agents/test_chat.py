from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pxr_agents.chat import Conversation, intern_image
from pxr_agents.types import Completion

CALL = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [28, 0, 56, 28], "target_image": 1}}\n</tool_call>'


def conversation_of(vlm, images, *, stop=True, question="What letter is in the red box?", reply="Image 2."):
    conversation = Conversation()
    vlm.chat.prompt(conversation, "You look.", {"text": question, "images": (images[0],)})
    ids = (*vlm.chat.encode_text(CALL), *((vlm.chat.stop_id,) if stop else ()))
    logprobs = tuple(-0.1 * k for k in range(len(ids)))
    conversation.append_completion(
        Completion(token_ids=ids, logprobs=logprobs, finish_reason="stop" if stop else "length")
    )
    vlm.chat.reply(conversation, {"text": reply, "images": (images[1],)})
    return conversation, ids, logprobs


def test_trains_exactly_the_sampled_ids(tiny_vlm, noise_image):
    conversation, ids, logprobs = conversation_of(tiny_vlm, [noise_image(), noise_image()])
    tokens = conversation.tokens()
    assert tuple(tokens.ids[tokens.action]) == ids
    np.testing.assert_allclose(tokens.logprobs[tokens.action], logprobs, rtol=1e-6)
    assert not tokens.logprobs[~tokens.action].any()
    # The turn ends with the last sampled id; everything after it is the environment's.
    (end,) = tokens.turn_ends
    assert tokens.ids[end] == tiny_vlm.chat.stop_id
    assert not tokens.action[end + 1 :].any()


SPECIAL = ["<|im_end|>", "<|im_start|>", "<|image_pad|>", "<|vision_start|>", "<|endoftext|>", "\n"]
HOSTILE = st.lists(st.text(max_size=8) | st.sampled_from(SPECIAL), max_size=6).map("".join)


@settings(max_examples=60, deadline=None)
@given(text=HOSTILE)
def test_foreign_text_never_becomes_a_special_token(tiny_vlm_session, text):
    chat = tiny_vlm_session.chat
    ids = chat.encode_text(text)
    assert not set(ids) & set(chat.tokenizer.all_special_ids)
    # Nothing is lost: what special tokens would have stood for is spelled out (characters in composed form, NFC).
    assert chat.tokenizer.decode(list(ids)) == unicodedata.normalize("NFC", text)


@pytest.fixture(scope="module")
def tiny_vlm_session(tiny_path):
    from pxr_agents.vlm import VLM

    return VLM.from_pretrained(tiny_path)


def test_hostile_reply_leaves_placeholders_alone(tiny_vlm, noise_image):
    images = [noise_image(), noise_image()]
    conversation, _, _ = conversation_of(tiny_vlm, images, reply="<|image_pad|><|im_end|>")
    assert conversation.ids.count(tiny_vlm.chat.image_id) == 2 * 9


def test_banned_ids_are_all_special_ones_but_the_stop(tiny_vlm):
    tokens = tiny_vlm.chat.tokenizer.convert_ids_to_tokens(list(tiny_vlm.chat.banned_ids))
    names = ("endoftext", "im_start", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
    assert set(tokens) == {f"<|{name}|>" for name in names}


def test_equal_images_are_one_array(noise_image):
    image = noise_image()
    same, other = image.copy(), noise_image()
    assert intern_image(image) is intern_image(same)
    assert intern_image(other) is not intern_image(image)
    # Equal bytes in another shape are another image.
    assert intern_image(image.reshape(42, 168, 3)) is not intern_image(image)


def test_forced_ids_are_marked_and_stay_action_ids():
    conversation = Conversation()
    conversation.append_ids((7, 7))
    conversation.append_completion(Completion(token_ids=(1, 2, 3), logprobs=(-1.0,) * 3, finish_reason="stop"))
    assert conversation.tokens().forced is None
    conversation.append_ids((7,))
    conversation.append_completion(
        Completion(token_ids=(4, 5, 6), logprobs=(-1.0,) * 3, finish_reason="stop"), n_forced=2
    )
    # A turn that was cut before all forced ids came.
    conversation.append_completion(Completion(token_ids=(8,), logprobs=(-1.0,), finish_reason="length"), n_forced=2)
    tokens = conversation.tokens()
    assert tokens.ids[tokens.forced].tolist() == [4, 5, 8]
    assert tokens.ids[tokens.action].tolist() == [1, 2, 3, 4, 5, 6, 8]


def test_images_amid_a_text_are_tokenized_where_they_stand(tiny_vlm, noise_image) -> None:
    chat, first, second = tiny_vlm.chat, noise_image(), noise_image(28, 56)
    conversation = Conversation()
    observation = {"text": "red box green", "images": (first, second)}
    chat.prompt(conversation, "", observation, (4, 13))
    fixed, start, end = chat._fixed, chat._vision_start, chat._vision_end
    expected = [*fixed["system_open"], *chat.encode_text(""), *fixed["user_open"]]
    expected += [*chat.encode_text("red "), start, *[chat.image_id] * 9, end]
    expected += [*chat.encode_text("box green"), start, *[chat.image_id] * 2, end, *fixed["user_close"]]
    assert conversation.ids == expected
    assert [image.shape for image in conversation.images] == [(84, 84, 3), (56, 28, 3)]


@pytest.mark.parametrize("places", [(1,), (2, 1)])
def test_places_that_do_not_fit_the_images_are_refused(tiny_vlm, noise_image, places) -> None:
    observation = {"text": "red box", "images": (noise_image(), noise_image())}
    with pytest.raises(ValueError, match="expected 2 in ascending order"):
        tiny_vlm.chat.prompt(Conversation(), "", observation, places)


def test_images_amid_a_text_are_what_the_template_writes(tiny_vlm, noise_image) -> None:
    chat, image = tiny_vlm.chat, noise_image(28, 28)
    conversation = Conversation()
    chat.prompt(conversation, "You look.", {"text": "red?", "images": (image,)}, (0,))
    conversation.append_turn((*chat.encode_text("blue"), chat.stop_id), train=True)
    chat.reply(conversation, {"text": "red box green", "images": (image,)}, (4,))
    part = {"type": "image"}
    messages = [
        {"role": "system", "content": "You look."},
        {"role": "user", "content": [part, {"type": "text", "text": "red?"}]},
        {"role": "assistant", "content": "blue"},
        {"role": "user", "content": [{"type": "text", "text": "red "}, part, {"type": "text", "text": "box green"}]},
    ]
    # An image of one vision token has one placeholder, as in the template.
    expected = chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat.tokenizer.decode(conversation.ids) == expected
