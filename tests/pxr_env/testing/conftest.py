"""A small task that keeps every promise, for breaking one at a time."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from pxr_env import Sample, VisualReasoningEnv
from pxr_env.dialects import base as dialect_registry
from pxr_env.media import ImageSource
from pxr_env.operations import registry as operation_registry
from pxr_env.scoring import registry as scorer_registry

SIDE = 112


@functools.cache
def noise(number):
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


class Signs:
    """Pictures of noise with a letter somewhere, or so they say."""

    letters = "ABC"

    def __len__(self):
        return len(self.letters)

    def sample_ids(self):
        return [f"sign-{letter}" for letter in self.letters]

    def get(self, sample_id):
        return self.sample(self.sample_ids().index(sample_id))

    def sample(self, number, **changes):
        facts = {
            "sample_id": self.sample_ids()[number],
            "question": "Which letter is on the sign?",
            "sources": (ImageSource(image=noise(number)),),
            "answers": (self.letters[number],),
            "needs_operation": True,
            "evidence_box": (20.0, 30.0, 60.0, 80.0),
            "category": "letters",
        }
        return Sample(**facts | changes)


@pytest.fixture
def signs():
    """The class of the data, to inherit from."""
    return Signs


@pytest.fixture
def make_env():
    """A function that makes an environment of the signs."""

    def make(data=None, *, kind=VisualReasoningEnv, **arguments):
        given = {"min_pixels": 28 * 28, "max_pixels": 56 * 56, "max_turns": 5, "max_operations": 3} | arguments
        return kind(data or Signs(), **given)

    return make


@pytest.fixture(autouse=True)
def own_registries(monkeypatch):
    """What a test registers is gone after it."""
    for module, name in (
        (operation_registry, "_OPERATIONS"),
        (dialect_registry, "_DIALECTS"),
        (scorer_registry, "_SCORERS"),
    ):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
