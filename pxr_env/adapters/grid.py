"""A task for learners that know neither text nor tools: a box of pixels, and the cells of a grid to zoom into.

>>> import gymnasium
>>> env = GridZoom(gymnasium.make("pxr_env:pxr/SyntheticSearch-v0"), answers="ABCDEFGHIJKLMNOPQRSTUVWXYZ")
>>> env.action_space, env.observation_space.shape
(Discrete(35), (104, 168, 3))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from PIL import Image, ImageDraw

from pxr_env.env import VisualReasoningEnv
from pxr_env.media import ImageSource
from pxr_env.types import OperationCall

#: Height of the strip with the question, which is drawn as small letters.
_STRIP = 20


class GridZoom(gymnasium.Wrapper, RecordConstructorArgs):
    """Actions 0 to grid**2 - 1 zoom into a cell of image 1, row by row; those after them give an answer of the list.

    An observation is one picture, uint8 (size + 20)x(2 size)x3: the first image, the last zoom beside it (black before
    there is one), and the question as drawn letters below. Rewards, limits and refusals are those of the environment.
    What is lost: boxes of any place and size, zooms of zooms, every operation but zoom_in, all answers that are not in
    the list, all words that the environment says, and pixels, where a view is larger than `size`.

    Args:
        env: of a task with images, and `zoom_in` among its operations.
        answers: the answers to choose from.
        grid: cells along each side of the image.
        size: side of the two views in pixels.

    Raises:
        ValueError: there is no zoom_in, or no answer, or a sample begins with a video.
    """

    def __init__(self, env: gymnasium.Env, *, answers: Sequence[str], grid: int = 3, size: int = 84) -> None:
        RecordConstructorArgs.__init__(self, answers=list(answers), grid=grid, size=size)
        gymnasium.Wrapper.__init__(self, env)
        self._base = cast(VisualReasoningEnv, env.unwrapped)
        if "zoom_in" not in self._base.operations or not answers:
            raise ValueError(
                "got no zoom_in, or no answers; expected zoom_in among the operations of the task, and some."
            )
        self._answers = [self._base.dialect.render_answer(answer) for answer in answers]
        self.grid, self.size = grid, size
        self.action_space = spaces.Discrete(grid**2 + len(answers))
        self.observation_space = spaces.Box(0, 255, (size + _STRIP, 2 * size, 3), np.uint8)
        self._picture = Image.new("RGB", (2 * size, size + _STRIP))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment does it."""
        observation, info = self.env.reset(seed=seed, options=options)
        if not isinstance(self._base.sample.sources[0], ImageSource):
            raise ValueError(f'sample "{info["sample_id"]}" begins with a video; expected an image.')
        self._picture = Image.new("RGB", self._picture.size)
        ImageDraw.Draw(self._picture).text((2, self.size + 4), observation["text"], fill="white")
        self._paste(observation["images"], 0)
        return np.array(self._picture), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Zooms or answers; what comes back is the environment's own, but for the observation."""
        row, column = divmod(int(action), self.grid)
        turn = self._answers[int(action) - self.grid**2] if row >= self.grid else self._zoom(row, column)
        observation, reward, terminated, truncated, info = self.env.step(turn)
        self._paste(observation["images"], self.size)
        return np.array(self._picture), float(reward), terminated, truncated, info

    def _zoom(self, row: int, column: int) -> str:
        view = self._base.views[0]
        left, top, right, bottom = view.box
        width, height = (right - left) / self.grid, (bottom - top) / self.grid
        x, y = left + column * width, top + row * height
        box = self._base.frame.from_source((x, y, x + width, y + height), view)
        return self._base.dialect.render_call(
            OperationCall(name="zoom_in", arguments={"bbox_2d": box, "target_image": view.index})
        )

    def _paste(self, images: Sequence[np.ndarray], left: int) -> None:
        for image in images[:1]:
            self._picture.paste(Image.fromarray(image).resize((self.size, self.size)), (left, 0))
