"""A benchmark in which it is known what an operation shows, and agents of which it is known what they do with it.

A grey picture has a square of black and white stripes of two pixels. Shown at a quarter of its size the stripes are the
same grey; only a zoom shows whether they stand or lie.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from pxr_agents.types import Observation

ENV_ID = "pxr_env:pxr/JSONL-v0"
SIDE, SQUARE = 336, 56
#: The picture is shown as 84x84 pixels, four to one.
ENV_ARGS: dict[str, Any] = {"min_pixels": 784, "max_pixels": 7056, "max_turns": 4}
ANSWERS = ("vertical", "horizontal")

#: How often an agent below was asked for a turn, in this process.
n_asked = 0


def write_data(directory: Path, n: int) -> Path:
    """Write `n` questions; number i is about a square at another place, and standing stripes where i is even."""
    directory.mkdir(parents=True)
    rows = []
    for number in range(n):
        x, y = 56 * (number % 5), 56 * (number // 5 % 5)
        line = np.where(np.arange(SQUARE) % 4 < 2, 0, 255).astype(np.uint8)
        square = np.broadcast_to(line, (SQUARE, SQUARE))
        pixels = np.full((SIDE, SIDE), 128, np.uint8)
        pixels[y : y + SQUARE, x : x + SQUARE] = square if number % 2 == 0 else square.T
        Image.fromarray(np.stack([pixels] * 3, axis=2)).save(directory / f"{number}.png")
        rows.append(
            {
                "id": str(number),
                "question": "Do the stripes stand or lie: vertical or horizontal?",
                "images": f"{number}.png",
                "answers": [ANSWERS[number % 2]],
                "evidence_box": [x, y, x + SQUARE, y + SQUARE],
                "needs_operation": True,
            }
        )
    (directory / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return directory


def read_stripes(image: np.ndarray) -> str:
    """What a picture shows: "vertical", "horizontal", or "unsure" where there are no stripes."""
    grey = image[..., 0].astype(float)
    across, along = np.abs(np.diff(grey, axis=1)).mean(), np.abs(np.diff(grey, axis=0)).mean()
    if max(across, along) < 10:
        return "unsure"
    return "vertical" if across > along else "horizontal"


def zoom(box: Any) -> str:
    """A call in fractions of the picture."""
    call = {"name": "zoom_in", "arguments": {"bbox_2d": [value / SIDE for value in box], "target_image": 1}}
    return f"<tool_call>{json.dumps(call)}</tool_call>"


class _Player:
    """Zooms into the square first, if there is something to zoom with, and then does what its subclass does."""

    def __init__(self, env: gymnasium.Env) -> None:
        base: Any = env.unwrapped
        self.sample, self.can_zoom, self._n = base.sample, bool(base.operations), 0
        self.number, self.target = int(self.sample.sample_id), self.sample.answers[0]

    def act(self, observation: Observation) -> str:
        global n_asked
        n_asked += 1
        self._n += 1
        if self.can_zoom and self._n == 1:
            return self.first()
        return f"\\boxed{{{self.answer(observation)}}}"

    def first(self) -> str:
        return zoom(self.sample.evidence_box)

    def answer(self, observation: Observation) -> str:
        raise NotImplementedError


class Reader(_Player):
    """Answers what the last picture shows."""

    def answer(self, observation: Observation) -> str:
        return read_stripes(observation["images"][-1])


class Decorator(_Player):
    """Looks, and answers what it knew before."""

    def answer(self, observation: Observation) -> str:
        return str(self.target)


class Misled(_Player):
    """Knows the answer, and gives the other one as soon as it sees stripes."""

    def answer(self, observation: Observation) -> str:
        if read_stripes(observation["images"][-1]) == "unsure":
            return str(self.target)
        return ANSWERS[1 - ANSWERS.index(self.target)]


class Stranger(_Player):
    """Looks at a corner where nothing is, and answers what it knew before."""

    def first(self) -> str:
        return zoom((SIDE - 56, SIDE - 56, SIDE, SIDE))

    def answer(self, observation: Observation) -> str:
        return str(self.target)


class Tumbler(_Player):
    """Zooms, and in the same turn mirrors the whole picture where the stripes stand; answers what the zoom shows."""

    def first(self) -> str:
        flip = '{"name": "flip", "arguments": {"target_image": 1, "direction": "vertical"}}'
        return super().first() + (f"<tool_call>{flip}</tool_call>" if self.number % 2 == 0 else "")

    def answer(self, observation: Observation) -> str:
        return read_stripes(observation["images"][0])


class Caller(_Player):
    """Writes a call whether it is offered one or not, and answers only once it is shown something new."""

    def act(self, observation: Observation) -> str:
        if self._n and observation["images"]:
            return f"\\boxed{{{read_stripes(observation['images'][-1])}}}"
        self._n += 1
        return self.first()


class Fickle(_Player):
    """Never answers the same twice."""

    def answer(self, observation: Observation) -> str:
        return f"answer {n_asked}"


class Mixed(_Player):
    """By the number of the question: reads, knows, is misled, or knows and calls nothing."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._kind = (Reader, Decorator, Misled, None)[self.number % 4]

    def first(self) -> str:
        return super().first() if self._kind is not None else f"\\boxed{{{self.target}}}"

    def answer(self, observation: Observation) -> str:
        return self._kind.answer(self, observation) if self._kind is not None else str(self.target)  # type: ignore[arg-type]


#: Of ten questions: right without operations; how it is with them: calls ("zoom", "refused" or None), right.
CASES: tuple[tuple[bool, str | None, bool], ...] = (
    (False, "zoom", True),
    (False, "zoom", True),
    (False, None, True),
    (True, "zoom", False),
    (True, None, False),
    (True, "zoom", True),
    (True, None, True),
    (False, "zoom", False),
    (False, None, False),
    (True, "refused", False),
)


class ByTable(_Player):
    """Behaves as `CASES` says."""

    def first(self) -> str:
        _, call, _ = CASES[self.number]
        if call is None:
            return f"\\boxed{{{self.answer({'text': '', 'images': ()})}}}"
        return zoom(self.sample.evidence_box if call == "zoom" else (9, 9, 3, 3))

    def answer(self, observation: Observation) -> str:
        without, _, with_operations = CASES[self.number]
        return str(self.target) if (with_operations if self.can_zoom else without) else "wrong"
