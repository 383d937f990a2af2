"""What the tests of playing share: small environments, one of them with a hostile question."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pxr_env.env import VisualReasoningEnv
from pxr_env.media import ImageSource
from pxr_env.play import make_environment
from pxr_env.types import Sample

SEARCH = "pxr/SyntheticSearch-v0"


def oracle_box(env: VisualReasoningEnv) -> str:
    """The evidence box of the running episode as it would be typed for image 1."""
    box = env.sample.evidence_box
    assert box is not None
    return ",".join(map(str, env.frame.from_source(box, env.views[0])))


@pytest.fixture
def search() -> VisualReasoningEnv:
    return make_environment(SEARCH, {})


@pytest.fixture
def oracle() -> Callable[[VisualReasoningEnv], str]:
    return oracle_box


@pytest.fixture
def ask() -> Callable[..., VisualReasoningEnv]:
    """Makes an environment that asks one question, in the frame and with the operations that are given."""

    ramp = np.linspace(0, 255, 400, dtype=np.uint8)
    image = ImageSource(image=np.repeat(np.tile(ramp, (200, 1))[:, :, None], 3, axis=2))

    def make(question: str = "How many?", **arguments: object) -> VisualReasoningEnv:
        given = {"min_pixels": 28 * 28, "max_pixels": 200_000, "render_mode": "rgb_array", **arguments}
        return VisualReasoningEnv(
            [Sample(sample_id="only", question=question, sources=(image,), answers=("7",))], **given
        )

    return make
