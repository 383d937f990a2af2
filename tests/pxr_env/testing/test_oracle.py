"""What the oracle calls, for all that a sample may know about its evidence."""

from __future__ import annotations

import numpy as np
import pytest

from pxr_env import OperationCall
from pxr_env.env import oracle_turns
from pxr_env.media import VideoSource
from tests.pxr_env.testing.signs import Signs, make_env

TURN = OperationCall(name="rotate", arguments={"target_image": 1, "degrees": 90})


def dark(index):
    return np.full((60, 80, 3), 10 * index, dtype=np.uint8)


SOURCE = VideoSource(key=("test_oracle", "dark"), load_frame=dark, n_frames=8, fps=2.0, size=(80, 60))
VIDEO = {"sources": (SOURCE,), "evidence_box": (0.0, 0.0, 40.0, 30.0)}
# The box (20, 30, 60, 80) of 112 pixels, outwards to 4 decimals.
ZOOM = ("zoom_in", {"bbox_2d": [0.1785, 0.2678, 0.5358, 0.7143], "target_image": 1})
# Frames 1, 3, 5 and 7 are shown at first; what shows frame 3 shows it as image 5.
ZOOM_LATER = ("zoom_in", {"bbox_2d": [0.0, 0.0, 0.5, 0.5], "target_image": 5})
SEEK = ("seek", {"start": 1.5, "end": 2.0, "target_video": 1})
SELECT = ("select_frames", {"target_frames": [2]})


@pytest.mark.parametrize(
    ("operations", "arguments", "facts", "expected"),
    [
        (["zoom_in", "rotate"], {}, {}, [ZOOM]),
        (["rotate"], {}, {}, []),
        (["zoom_in"], {}, {"evidence_box": None}, []),
        (["zoom_in", "rotate"], {}, {"evidence_call": TURN}, [("rotate", TURN.arguments)]),
        (["zoom_in"], {}, {"evidence_call": TURN}, []),
        (["zoom_in"], {"max_turns": 1}, {}, []),
        (["zoom_in"], {"max_operations": 0}, {}, []),
        (["seek", "zoom_in"], {}, {"evidence_time": (1.5, 2.0), **VIDEO}, [SEEK, ZOOM_LATER]),
        (["select_frames", "zoom_in"], {}, {"evidence_time": (1.5, 2.0), **VIDEO}, [SELECT, ZOOM_LATER]),
        # Nothing of that time is shown, and nothing can be.
        (["select_frames", "zoom_in"], {}, {"evidence_time": (1.0, 1.5), **VIDEO}, []),
    ],
)
def test_the_calls_of_the_oracle(operations, arguments, facts, expected):
    env = make_env(Signs(**facts), operations=operations, video_frames=4, **arguments)
    env.reset(options={"sample_id": "sign-B"})
    found = []
    for text in oracle_turns(env):
        found += [(call.name, dict(call.arguments)) for call in env.dialect.parse(text).calls]
        *_, info = env.step(text)
    assert found == expected
    assert (info["score"], info["failures"]) == (1.0, {})
