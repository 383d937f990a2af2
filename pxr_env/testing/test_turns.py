"""What models write is executed within the limits, or answered readably and counted apart: any turn, and any box."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from PIL import Image

from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import quote, show
from pxr_env.media import MAX_ASPECT_RATIO
from pxr_env.operations.registry import WORDS
from pxr_env.testing.playing import (
    Environment,
    Playthrough,
    TaskSubject,
    base,
    draw_call,
    drawn_turns,
    play,
    written,
)
from pxr_env.types import Mistake, OperationCall, Sample, Turn
from pxr_env.views import Box, Size, View

#: A text longer than this, in characters, is none that a model reads: it fills its context.
READABLE = 1000
#: Calls of a turn in which a model repeats itself, and characters of the reply to all of them.
MANY_CALLS, LONGEST_REPLY = 200, 8000
#: Drawn calls of each operation, for each sample.
DRAWS = 8
#: How deep zooms are nested.
DEPTH = 3
#: Difference in source pixels between two ways to compute a box: floating point, no more.
TOLERANCE = 1e-6
#: Arguments that name shown images.
IMAGE_NUMBERS = ("target_image", "first_image", "second_image")
#: What stands around a call -> the turn.
SURROUNDED = {
    "nothing": "{call}",
    "a line break after it": "{call}\n",
    "blanks around it": "  \n{call} \t\n\n",
    "prose before it": "I look closer, at about (3, 4):\n{call}",
    "prose after it": "{call}\nThis should show it.",
    "Chinese around it": "我再看一下。{call}好的。",
    "braces and quotes before it": "A set {{1, 2}} and a \"quote\" and 'another'.\n{call}",
    "a smaller-than sign before it": "Since 3 < 4 and 5 > 2, {call}",
}


def test_malformed_turns_are_answered(malformed: list[tuple[str, Playthrough]]) -> None:
    """Turns that cannot be read get a short text and no image, end nothing and raise nothing."""
    for where, episode in malformed:
        after = episode.last
        assert not episode.error, f"{where}: {episode.error}"
        ended = after.ended or after.reward
        assert not ended, f"{where}: expected no end and no reward. Answer with a text."
        assert not after.images, f"{where}: got {len(after.images)} images; expected a text only."
        assert_readable(after.text, where)


def test_failures_are_no_usage(malformed: list[tuple[str, Playthrough]]) -> None:
    """A turn that cannot be read adds to `failures`, and nothing to `usage`."""
    for where, episode in malformed:
        if episode.error:
            continue
        before, after = episode.steps
        assert after.count("usage") == before.count("usage"), f'{where}: got usage. Count it under "failures".'
        assert after.count("failures") > before.count("failures"), f"{where}: no failure was counted; expected one."
        assert len(after.info["views"]) == len(before.info["views"]), f"{where}: expected as many views as before."


def test_prose_around_a_call_is_ignored(env: Environment, sample_id: str, call: str) -> None:
    """A call is executed with prose, line breaks, braces or Chinese around it."""
    for name, around in SURROUNDED.items():
        env.reset(options={"sample_id": sample_id})
        observation, *_, info = env.step(around.format(call=call))
        got = f"a call with {name}: got {show(observation['text'], 200)}"
        n_executed = sum(info["usage"].values())
        assert n_executed == 1, f"{got}; expected the call to be executed. Search for it in the text."


def test_many_calls_get_a_short_reply(env: Environment, task: TaskSubject, sample_id: str) -> None:
    """A turn of 200 calls, or of 200 halves of one, is answered in at most 8,000 characters."""
    for operation in base(env).operations.values():
        text = written(base(env), draw_call(base(env), operation, task.rng("many", sample_id)))
        if text is None:
            continue
        for name, turn in {"calls": f"{text}\n", "halves of a call": text[: len(text) // 2]}.items():
            env.reset(options={"sample_id": sample_id})
            observation, *_ = env.step(turn * MANY_CALLS)
            length = len(observation["text"])
            got = f"{MANY_CALLS} {name} of {operation.name}: got a text of {length} characters"
            assert length <= LONGEST_REPLY, f"{got}; expected at most {LONGEST_REPLY}. Refuse the rest in one line."


def test_the_end_is_final(env: Environment, sample: Sample) -> None:
    """An answer terminates the episode with no further observation, and a turn after the end raises `ResetNeeded`."""
    turn = base(env).dialect.render_answer(sample.answers[0])
    observation, _, terminated, truncated, _ = env.step(f"I am sure now. {turn}")
    assert (terminated, truncated) == (True, False), "expected that an answer terminates. Read the answer."
    assert not observation["images"], "expected no images for an answer."
    with pytest.raises(ResetNeeded):
        env.step(turn)


def test_drawn_calls_are_executed_or_refused(env: Environment, task: TaskSubject, sample_id: str) -> None:
    """Every call whose arguments satisfy the schema of its operation either shows images and counts as usage, or is
    answered by a text and counts as a failure.
    """
    turns = drawn_turns(base(env), DRAWS, task.rng("drawn", sample_id))
    recording = play(env, turns, sample_id=sample_id)
    if recording.error:
        pytest.fail(f"{show(turns[len(recording.turns)], 200)}: {recording.error}")
    for before, step in itertools.pairwise(recording.steps):
        executed, failed = (step.count(name) - before.count(name) for name in ("usage", "failures"))
        one = (executed, failed) in ((1, 0), (0, 1))
        assert one, f"{step.where}: {executed} executed and {failed} failed; expected one of both."
        if failed:
            assert not step.images, f"{step.where}: expected no images of a refused call."
            assert_readable(step.text, step.where)
        else:
            assert step.images, f"{step.where}: expected images. Raise OperationError where nothing is shown."


def test_repeated_calls_are_counted(env: Environment, sample_id: str, call: str) -> None:
    """A call that was executed before is counted in `duplicates`, and refused with the number of its image unless the
    task executes it again.
    """
    counts = [step.info["duplicates"] for step in play(env, [call, call], sample_id=sample_id).steps]
    assert counts == [0, 0, 1], "expected in duplicates the second of two equal calls."


def test_calls_survive_the_dialect(env: Environment, task: TaskSubject, sample_id: str) -> None:
    """What the dialect writes it reads again: drawn calls of every operation, with prose around them."""
    rng, dialect = task.rng("dialect", sample_id), base(env).dialect
    for operation in [*base(env).operations.values()] * DRAWS:
        drawn = draw_call(base(env), operation, rng)
        text = written(base(env), drawn)
        if text is not None:
            turn = dialect.parse(f"I look closer.\n{text}\n")
            read = [(call.name, dict(call.arguments)) for call in turn.calls if isinstance(call, OperationCall)]
            same = read == [(drawn.name, dict(drawn.arguments))] and not turn.answers and not turn.mistakes
            arguments = show(dict(drawn.arguments), 200)
            assert same, f"{show(text, 200)} was read as {_describe(turn)}; expected a call with {arguments}."


def test_answers_survive_the_dialect(plain: Environment, sample: Sample) -> None:
    """The accepted answers of the samples, and answers with signs of their own, are read as they were written."""
    dialect = base(plain).dialect
    for answer in (*sample.answers, *WORDS):
        try:
            text = dialect.render_answer(answer)
        except ValueError:
            if answer in sample.answers:
                raise
            continue
        turn = dialect.parse(text)
        got = f'the answer "{quote(answer)}" was read as {_describe(turn)}'
        assert turn == Turn(answers=(answer,)), f"{got}; expected itself, or ValueError."


def _describe(turn: Turn) -> str:
    calls = [f"the call {show([c.name, dict(c.arguments)], 200)}" for c in turn.calls if isinstance(c, OperationCall)]
    mistakes = [part for part in (*turn.calls, *turn.mistakes) if isinstance(part, Mistake)]
    parts = [*calls, *(f"the answer {show(answer)}" for answer in turn.answers)]
    return " and ".join([*parts, *(f"the mistake {show(one.message, 200)}" for one in mistakes)]) or "nothing"


def test_max_turns_truncates(silent: Playthrough, plain: Environment) -> None:
    """An episode without an answer is truncated, not terminated, with its turn number `max_turns`, and `truncated_by`
    says so.
    """
    last, limit = silent.last, base(plain).limits.max_turns
    end = (len(silent.turns), last.terminated, last.truncated)
    assert end == (limit, False, True), "expected after max_turns turns terminated=False and truncated=True."
    assert last.info.get("truncated_by") == "max_turns"


@pytest.mark.parametrize("limit", ["max_operations", "max_images"])
def test_operations_stop_at_their_limit(task: TaskSubject, sample_id: str, executed: list[str], limit: str) -> None:
    """Beyond `max_operations` and `max_images` no operation is executed: it is answered by a text and shows nothing, or
    ends the episode where the task says so.
    """
    if len(executed) < 2:
        pytest.skip("found no 2 calls that are executed.")
    env = task.roomy()
    inner = base(env)
    trial = play(env, executed[:1], sample_id=sample_id)
    # Room for the first call and no further one.
    most = 1 if limit == "max_operations" else sum(len(step.images) for step in trial.steps)
    inner.limits = dataclasses.replace(inner.limits, **{limit: most})
    last = play(env, executed, sample_id=sample_id).last
    where = f"the second call with {limit}={most}"
    got = f"{where}: got {last.count('usage')} operations and {len(last.images)} images"
    assert (last.count("usage"), len(last.images)) == (1, 0), f"{got}; expected 1 and none."
    if last.truncated:
        assert last.info.get("truncated_by") == limit, where
    assert_readable(last.text, where)


def assert_readable(text: str, where: str) -> None:
    """Asserts that a reply is one that a model can use."""
    assert text.strip(), f"{where}: got an empty text; expected what was got, what was expected and what to do."
    message = f"{where}: got a text of {len(text)} characters; expected at most {READABLE}. Quote only its beginning."
    assert len(text) <= READABLE, message
    programmers = "Traceback (most recent call last)" in text or " object at 0x" in text
    assert not programmers, f"{where}: got {show(text, 200)}; expected words for the model, not for a programmer."


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
    """
    inner = base(zooming)
    for name, numbers in _edge_boxes(inner.views[0], inner).items():
        zooming.reset(options={"sample_id": sample_id})
        _assert_zoom(zooming, numbers, 1, f"{name} {numbers} ({inner.frame.name})")


def test_zooms_of_zooms_are_cut_once(zooming: Environment, task: TaskSubject, sample_id: str) -> None:
    """A zoom into a zoom into a zoom has the pixels that one cut of the source has, byte for byte."""
    rng, inner = task.rng("zooms", sample_id), base(zooming)
    for _ in range(DEPTH):
        before = inner.views[-1]
        corners = [*rng.uniform(0, 0.3, 2), *rng.uniform(0.7, 1, 2)]
        numbers = _as_written(np.multiply(corners, inner.frame.extent(before.size) * 2).tolist(), inner)
        if not _can_be_shown(numbers, before, inner):
            break
        if _zoom(inner, numbers, before.index) is None:
            pytest.skip("the dialect cannot write a zoom into another image than the first.")
        _assert_zoom(zooming, numbers, before.index, f"zoom {numbers} ({inner.frame.name}) into view {before.index}")


def test_impossible_boxes_are_refused(zooming: Environment) -> None:
    """Boxes far beyond an edge, reversed, empty, of three or five numbers, NaN or infinite are answered by a text, and
    show nothing.
    """
    inner = base(zooming)
    width, height = inner.frame.extent(inner.views[0].size)
    x, y = width / 2, height / 2
    boxes: list[list[Any]] = [
        *([-x, 0, x, y], [0, -y, x, y], [0, 0, 2 * width, y], [0, 0, x, 2 * height]),  # beyond an edge
        *([x, 0, 0, y], [0, y, x, 0], [width, height, 0, 0], [x, 0, x, y], [0, y, x, y]),  # reversed, empty
        *([0, 0, x], [0, 0, x, y, y], []),  # other than four numbers
        *([0, 0, 10**400, y], [-(10**30), 0, x, y]),  # huge
    ]
    texts = {f"the box {box}": _zoom(inner, box, 1) for box in boxes}
    # Put in the place of a number in the text, since no JSON writer writes NaN; where it is found there once.
    number = _as_written((0.3571 * width,), inner)[0]
    text = _zoom(inner, [number, 0, *_as_written((width, height), inner)], 1) or ""
    if text.count(str(number)) == 1:
        for word in ("NaN", "Infinity", "-Infinity", "1e999", "null", '"one"', "true", "[1]"):
            texts[f"a box with {word}"] = text.replace(str(number), word, 1)
    for name, turn in texts.items():
        _assert_refused(zooming, turn, f"{name} ({inner.frame.name})")


def test_image_numbers_count_from_one(env: Environment, task: TaskSubject, sample_id: str) -> None:
    """Image numbers 0, negative, fractional, or beyond the last image are answered by a text, by every operation."""
    inner, rng = base(env), task.rng("numbers", sample_id)
    pairs = [(operation, name) for operation in inner.operations.values() for name in IMAGE_NUMBERS]
    taking = [(operation, name) for operation, name in pairs if name in operation.parameters["properties"]]
    if not taking:
        pytest.skip("no operation takes the number of an image.")
    for operation, name in taking:
        call = draw_call(inner, operation, rng)
        for number in (0, -1, len(inner.views) + 1, 10**30, 1.5, True, "one", None):
            text = written(inner, call, **{name: number})
            _assert_refused(env, text, f"{operation.name} with {name} {show(number)}")


def _assert_refused(env: Environment, text: str | None, where: str) -> None:
    """Asserts that a turn is answered by a text alone; None is one that the dialect cannot write."""
    if text is None:
        return
    observation, *_ = env.step(text)
    n_images = len(observation["images"])
    assert not n_images, f"{where}: got {n_images} images; expected a text that says what is wrong. Refuse it."
    assert observation["text"], f"{where}: expected a text that says what is wrong."


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
    pixels = _cut_with_pillow(picture, tuple(view["box"]), tuple(view["size"]))
    same = np.array_equal(pixels, observation["images"][0])
    assert same, f"{where}: expected the pixels of this box of the source byte for byte. Cut from the source, once."


def _zoom(env: VisualReasoningEnv, numbers: list[Any], target: int) -> str | None:
    return written(env, OperationCall(name="zoom_in", arguments={"bbox_2d": numbers, "target_image": target}))


def _cut_with_pillow(source: Image.Image, box: Box, size: Size) -> np.ndarray:
    """What an upright view shows: means of whole blocks where the box allows it, else bicubic."""
    x1, y1, x2, y2 = box
    across, down = (x2 - x1) / size[0], (y2 - y1) / size[1]
    if all(number == int(number) for number in (*box, across, down)) and min(across, down) >= 1:
        whole = (int(x1), int(y1), int(x2), int(y2))
        return np.asarray(source.reduce((int(across), int(down)), box=whole))
    return np.asarray(source.resize(size, Image.Resampling.BICUBIC, box=box))


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
    scale = 10**env.frame.decimals
    numbers = width / (x2 - x1), height / (y2 - y1), width / 2, height / 2
    across, down, *middle = (math.ceil(number * scale) / scale for number in numbers)
    right, bottom = width - across, height - down
    boxes = {
        "the whole image": (0, 0, width, height),
        "the upper left corner": (0, 0, across, down),
        "the upper right corner": (right, 0, width, down),
        "the lower left corner": (0, bottom, across, height),
        "the lower right corner": (right, bottom, width, height),
        "the lower right quarter": (*middle, width, height),
    }
    as_written = {name: _as_written(box, env) for name, box in boxes.items()}
    return {name: box for name, box in as_written.items() if _can_be_shown(box, view, env)}


def _as_written(box: Sequence[float], env: VisualReasoningEnv) -> list[float]:
    return [round(float(number), env.frame.decimals) if env.frame.decimals else round(number) for number in box]


def _can_be_shown(box: Sequence[float], view: View, env: VisualReasoningEnv) -> bool:
    """Whether a box of a view is neither less than a source pixel nor too narrow, with room for rounding."""
    x1, y1, x2, y2 = _source_box(box, view, env)
    across, down = x2 - x1, y2 - y1
    return min(across, down) >= 1 and max(across, down) <= 0.9 * MAX_ASPECT_RATIO * min(across, down)
