"""A small task that keeps every promise, for breaking one at a time."""

from __future__ import annotations

import functools

import numpy as np

from pxr_env import Sample, VisualReasoningEnv
from pxr_env.media import ImageSource


@functools.cache
def noise(number):
    return ImageSource(image=np.random.default_rng(number).integers(0, 256, (112, 112, 3), dtype=np.uint8))


class Signs:
    """Pictures of noise with a letter somewhere, or so they say. `changes` are other facts of the samples."""

    letters = "ABC"

    def __init__(self, **changes):
        self.changes = changes

    def __len__(self):
        return len(self.letters)

    def sample_ids(self):
        return [f"sign-{letter}" for letter in self.letters]

    def get(self, sample_id):
        number = self.sample_ids().index(sample_id)
        facts = {
            "sample_id": sample_id,
            "question": "Which letter is on the sign?",
            "sources": (noise(number),),
            "answers": (self.letters[number],),
            "needs_operation": True,
            "evidence_box": (20.0, 30.0, 60.0, 80.0),
            "category": "letters",
        }
        return Sample(**facts | self.changes)


def make_env(data=None, *, kind=VisualReasoningEnv, **arguments):
    """An environment of the signs."""
    given = {"min_pixels": 28 * 28, "max_pixels": 56 * 56, "max_turns": 5, "max_operations": 3} | arguments
    return kind(data or Signs(), **given)
