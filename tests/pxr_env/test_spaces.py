"""The spaces alone: membership, sampling, equality, JSON."""

import copy
import itertools
import json

import numpy as np
import pytest
from gymnasium.spaces import Text, Tuple
from gymnasium.vector.utils import batch_differing_spaces, batch_space, concatenate, create_empty_array, iterate

from pxr_env.coordinates import FRAMES, get_frame
from pxr_env.dialects import get_dialect
from pxr_env.operations import get_operation, operation_names, read_arguments
from pxr_env.spaces import ImagesSpace, TextSpace, TurnSpace
from pxr_env.types import OperationCall

SPACES = [TextSpace(), ImagesSpace(), TurnSpace(), TurnSpace(coordinates="pixel", dialect="pixel-reasoner")]


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_samples_belong_to_the_space_and_are_seeded(space):
    space = copy.deepcopy(space)
    space.seed(3)
    first = [space.sample() for _ in range(20)]
    space.seed(3)
    again = [space.sample() for _ in range(20)]
    assert all(sample in space for sample in first)
    assert space.to_jsonable(first) == space.to_jsonable(again)
    assert len({json.dumps(item) for item in space.to_jsonable(first)}) > 5


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_json_and_back(space):
    samples = [space.sample() for _ in range(3)]
    back = space.from_jsonable(json.loads(json.dumps(space.to_jsonable(samples))))
    for one, other in zip(samples, back, strict=True):
        assert type(one) is type(other)
        assert np.array_equal(one, other) if isinstance(one, str) else all(map(np.array_equal, one, other))
        assert other in space


def test_what_texts_and_images_are():
    for text in ("", "<tool_call>\n", "左上", "\ud800", "x" * 10**6):
        assert text in TextSpace()
        assert text in TurnSpace()
    for no_text in (None, b"x", 3, ["x"]):
        assert no_text not in TextSpace()
        assert no_text not in TurnSpace()
    image = np.zeros((2, 3, 3), np.uint8)
    for images in ((), (image,), (image, np.zeros((28, 56, 3), np.uint8))):
        assert images in ImagesSpace()
    of_no_size = np.zeros((0, 3, 3), np.uint8)
    for wrong in ([image], image, (image.astype(float),), (image[..., :2],), (image[0],), (of_no_size,)):
        assert wrong not in ImagesSpace()


def test_equality():
    assert TextSpace() == TextSpace(seed=1)
    assert ImagesSpace() == ImagesSpace()
    assert TurnSpace() == TurnSpace(coordinates="pixel", dialect="tags", operations=(), size_multiple=32)
    assert repr(eval(repr(TurnSpace(coordinates="permille")))) == repr(TurnSpace(coordinates="permille"))
    for one, other in itertools.combinations((TextSpace(), ImagesSpace(), TurnSpace(), Text(10)), 2):
        assert one != other


@pytest.mark.parametrize("frame", sorted(FRAMES))
def test_sampled_turns_are_valid(frame):
    """About half are calls zoom_in would take on an image of at least one token; the others are answers."""
    space = TurnSpace(coordinates=frame, seed=0)
    parsed = [get_dialect("hermes", get_frame(frame)).parse(space.sample()) for _ in range(100)]
    calls = [turn.calls[0] for turn in parsed if turn.calls]
    assert 30 < len(calls) < 70
    assert all(len(turn.calls) + len(turn.answers) == 1 and not turn.mistakes for turn in parsed)
    for call in calls:
        assert isinstance(call, OperationCall)
        x1, y1, x2, y2 = call.arguments["bbox_2d"]
        width, height = get_frame(frame).extent((28, 28))
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert call.arguments["target_image"] == 1
        assert call.name == get_operation("zoom_in").name
    every = TurnSpace(coordinates=frame, operations=operation_names(), seed=0)
    parsed = [get_dialect("hermes", get_frame(frame)).parse(every.sample()) for _ in range(300)]
    assert {turn.calls[0].name for turn in parsed if turn.calls} == set(operation_names())
    for call in (turn.calls[0] for turn in parsed if turn.calls):
        read_arguments(call.arguments, get_operation(call.name).parameters, "arguments")
    without = TurnSpace(operations=(), seed=0)
    assert not any("<tool_call>" in without.sample() for _ in range(50))


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_gymnasium_batches_the_spaces(space):
    batch = batch_space(space, 3)
    samples = [space.sample() for _ in range(3)]
    joined = concatenate(space, samples, create_empty_array(space, 3))
    assert joined == tuple(samples)
    assert joined in batch
    assert list(iterate(batch, joined)) == samples
    batch.seed(0)
    assert len({repr(item) for item in batch.sample()}) > 1  # the copies draw differently
    different = batch_differing_spaces([copy.deepcopy(space), copy.deepcopy(space)])
    assert different == Tuple((space, space))
