"""What the oracle calls, for all that a sample may know about its evidence."""

from __future__ import annotations

import numpy as np
import pytest

from pxr_env import OperationCall
from pxr_env.env import oracle_turns
from pxr_env.media import VideoSource

TURN = OperationCall(name="rotate", arguments={"target_image": 1, "degrees": 90})


def dark(index):
    return np.full((60, 80, 3), 10 * index, dtype=np.uint8)


@pytest.fixture
def calls(make_env, signs):
    """A function that plays the oracle on a sample with some facts, and returns its calls and the score."""

    def play(operations, arguments=None, **facts):
        class Facts(signs):
            def sample(self, number):
                return super().sample(number, **facts)

        env = make_env(Facts(), operations=operations, video_frames=4, **(arguments or {}))
        env.reset(options={"sample_id": "sign-B"})
        found = []
        for text in oracle_turns(env):
            found += [(call.name, dict(call.arguments)) for call in env.dialect.parse(text).calls]
            *_, info = env.step(text)
        assert (info["score"], info["failures"]) == (1.0, {})
        return found

    return play


@pytest.fixture
def video():
    source = VideoSource(key=("test_oracle", "dark"), load_frame=dark, n_frames=8, fps=2.0, size=(80, 60))
    return {"sources": (source,), "evidence_box": (0.0, 0.0, 40.0, 30.0)}


ZOOM_IN_VIDEO = {"bbox_2d": [0.0, 0.0, 0.5, 0.5]}


def test_an_image(calls):
    # The box (20, 30, 60, 80) of 112 pixels, outwards to 4 decimals.
    zoom = {"bbox_2d": [0.1785, 0.2678, 0.5358, 0.7143], "target_image": 1}
    assert calls(["zoom_in", "rotate"]) == [("zoom_in", zoom)]
    assert calls(["rotate"]) == []
    assert calls(["zoom_in"], evidence_box=None) == []


def test_a_call_of_the_sample(calls):
    assert calls(["zoom_in", "rotate"], evidence_call=TURN) == [("rotate", TURN.arguments)]
    assert calls(["zoom_in"], evidence_call=TURN) == []


def test_within_the_limits(calls):
    assert calls(["zoom_in"], {"max_turns": 1}) == []
    assert calls(["zoom_in"], {"max_operations": 0}) == []


def test_a_video_with_seek(calls, video):
    seek = {"start": 1.5, "end": 2.0, "target_video": 1}
    # Frames 1, 3, 5 and 7 are shown at first; seek shows frame 3 as image 5.
    expected = [("seek", seek), ("zoom_in", {**ZOOM_IN_VIDEO, "target_image": 5})]
    assert calls(["seek", "zoom_in"], evidence_time=(1.5, 2.0), **video) == expected


def test_a_video_without_seek(calls, video):
    expected = [("select_frames", {"target_frames": [2]}), ("zoom_in", {**ZOOM_IN_VIDEO, "target_image": 5})]
    assert calls(["select_frames", "zoom_in"], evidence_time=(1.5, 2.0), **video) == expected
    # Nothing of that time is shown, and nothing can be.
    assert calls(["select_frames", "zoom_in"], evidence_time=(1.0, 1.5), **video) == []
