"""Messages hold the observation, pixel by pixel, and give it back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pxr_env.messages import content, first_messages, read_assistant, read_observation, user_message

PICTURES = st.lists(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))), max_size=3).map(
    tuple
)


@given(text=st.text(), images=PICTURES, kind=st.sampled_from(["pil", "array", "png"]), data=st.data())
def test_an_observation_comes_back_from_its_message(text, images, kind, data):
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=len(images), max_size=len(images))))
    observation = {"text": text, "images": images}
    read, found = read_observation(user_message(observation, places, images=kind))
    assert (read["text"], list(found)) == (text, places)
    assert [image.tobytes() for image in read["images"]] == [image.tobytes() for image in images]
    assert [image.shape for image in read["images"]] == [image.shape for image in images]
    assert read_observation(user_message(observation, images=kind))[1] == (0,) * len(images)


def test_jpeg_is_close_and_smaller_and_says_so():
    y, x = np.mgrid[:96, :128]
    picture = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)
    [part] = content({"text": "", "images": (picture,)}, (0,), images="jpeg")
    assert part["image_url"]["url"].startswith("data:image/jpeg;base64,")
    [read] = read_observation({"content": [part]})[0]["images"]
    assert 0 < np.abs(read.astype(int) - picture).max() <= 8


def test_a_conversation_begins_with_the_system_prompt():
    system, user = first_messages({"text": "What?", "images": ()}, {"system_prompt": "Look."})
    assert (system, user) == (
        {"role": "system", "content": "Look."},
        {"role": "user", "content": [{"type": "text", "text": "What?"}]},
    )


def test_the_text_of_a_message_may_be_one_piece_or_several():
    assert read_observation({"content": "What?"})[0]["text"] == "What?"
    assert read_assistant({"content": None}) == ("", [])
    assert read_assistant({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}) == ("ab", [])


@pytest.mark.parametrize("part", [{"type": "audio"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}])
def test_what_is_no_part_of_an_observation_is_an_error(part):
    with pytest.raises(ValueError, match="expected text, a data URI of an image or a picture"):
        read_observation({"content": [part]})
