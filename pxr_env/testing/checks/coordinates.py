"""Checks of boxes and image numbers at their edges, in the declared coordinate frame, with `zoom_in`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import quote, show
from pxr_env.geometry import Box, Size
from pxr_env.media import MAX_ASPECT_RATIO
from pxr_env.testing.playing import base
from pxr_env.testing.report import NotApplicable
from pxr_env.testing.subject import TaskSubject
from pxr_env.testing.turns import written
from pxr_env.types import OperationCall
from pxr_env.views import View

#: Difference in source pixels between two ways to compute a box: floating point, no more.
TOLERANCE = 1e-6
#: How deep zooms are nested.
_DEPTH = 3
#: Arguments that name shown images.
_IMAGE_NUMBERS = ("target_image", "first_image", "second_image")


def boxes_reach_the_edges(subject: TaskSubject) -> Iterator[str]:
    """The whole image and the smallest box in each corner are cut where plain arithmetic says, with the pixels that
    Pillow cuts there.

    Elsewhere `[.5, .5, 1, 1]` was taken for pixels, since 1 is not below 1, and gave a scrap of another corner.
    """
    for env, sample_id in _zooming(subject):
        inner = base(env)
        for name, numbers in _edge_boxes(inner.views[0], inner).items():
            env.reset(options={"sample_id": sample_id})
            problem = _zoom_problem(env, numbers, 1)
            if problem:
                yield f'sample "{sample_id}", {name} {numbers} ({inner.frame.name}): {problem}'


def zooms_of_zooms_are_cut_once(subject: TaskSubject) -> Iterator[str]:
    """A zoom into a zoom into a zoom has the pixels that one cut of the source has, byte for byte.

    The expected pixels are made by Pillow alone, from the source and the box in `info["views"]`. An environment that
    cuts from what it showed, shrunk already, brings no detail back.
    """
    for env, sample_id in _zooming(subject):
        rng = subject.rng("zooms", sample_id)
        for _ in range(_DEPTH):
            inner = base(env)
            before = inner.views[-1]
            numbers = _box_inside(before, inner, rng)
            if numbers is None:
                break
            if _zoom(inner, numbers, before.index) is None:
                raise NotApplicable("the dialect cannot write a zoom into another image than the first.")
            problem = _zoom_problem(env, numbers, before.index)
            if problem:
                where = f'sample "{sample_id}", zoom {numbers} ({inner.frame.name})'
                yield f"{where} into view {before.index}: {problem}"
                break


def impossible_boxes_are_refused(subject: TaskSubject) -> Iterator[str]:
    """Boxes far beyond an edge, reversed, empty, of three or five numbers, NaN or infinite are answered by a text, and
    show nothing.

    What is clipped or exchanged silently teaches a model that any numbers will do.
    """
    for env, sample_id in _zooming(subject):
        inner = base(env)
        width, height = inner.frame.extent(inner.views[0].size)
        texts = {f"the box {box}": _zoom(inner, box, 1) for box in _impossible_boxes(width, height)}
        for word in ("NaN", "Infinity", "-Infinity", "1e999", "null", '"one"', "true", "[1]"):
            texts[f"a box with {word}"] = _zoom_with(inner, word)
        for name, text in texts.items():
            if text is not None:
                yield from _refusal_problems(env, text, f'sample "{sample_id}", {name} ({inner.frame.name})')


def image_numbers_count_from_one(subject: TaskSubject) -> Iterator[str]:
    """Image numbers 0, negative, fractional, or beyond the last image are answered by a text, by every operation.

    Elsewhere 0 and -1 mean the last image, since Python counts from the end.
    """
    env = subject.roomy()
    found = False
    for sample_id in subject.sample_ids:
        env.reset(options={"sample_id": sample_id})
        inner = base(env)
        rng = subject.rng("numbers", sample_id)
        for operation in inner.operations.values():
            for name in _IMAGE_NUMBERS:
                if name not in operation.parameters["properties"]:
                    continue
                call = subject.draw_call(inner, operation, rng)
                for number in (0, -1, len(inner.views) + 1, 10**30, 1.5, True, "one", None):
                    text = _rewritten(inner, call, {name: number})
                    if text is not None:
                        found = True
                        where = f'sample "{sample_id}", {operation.name} with {name} {show(number)}'
                        yield from _refusal_problems(env, text, where)
    if not found:
        raise NotApplicable("no operation takes the number of an image.")


def cut_with_pillow(source: Image.Image, box: Box, size: Size) -> np.ndarray:
    """Returns what an upright view shows, made with Pillow alone: means of whole blocks where the box allows it, else
    bicubic; uint8 HxWx3."""
    x1, y1, x2, y2 = box
    across, down = (x2 - x1) / size[0], (y2 - y1) / size[1]
    if all(number == int(number) for number in (*box, across, down)) and min(across, down) >= 1:
        whole = (int(x1), int(y1), int(x2), int(y2))
        return np.asarray(source.reduce((int(across), int(down)), box=whole))
    return np.asarray(source.resize(size, Image.Resampling.BICUBIC, box=box))


def _zooming(subject: TaskSubject) -> Iterator[tuple[gymnasium.Env[Any, Any], str]]:
    """Environments that have just begun an episode in which one may zoom."""
    for sample_id in subject.sample_ids:
        env = subject.roomy()
        if "zoom_in" not in base(env).operations:
            raise NotApplicable("zoom_in is no operation of this task.")
        env.reset(options={"sample_id": sample_id})
        if _zoom(base(env), list(base(env).frame.extent((1, 1)) * 2), 1) is None:
            raise NotApplicable("the dialect cannot write zoom_in.")
        yield env, sample_id


def _zoom_problem(env: gymnasium.Env[Any, Any], numbers: list[float], target: int) -> str | None:
    """Zooms, and says what is wrong with the result, or None."""
    inner = base(env)
    seen = inner.views[target - 1]
    text = _zoom(inner, numbers, target)
    assert text is not None
    observation, *_, info = env.step(text)
    if len(observation["images"]) != 1:
        return f'{len(observation["images"])} images and "{quote(observation["text"], 200)}" came; expected one image.'
    view = info["views"][-1]
    expected = _source_box(numbers, seen, inner)
    if view["source"] != seen.source or view.get("frame") != seen.frame:
        return f"source {view['source']} and frame {view.get('frame')} came; expected {seen.source} and {seen.frame}."
    if not np.allclose(view["box"], expected, rtol=0, atol=TOLERANCE * max(1, *map(abs, expected))):
        return f"the box {tuple(view['box'])} of the source came; expected {expected}."
    picture = inner.source_image(seen.source, seen.frame)
    pixels = cut_with_pillow(picture, tuple(view["box"]), tuple(view["size"]))
    if not np.array_equal(pixels, observation["images"][0]):
        return (
            f"the pixels differ from those of the box {tuple(view['box'])} of the source at {view['size']}; expected "
            "them byte for byte. Cut from the source, once."
        )
    return None


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
    across, down = (
        _round_up(limit / (high - low), env)
        for limit, low, high in ((width, view.box[0], view.box[2]), (height, view.box[1], view.box[3]))
    )
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
        [-x, 0, x, y],
        [0, -y, x, y],
        [0, 0, 2 * width, y],
        [0, 0, x, 2 * height],
        [x, 0, 0, y],
        [0, y, x, 0],
        [width, height, 0, 0],
        [x, 0, x, y],
        [0, y, x, y],
        [0, 0, x],
        [0, 0, x, y, y],
        [],
        [0, 0, 10**400, y],
        [-(10**30), 0, x, y],
    ]


def _zoom(env: VisualReasoningEnv, numbers: list[Any], target: int) -> str | None:
    return written(env, OperationCall(name="zoom_in", arguments={"bbox_2d": numbers, "target_image": target}))


def _zoom_with(env: VisualReasoningEnv, word: str) -> str | None:
    """A call whose first number is replaced in the text, since no JSON writer writes NaN; None if it is not there."""
    width, height = env.frame.extent(env.views[0].size)
    number = _as_written((0.3571 * width,), env)[0]
    text = _zoom(env, [number, 0, *_as_written((width, height), env)], 1)
    return text.replace(str(number), word, 1) if text is not None and text.count(str(number)) == 1 else None


def _rewritten(env: VisualReasoningEnv, call: OperationCall, changes: Mapping[str, Any]) -> str | None:
    return written(env, OperationCall(name=call.name, arguments={**call.arguments, **changes}))


def _refusal_problems(env: gymnasium.Env[Any, Any], text: str, where: str) -> Iterator[str]:
    observation, *_, info = env.step(text)
    if observation["images"]:
        yield f"{where}: {len(observation['images'])} images came; expected a text that says what is wrong. Refuse it."
        env.reset(options={"sample_id": info["sample_id"]})
    elif not observation["text"]:
        yield f"{where}: nothing came; expected a text that says what is wrong."
