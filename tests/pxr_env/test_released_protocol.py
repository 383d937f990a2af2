"""What released models were trained with beside a syntax: padded crops, images amid the text, other words."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest

from pxr_env import Sample, VisualReasoningEnv
from pxr_env.media import ImageSource

#: 400x200 without structure that matters.
IMAGE = np.arange(400 * 200 * 3, dtype=np.uint32).reshape(200, 400, 3).astype(np.uint8)


def make(**arguments) -> VisualReasoningEnv:
    sample = Sample(sample_id="a", question="Which?", sources=(ImageSource(image=IMAGE),), answers=("A",))
    env = VisualReasoningEnv([sample], **{"min_pixels": 28 * 28, "max_pixels": 200_000, **arguments})
    env.reset()
    return env


def call(name, **arguments) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def zoom(box, target_image=1) -> str:
    return call("zoom_in", bbox_2d=box, target_image=target_image)


@pytest.mark.parametrize(
    ("arguments", "turns", "box"),
    [
        # 0.1 of 400x200 is 40x20 pixels: (120, 80, 200, 120) grows to (80, 60, 240, 140).
        ({}, [zoom([0.3, 0.4, 0.5, 0.6])], (80, 60, 240, 140)),
        # Within that view, a tenth is 16x8 pixels; its lower right corner stays where it is.
        ({}, [zoom([0.3, 0.4, 0.5, 0.6]), zoom([0.5, 0.5, 1, 1], 2)], (160 - 16, 100 - 8, 240, 140)),
        # Cut off at the edges.
        ({}, [zoom([0.0, 0.0, 0.05, 1.0])], (0, 0, 60, 200)),
        # Shown at 224x112: from a quarter to a half of each side, and a tenth more.
        ({"coordinates": "pixel", "max_pixels": 28 * 28 * 32}, [zoom([56, 28, 112, 56])], (60, 30, 240, 120)),
    ],
)
def test_a_padded_zoom_shows_a_share_of_the_target_image_more(arguments, turns, box):
    env = make(zoom_padding=0.1, **arguments)
    for turn in turns:
        *_, info = env.step(turn)
    assert info["views"][-1]["box"] == pytest.approx(box)


def test_the_number_that_is_wrong_is_the_models_whatever_is_added_to_it():
    *_, info = make(zoom_padding=0.1).step(zoom([0.5, 0.5, 1.05, 1.0]))
    assert (len(info["views"]), info["failures"]) == (1, {"zoom_in": 1})


def test_a_padded_zoom_into_a_comparison_stays_in_its_picture():
    env = make(zoom_padding=0.1, operations=("zoom_in", "compare"), duplicates="execute")
    env.step(zoom([0.0, 0.0, 0.5, 1.0]))
    env.step(call("compare", first_image=1, second_image=2))
    left = env.views[2].panels[0].place[2] / env.views[2].size[0]
    *_, info = env.step(zoom([left / 2, 0.0, left, 1.0], 3))
    # The right half of the left picture begins at 200, a tenth of 400 earlier with padding.
    assert info["views"][3]["box"] == pytest.approx((160, 0, 400, 200))


@pytest.mark.parametrize("padding", [-0.1, 1.5, "0.1", True, float("nan")])
def test_padding_that_is_no_share_is_refused(padding):
    with pytest.raises(ValueError, match=r"got zoom_padding=.*; expected a number"):
        make(zoom_padding=padding)


@pytest.mark.parametrize(
    ("dialect", "coordinates", "turn", "before", "after"),
    [
        (
            "pixel-reasoner",
            "unit",
            call("crop_image_normalized", bbox_2d=[0, 0, 0.5, 0.5], target_image=1),
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
            call("image_zoom_in_tool", bbox_2d=[0, 0, 196, 112]),
            "<tool_response>\n",
            "Think first, call image_zoom_in_tool again",
        ),
    ],
)
def test_images_stand_where_the_release_has_them(dialect, coordinates, turn, before, after):
    env = make(dialect=dialect, coordinates=coordinates, images_in_text=True)
    assert env.reset()[1]["image_places"] == (0,)
    observation, _, _, _, info = env.step(turn)
    place = len(before)
    assert info["image_places"] == (place,)
    assert observation["text"][:place] == before
    assert observation["text"][place:].startswith(after)
    assert (observation["text"][place:] == "") == (after == "")
    assert "image_places" not in make(dialect=dialect, coordinates=coordinates).reset()[1]


def test_each_of_several_results_has_its_own_place():
    env = make(dialect="pixel-reasoner", images_in_text=True, operations=("zoom_in", "rotate"))
    turn = zoom([0, 0, 0.5, 0.5]) + zoom([0, 0, 9, 9]) + zoom([0, 0.5, 0.5, 1])
    observation, _, _, _, info = env.step(turn)
    first, error, second = (line for line in observation["text"].split("\n") if "cropped" in line or "leaves" in line)
    assert "leaves image 1" in error
    assert first == second
    assert info["image_places"] == (len(first), len(observation["text"]))
    # Errors and other operations have none of their own.
    assert env.step("Hm.")[-1]["image_places"] == ()
    assert env.step(call("rotate", degrees=90, target_image=1))[-1]["image_places"] == (0,)


def test_own_words_replace_those_of_the_dialect_and_travel_with_the_spec():
    arguments = {"split": "test", "system_prompt": "You look. \\boxed{}", "question_suffix": "\nThink."}
    first = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", images_in_text=True, zoom_padding=0.1, **arguments)
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
