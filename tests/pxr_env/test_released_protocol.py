"""What released models were trained with beside a syntax: padded crops, images amid the text, other words."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest

from pxr_env.env import VisualReasoningEnv
from pxr_env.media import ImageSource
from pxr_env.types import Sample


class _OneImage:
    """One image of 400x200 without structure that matters."""

    def __len__(self) -> int:
        return 1

    def sample_ids(self) -> list[str]:
        return ["a"]

    def get(self, sample_id: str) -> Sample:
        image = np.arange(400 * 200 * 3, dtype=np.uint32).reshape(200, 400, 3).astype(np.uint8)
        source = ImageSource(image=image)
        return Sample(sample_id=sample_id, question="Which?", sources=(source,), answers=("A",))


def make(**arguments) -> VisualReasoningEnv:
    return VisualReasoningEnv(_OneImage(), **{"min_pixels": 28 * 28, "max_pixels": 200_000, **arguments})


def hermes_zoom(box, target_image=1) -> str:
    arguments = json.dumps({"bbox_2d": box, "target_image": target_image})
    return f'<tool_call>{{"name": "zoom_in", "arguments": {arguments}}}</tool_call>'


def boxes(env, *turns):
    env.reset()
    for turn in turns:
        _, _, _, _, info = env.step(turn)
    return [view["box"] for view in info["views"][1:]], info


def test_a_padded_zoom_shows_a_share_of_the_target_image_more():
    # 0.1 of 400x200 is 40x20 pixels: (120, 80, 200, 120) grows to (80, 60, 240, 140).
    found, _ = boxes(make(zoom_padding=0.1), hermes_zoom([0.3, 0.4, 0.5, 0.6]))
    assert found == [pytest.approx((80, 60, 240, 140))]
    # Within that view, a tenth is 16x8 pixels; its lower right corner stays where it is.
    found, _ = boxes(make(zoom_padding=0.1), hermes_zoom([0.3, 0.4, 0.5, 0.6]), hermes_zoom([0.5, 0.5, 1, 1], 2))
    assert found[1] == pytest.approx((160 - 16, 100 - 8, 240, 140))


def test_padding_is_cut_off_at_the_edges_and_its_box_is_still_checked():
    found, _ = boxes(make(zoom_padding=0.1), hermes_zoom([0.0, 0.0, 0.05, 1.0]))
    assert found == [pytest.approx((0, 0, 60, 200))]
    # The number that is wrong is the model's, whatever is added to it.
    found, info = boxes(make(zoom_padding=0.1), hermes_zoom([0.5, 0.5, 1.05, 1.0]))
    assert found == []
    assert info["failures"] == {"zoom_in": 1}


def test_padding_in_pixels_of_the_shown_image():
    env = make(zoom_padding=0.1, coordinates="pixel", max_pixels=28 * 28 * 32)
    env.reset()
    assert env.views[0].size == (224, 112)
    *_, info = env.step(hermes_zoom([56, 28, 112, 56]))
    # From a quarter to a half of each side, and a tenth more.
    assert info["views"][1]["box"] == pytest.approx((60, 30, 240, 120))


def test_a_padded_zoom_into_a_comparison_stays_in_its_picture():
    env = make(zoom_padding=0.1, operations=("zoom_in", "compare"), duplicates="execute")
    env.reset()
    env.step(hermes_zoom([0.0, 0.0, 0.5, 1.0]))
    arguments = {"first_image": 1, "second_image": 2}
    env.step(f'<tool_call>{{"name": "compare", "arguments": {json.dumps(arguments)}}}</tool_call>')
    left = env.views[2].panels[0].place[2] / env.views[2].size[0]
    *_, info = env.step(hermes_zoom([left / 2, 0.0, left, 1.0], 3))
    # The right half of the left picture begins at 200, a tenth of 400 earlier with padding.
    assert info["views"][3]["box"] == pytest.approx((160, 0, 400, 200))


@pytest.mark.parametrize("padding", [-0.1, 1.5, "0.1", True, float("nan")])
def test_padding_that_is_no_share_is_refused(padding):
    with pytest.raises(ValueError, match=r"got zoom_padding=.*; expected a number"):
        make(zoom_padding=padding)


@pytest.mark.parametrize(
    ("dialect", "coordinates", "call", "before", "after"),
    [
        (
            "pixel-reasoner",
            "unit",
            '<tool_call>{"name": "crop_image_normalized", "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], '
            '"target_image": 1}}</tool_call>',
            "Here is the cropped image (Image Size: 196x112):",
            "",
        ),
        (
            "mini-o3",
            "unit",
            '<grounding>{"bbox_2d": [0, 0, 0.5, 0.5], "source": "original_image"}</grounding>',
            "After the above Action 0, here is the zoom-in image (Observation 1).\n",
            "Go on inside <think>",
        ),
        (
            "deepeyes",
            "pixel",
            '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 196, 112]}}</tool_call>',
            "<tool_response>\n",
            "Think first, call image_zoom_in_tool again",
        ),
    ],
)
def test_images_stand_where_the_release_has_them(dialect, coordinates, call, before, after):
    env = make(dialect=dialect, coordinates=coordinates, images_in_text=True)
    _, info = env.reset()
    assert info["image_places"] == (0,)
    observation, _, _, _, info = env.step(call)
    assert info["image_places"] == (len(before),)
    assert observation["text"][: len(before)] == before
    assert observation["text"][len(before) :].startswith(after)
    assert (observation["text"][len(before) :] == "") == (after == "")


def test_each_of_several_results_has_its_own_place():
    env = make(dialect="pixel-reasoner", images_in_text=True)
    env.reset()
    turn = hermes_zoom([0, 0, 0.5, 0.5]) + hermes_zoom([0, 0, 9, 9]) + hermes_zoom([0, 0.5, 0.5, 1])
    observation, _, _, _, info = env.step(turn)
    first, error, second = (line for line in observation["text"].split("\n") if "cropped" in line or "leaves" in line)
    assert "leaves image 1" in error
    assert first == second
    assert info["image_places"] == (len(first), len(observation["text"]))


def test_errors_and_other_operations_have_no_place_of_their_own():
    env = make(dialect="pixel-reasoner", images_in_text=True, operations=("zoom_in", "rotate"))
    env.reset()
    *_, info = env.step("Hm.")
    assert info["image_places"] == ()
    *_, info = env.step('<tool_call>{"name": "rotate", "arguments": {"degrees": 90, "target_image": 1}}</tool_call>')
    assert info["image_places"] == (0,)


def test_without_the_option_nothing_is_said_of_places():
    env = make(dialect="mini-o3")
    assert "image_places" not in env.reset()[1]


def test_own_words_replace_those_of_the_dialect_and_travel_with_the_spec():
    arguments = {
        "split": "test",
        "system_prompt": "You look. \\boxed{}",
        "question_suffix": "\nThink.",
        "images_in_text": True,
        "zoom_padding": 0.1,
    }
    first = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", **arguments)
    second = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(first.spec.to_json()))
    for env in (first, second):
        observation, info = env.reset(options={"sample_id": "test-0"})
        assert info["system_prompt"] == "You look. \\boxed{}"
        assert observation["text"] == env.unwrapped.sample.question + "\nThink."
        assert env.unwrapped.rules.zoom_padding == 0.1


@pytest.mark.parametrize("name", ["system_prompt", "question_suffix"])
def test_words_that_are_no_text_are_refused(name):
    with pytest.raises(ValueError, match=f"got {name}=7; expected text"):
        make(**{name: 7})
