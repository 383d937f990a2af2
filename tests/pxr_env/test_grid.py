"""The grid of zooms shows what the environment shows, and pays what it pays."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

from pxr_env.adapters.grid import GridZoom

SEARCH = "pxr_env:pxr/SyntheticSearch-v0"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def make(**kwargs):
    return GridZoom(gymnasium.make(SEARCH, **kwargs), answers=LETTERS)


def test_it_passes_the_checker_of_gymnasium():
    check_env(make(), skip_render_check=True)


def test_a_cell_shows_what_its_box_shows():
    env, alone = make(duplicates="execute"), gymnasium.make(SEARCH, duplicates="execute")
    for seed in range(3):
        picture, _ = env.reset(seed=seed)
        observation, _ = alone.reset(seed=seed)
        np.testing.assert_array_equal(picture[:84, :84], observation["images"][0])
        assert not picture[:84, 84:].any()
        assert picture[84:].any()
        # Row 2, column 0 of three.
        picture, reward, *ended, info = env.step(6)
        assert info["views"][1]["box"] == pytest.approx((0, 224, 112, 336), abs=0.05)
        box = json.dumps({"bbox_2d": [edge / 336 for edge in info["views"][1]["box"]], "target_image": 1})
        call = f'<tool_call>{{"name": "zoom_in", "arguments": {box}}}</tool_call>'
        [image] = alone.step(call)[0]["images"]
        np.testing.assert_array_equal(picture[:84, 84:], np.array(Image.fromarray(image).resize((84, 84))))
        assert (reward, ended, info["usage"]) == (0.0, [False, False], {"zoom_in": 1})
        target = LETTERS.index(env.unwrapped.sample.answers[0])
        picture, reward, *ended, info = env.step(np.int64(9 + target))
        assert (reward, ended, info["correct"]) == (1.0, [True, False], True)


def test_what_it_cannot_show_is_an_error():
    with pytest.raises(ValueError, match="expected zoom_in among the operations"):
        GridZoom(gymnasium.make(SEARCH, operations=["rotate"]), answers=LETTERS)
    video = GridZoom(gymnasium.make("pxr_env:pxr/SyntheticVideo-v0", operations=["zoom_in"]), answers=LETTERS)
    with pytest.raises(ValueError, match=r"begins with a video; expected an image"):
        video.reset(seed=0)


@pytest.mark.slow
@pytest.mark.ray
def test_the_example_of_rllib_trains():
    pytest.importorskip("ray.rllib")
    import runpy
    from pathlib import Path

    import ray

    example = Path(__file__).parents[2] / "examples" / "adapters" / "with_rllib.py"
    try:
        result = runpy.run_path(str(example))["result"]
    finally:
        ray.shutdown()
    assert result["env_runners"]["num_env_steps_sampled"] == 64
    assert result["learners"]["default_policy"]["num_module_steps_trained"] >= 64
