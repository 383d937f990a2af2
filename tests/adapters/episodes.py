"""The same 20 episodes for every adapter, and what `step` makes of them: what a model sees, and what it is paid.

env = gymnasium.make(ENV_ID)      # also from another process, by this id
for episode in EPISODES:
    # let the adapter play episode.turns on episode.sample_id, then
    assert what the model saw == episode.seen and what it was paid == episode.reward
    assert_no_leak(everything that was handed to the model)
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from pxr_env import Sample, VisualReasoningEnv
from pxr_env.media import ImageSource
from pxr_env.types import NoTurn

ENV_ID = "tests.adapters.episodes:conformance/Marbles-v0"
#: No text of an environment has one of these words or numbers.
ANSWERS = tuple(f"marble{number}q" for number in range(20))
BOX = (417.0, 283.0, 611.0, 479.0)


def samples() -> list[Sample]:
    pictures = np.random.default_rng(0).integers(0, 256, (20, 96, 112, 3), dtype=np.uint8)
    return [
        Sample(
            sample_id=f"sample-{number}",
            question=f"Which marble is it, of {number + 2}?",
            sources=(ImageSource(image=Image.fromarray(picture).resize((896, 768), Image.Resampling.NEAREST)),),
            answers=(answer,),
            evidence_box=BOX,
            needs_operation=number % 2 == 0,
        )
        for number, (answer, picture) in enumerate(zip(ANSWERS, pictures, strict=True))
    ]


def make(**kwargs: Any) -> VisualReasoningEnv:
    small = {"min_pixels": 28 * 28 * 9, "max_pixels": 28 * 28 * 36}
    limits = {"max_turns": 5, "max_operations": 3, "costs": {"operation": 0.125}}
    return VisualReasoningEnv(samples(), **{"operations": ["zoom_in", "rotate"], **small, **limits, **kwargs})


gymnasium.register("conformance/Marbles-v0", entry_point="tests.adapters.episodes:make")


@dataclass(frozen=True)
class Said:
    """A message of the model: its words, and tool calls as a name with arguments in JSON, as servers pass them on."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish: str = "stop"  # or "length"

    def message(self) -> dict[str, Any]:
        """As a chat message with native calls."""
        calls = [
            {"id": f"call_{k}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for k, (name, arguments) in enumerate(self.calls)
        ]
        return {"role": "assistant", "content": self.text} | ({"tool_calls": calls} if calls else {})

    def written(self) -> str:
        """With the calls in the text, as the dialect `hermes` has them."""
        calls = (
            f'<tool_call>\n{{"name": "{n}", "arguments": {arguments}}}\n</tool_call>' for n, arguments in self.calls
        )
        return "\n".join([*([self.text] if self.text else []), *calls])


def _zoom(*box: float, image: int = 1) -> tuple[str, str]:
    return "zoom_in", json.dumps({"bbox_2d": box, "target_image": image})


_LEFT, _RIGHT = _zoom(0.0, 0.0, 0.5, 0.5), _zoom(0.5, 0.25, 1.0, 0.75)


def _script(number: int) -> list[Said]:
    right = Said(f"It is \\boxed{{{ANSWERS[number]}}}.")
    return [
        [right],
        [Said("A look.", (_LEFT,)), right],
        [Said("", (_LEFT, _RIGHT)), Said("", (("rotate", '{"degrees": 90, "target_image": 2}'),)), right],
        [Said("Hm.", (("zoom_in", '{"bbox_2d": [0.0, 0.'),)), right],
        [Said("", (("look", "{}"),)), Said("I give \\boxed{nothing}.")],
        [Said("", (_zoom(0.5, 0.5, 0.5, 0.5),)), Said("", (_RIGHT,)), right],
        [Said("A look.", (_LEFT,)), Said("The marble is of a", finish="length")],
        [Said("", (_LEFT,)), Said("", (_RIGHT,)), Said("", (_zoom(0, 0, 1, 1, image=2),)), Said("", (_LEFT,)), right],
        [Said("", (_LEFT,)), Said("", (_LEFT,)), right],
        [Said("", (_LEFT, ("zoom_in", '{"target_image": 1}'), _RIGHT)), Said("No idea.")],
    ][number % 10]


@dataclass(frozen=True)
class Episode:
    """One of the 20: what the model says, and what `step` answers.

    What is said after the end of an episode is not played. A last message without a call or an answer ends it without
    an answer, as agents of native calls have it.
    """

    number: int

    @property
    def sample_id(self) -> str:
        return f"sample-{self.number}"

    @property
    def turns(self) -> list[Said]:
        return _script(self.number)

    @cached_property
    def _played(self) -> tuple[list[tuple[str, list[np.ndarray]]], float, dict[str, Any]]:
        env = gymnasium.make(ENV_ID)
        observation, info = env.reset(options={"sample_id": self.sample_id})
        seen, total, is_over = [(observation["text"], list(observation["images"]))], 0.0, False
        said = [turn.written() for turn in self.turns]
        for turn in said if self.turns[-1].calls or "boxed" in said[-1] else [*said, NoTurn("length")]:
            if not is_over:
                observation, reward, terminated, truncated, info = env.step(turn)
                is_over, total = terminated or truncated, total + float(reward)
                seen.append((observation["text"], list(observation["images"])))
        return seen, total, info

    @property
    def seen(self) -> list[tuple[str, list[np.ndarray]]]:
        """Text and images of the question and of the reply to every message but the last."""
        return self._played[0][: len(self.turns)]

    @property
    def reward(self) -> float:
        """Of the whole episode."""
        return self._played[1]

    @property
    def info(self) -> dict[str, Any]:
        """The last one."""
        return self._played[2]


EPISODES: Sequence[Episode] = [Episode(number) for number in range(20)]


def equal_seen(first: Sequence[tuple[str, Sequence[Any]]], second: Sequence[tuple[str, Sequence[Any]]]) -> bool:
    """Whether two models saw the same texts and the same pixels."""
    return len(first) == len(second) and all(
        one == other and len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        for (one, a), (other, b) in zip(first, second, strict=True)
    )


def assert_no_leak(handed: Any) -> None:
    """Nothing that was handed to a model has a target, an evidence box or what is said about needed operations.

    Args:
        handed: anything that prints as text; leave out what the model itself wrote, or its answer is found.
    """
    # Images in base64 have every number in them.
    text = re.sub(r"[A-Za-z0-9+/]{256,}", "", handed if isinstance(handed, str) else repr(handed))
    words = ("evidence_box", "needs_operation", '"target"', "'target'", *ANSWERS)
    # Names that packages draw have digits, too.
    sides = [rf"(?<![\w.-]){side:.0f}(?![\w-])" for side in BOX]
    shown = [word for word in words if word in text]
    shown += [found[0] for side in sides if (found := re.search(side, text))]
    assert not shown, f"{shown} in what a model was handed: {text[max(0, text.find(shown[0]) - 100) :][:300]}"
