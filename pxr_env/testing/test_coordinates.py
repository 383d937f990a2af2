"""Boxes and image numbers at their edges, in the declared coordinate frame, with `zoom_in`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import show
from pxr_env.media import MAX_ASPECT_RATIO
from pxr_env.testing.playing import Environment, base
from pxr_env.testing.subject import TaskSubject
from pxr_env.testing.turns import draw_call, written
from pxr_env.types import OperationCall
from pxr_env.views import Box, Size, View

#: Difference in source pixels between two ways to compute a box: floating point, no more.
TOLERANCE = 1e-6
#: How deep zooms are nested.
_DEPTH = 3
#: Arguments that name shown images.
_IMAGE_NUMBERS = ("target_image", "first_image", "second_image")


@pytest.fixture
def zooming(env: Environment) -> Environment:
    """An environment that has just begun an episode in which one may zoom."""
    if "zoom_in" not in base(env).operations:
        pytest.skip("zoom_in is no operation of this task.")
    if _zoom(base(env), list(base(env).frame.extent((1, 1)) * 2), 1) is None:
        pytest.skip("the dialect cannot write zoom_in.")
    return env


def test_boxes_reach_the_edges(zooming: Environment, sample_id: str) -> None:
    """The whole image and the smallest box in each corner are cut where plain arithmetic says, with the pixels that
    Pillow cuts there.

    Elsewhere `[.5, .5, 1, 1]` was taken for pixels, since 1 is not below 1, and gave a scrap of another corner.
    """
    inner = base(zooming)
    for name, numbers in _edge_boxes(inner.views[0], inner).items():
        zooming.reset(options={"sample_id": sample_id})
        _assert_zoom(zooming, numbers, 1, f"{name} {numbers} ({inner.frame.name})")


def test_zooms_of_zooms_are_cut_once(zooming: Environment, task: TaskSubject, sample_id: str) -> None:
    """A zoom into a zoom into a zoom has the pixels that one cut of the source has, byte for byte.

    The expected pixels are made by Pillow alone, from the source and the box in `info["views"]`. An environment that
    cuts from what it showed, shrunk already, brings no detail back.
    """
    rng, inner = task.rng("zooms", sample_id), base(zooming)
    for _ in range(_DEPTH):
        before = inner.views[-1]
        numbers = _box_inside(before, inner, rng)
        if numbers is None:
            break
        if _zoom(inner, numbers, before.index) is None:
            pytest.skip("the dialect cannot write a zoom into another image than the first.")
        _assert_zoom(zooming, numbers, before.index, f"zoom {numbers} ({inner.frame.name}) into view {before.index}")


def test_impossible_boxes_are_refused(zooming: Environment) -> None:
    """Boxes far beyond an edge, reversed, empty, of three or five numbers, NaN or infinite are answered by a text, and
    show nothing.

    What is clipped or exchanged silently teaches a model that any numbers will do.
    """
    inner = base(zooming)
    width, height = inner.frame.extent(inner.views[0].size)
    texts = {f"the box {box}": _zoom(inner, box, 1) for box in _impossible_boxes(width, height)}
    for word in ("NaN", "Infinity", "-Infinity", "1e999", "null", '"one"', "true", "[1]"):
        texts[f"a box with {word}"] = _zoom_with(inner, word)
    for name, text in texts.items():
        if text is not None:
            _assert_refused(zooming, text, f"{name} ({inner.frame.name})")


def test_image_numbers_count_from_one(env: Environment, task: TaskSubject, sample_id: str) -> None:
    """Image numbers 0, negative, fractional, or beyond the last image are answered by a text, by every operation.

    Elsewhere 0 and -1 mean the last image, since Python counts from the end.
    """
    inner, rng = base(env), task.rng("numbers", sample_id)
    pairs = [(operation, name) for operation in inner.operations.values() for name in _IMAGE_NUMBERS]
    taking = [(operation, name) for operation, name in pairs if name in operation.parameters["properties"]]
    if not taking:
        pytest.skip("no operation takes the number of an image.")
    for operation, name in taking:
        call = draw_call(inner, operation, rng)
        for number in (0, -1, len(inner.views) + 1, 10**30, 1.5, True, "one", None):
            text = written(inner, OperationCall(name=call.name, arguments={**call.arguments, name: number}))
            if text is not None:
                _assert_refused(env, text, f"{operation.name} with {name} {show(number)}")


def cut_with_pillow(source: Image.Image, box: Box, size: Size) -> np.ndarray:
    """Returns what an upright view shows, made with Pillow alone: means of whole blocks where the box allows it, else
    bicubic; uint8 HxWx3."""
    x1, y1, x2, y2 = box
    across, down = (x2 - x1) / size[0], (y2 - y1) / size[1]
    if all(number == int(number) for number in (*box, across, down)) and min(across, down) >= 1:
        whole = (int(x1), int(y1), int(x2), int(y2))
        return np.asarray(source.reduce((int(across), int(down)), box=whole))
    return np.asarray(source.resize(size, Image.Resampling.BICUBIC, box=box))


def _assert_zoom(env: Environment, numbers: list[float], target: int, where: str) -> None:
    """Zooms, and asserts that the result has the box and the pixels it should."""
    inner = base(env)
    seen = inner.views[target - 1]
    text = _zoom(inner, numbers, target)
    assert text is not None, f"{where}: the dialect cannot write it."
    observation, *_, info = env.step(text)
    assert len(observation["images"]) == 1, f"{where}: got {show(observation['text'], 200)}; expected one image."
    view = info["views"][-1]
    assert (view["source"], view.get("frame")) == (seen.source, seen.frame), where
    expected = _source_box(numbers, seen, inner)
    close = np.allclose(view["box"], expected, rtol=0, atol=TOLERANCE * max(1, *map(abs, expected)))
    assert close, f"{where}: got the box {tuple(view['box'])} of the source; expected {expected}."
    picture = inner.source_image(seen.source, seen.frame)
    pixels = cut_with_pillow(picture, tuple(view["box"]), tuple(view["size"]))
    same = np.array_equal(pixels, observation["images"][0])
    assert same, f"{where}: expected the pixels of this box of the source byte for byte. Cut from the source, once."


def _assert_refused(env: Environment, text: str, where: str) -> None:
    observation, *_ = env.step(text)
    n_images = len(observation["images"])
    assert not n_images, f"{where}: got {n_images} images; expected a text that says what is wrong. Refuse it."
    assert observation["text"], f"{where}: expected a text that says what is wrong."


def _source_box(numbers: Sequence[float], view: View, env: VisualReasoningEnv) -> tuple[float, ...]:
    """The box in source pixels that the numbers mean in an upright view, by the rule of three."""
    width, height = {"unit": (1, 1), "permille": (1000, 1000), "pixel": view.size}[env.frame.name]
    x1, y1, x2, y2 = view.box
    across, down = (x2 - x1) / width, (y2 - y1) / height
    left, top, right, bottom = numbers
    return x1 + left * across, y1 + top * down, x1 + right * across, y1 + bottom * down


def _edge_boxes(view: View, env: VisualReasoningEnv) -> dict[str, list[float]]:
    """The whole view, and in each corner the smallest box that holds a source pixel."""
    width, height = env.frame.extent(view.size)
    x1, y1, x2, y2 = view.box
    across, down = _round_up(width / (x2 - x1), env), _round_up(height / (y2 - y1), env)
    right, bottom = (round(value, env.frame.decimals) for value in (width - across, height - down))
    middle = (_round_up(width / 2, env), _round_up(height / 2, env))
    boxes = {
        "the whole image": (0, 0, width, height),
        "the upper left corner": (0, 0, across, down),
        "the upper right corner": (right, 0, width, down),
        "the lower left corner": (0, bottom, across, height),
        "the lower right corner": (right, bottom, width, height),
        "the lower right quarter": (*middle, width, height),
    }
    return {name: _as_written(box, env) for name, box in boxes.items() if _can_be_shown(box, view, env)}


def _round_up(number: float, env: VisualReasoningEnv) -> float:
    scale = 10**env.frame.decimals
    return math.ceil(number * scale) / scale


def _as_written(box: tuple[float, ...], env: VisualReasoningEnv) -> list[float]:
    return [round(float(number), env.frame.decimals) if env.frame.decimals else int(number) for number in box]


def _box_inside(view: View, env: VisualReasoningEnv, rng: np.random.Generator) -> list[float] | None:
    """A box of about two thirds of a view, or None if that cannot be shown."""
    width, height = env.frame.extent(view.size)
    left, top = rng.uniform(0, 0.3, 2)
    right, bottom = rng.uniform(0.7, 1, 2)
    box = _as_written((left * width, top * height, right * width, bottom * height), env)
    return box if _can_be_shown(box, view, env) else None


def _can_be_shown(box: Sequence[float], view: View, env: VisualReasoningEnv) -> bool:
    """Whether a box of a view is neither less than a source pixel nor too narrow, with room for rounding."""
    x1, y1, x2, y2 = _source_box(box, view, env)
    across, down = x2 - x1, y2 - y1
    return min(across, down) >= 1 and max(across, down) <= 0.9 * MAX_ASPECT_RATIO * min(across, down)


def _impossible_boxes(width: float, height: float) -> list[list[Any]]:
    x, y = width / 2, height / 2
    return [
        *([-x, 0, x, y], [0, -y, x, y], [0, 0, 2 * width, y], [0, 0, x, 2 * height]),  # beyond an edge
        *([x, 0, 0, y], [0, y, x, 0], [width, height, 0, 0], [x, 0, x, y], [0, y, x, y]),  # reversed, empty
        *([0, 0, x], [0, 0, x, y, y], []),  # other than four numbers
        *([0, 0, 10**400, y], [-(10**30), 0, x, y]),  # huge
    ]


def _zoom(env: VisualReasoningEnv, numbers: list[Any], target: int) -> str | None:
    return written(env, OperationCall(name="zoom_in", arguments={"bbox_2d": numbers, "target_image": target}))


def _zoom_with(env: VisualReasoningEnv, word: str) -> str | None:
    """A call whose first number is replaced in the text, since no JSON writer writes NaN; None if it is not there."""
    width, height = env.frame.extent(env.views[0].size)
    number = _as_written((0.3571 * width,), env)[0]
    text = _zoom(env, [number, 0, *_as_written((width, height), env)], 1)
    return text.replace(str(number), word, 1) if text is not None and text.count(str(number)) == 1 else None
