"""What is shown instead: sizes, places and colours, for zooms, frames and comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.replay import INTERVENTIONS, Changed, shifted
from eval.runner import CannotBeAsked
from pxr_env.media import ImageSource
from pxr_env.types import Sample
from pxr_env.views import Region, overlap
from tests.eval import striped


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return striped.write_data(tmp_path_factory.mktemp("interventions") / "data", 1)


def played(data: Path, kind: str, turn: str, **arguments: Any) -> tuple[Any, Any]:
    """The first observation, and the one after a turn."""
    operation = arguments.pop("operation", None)
    env = gymnasium.make(striped.ENV_ID, **{**striped.ENV_ARGS, "data": str(data), **arguments})
    changed = Changed(env, kind=kind, operation=operation)
    first, _ = changed.reset(options={"sample_id": "0"})
    after, *_ = changed.step(turn)
    return first, after


LOOK = striped.zoom((0, 0, 56, 56))


@pytest.mark.parametrize("kind", INTERVENTIONS)
def test_sizes_and_texts_stay_and_the_first_view_is_true(data: Path, kind: str) -> None:
    true_first, true_after = played(data, "control", LOOK)
    first, after = played(data, kind, LOOK)
    assert np.array_equal(first["images"][0], true_first["images"][0])
    assert after["text"] == true_after["text"]
    assert [image.shape for image in after["images"]] == [image.shape for image in true_after["images"]]
    assert after["images"][0].dtype == np.uint8
    assert np.array_equal(after["images"][0], true_after["images"][0]) == (kind == "control")


def test_blank_is_the_mean_of_what_the_question_showed(data: Path) -> None:
    first, after = played(data, "blank", LOOK)
    mean = first["images"][0].reshape(-1, 3).mean(axis=0)
    assert np.abs(after["images"][0].reshape(-1, 3) - mean).max() <= 0.5
    assert (after["images"][0] == after["images"][0][0, 0]).all()


def test_unzoomed_is_the_first_view_at_the_size_of_the_zoom(data: Path) -> None:
    first, after = played(data, "unzoomed", LOOK)
    height, width = after["images"][0].shape[:2]
    expected = Image.fromarray(first["images"][0]).resize((width, height), Image.Resampling.BICUBIC)
    assert np.array_equal(after["images"][0], np.asarray(expected))
    assert striped.read_stripes(after["images"][0]) == "unsure"


def test_shift_shows_another_part_at_the_same_size(data: Path) -> None:
    _, after = played(data, "shift", LOOK)
    # All but the square is grey.
    assert (after["images"][0] == 128).all()


def test_only_views_of_the_named_operation_change(data: Path) -> None:
    flip = '{"name": "flip", "arguments": {"target_image": 1, "direction": "vertical"}}'
    turn = f"{LOOK}\n<tool_call>{flip}</tool_call>"
    arguments = {"operations": ["zoom_in", "flip"]}
    _, true_after = played(data, "control", turn, **arguments)
    _, after = played(data, "blank", turn, operation="zoom_in", **arguments)
    same = [np.array_equal(now, then) for now, then in zip(after["images"], true_after["images"], strict=True)]
    assert same == [False, True]


def test_an_unknown_intervention_is_refused(data: Path) -> None:
    with pytest.raises(ValueError, match="intervention 'blur', expected one of control, blank, shift, unzoomed"):
        played(data, "blur", LOOK)


sides = st.integers(20, 400)


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.data())
def test_a_shifted_box_has_the_same_size_and_shows_nothing_of_the_evidence(
    width: int, height: int, draw: st.DataObject
) -> None:
    def box() -> tuple[float, float, float, float]:
        x1, y1 = draw.draw(st.integers(0, width - 2)), draw.draw(st.integers(0, height - 2))
        return (x1, y1, draw.draw(st.integers(x1 + 1, width)), draw.draw(st.integers(y1 + 1, height)))

    shown, evidence = box(), draw.draw(st.one_of(st.none(), st.just(box())))
    source = ImageSource(image=Image.new("RGB", (width, height)))
    sample = Sample(sample_id="s", question="?", sources=(source,), answers=("a",), evidence_box=evidence)
    region = Region.from_box(1, shown)
    try:
        moved = shifted(region, sample, np.random.default_rng(0))
    except CannotBeAsked:
        return
    x1, y1, x2, y2 = moved.box
    assert (x2 - x1, y2 - y1) == pytest.approx((shown[2] - shown[0], shown[3] - shown[1]))
    assert 0 <= x1 <= x2 <= width
    assert 0 <= y1 <= y2 <= height
    assert moved.box != shown
    assert overlap(moved.box, evidence if evidence is not None else shown) is None
    assert moved == shifted(region, sample, np.random.default_rng(0))


def test_a_whole_picture_cannot_be_shifted() -> None:
    sample = Sample(
        sample_id="s", question="?", sources=(ImageSource(image=Image.new("RGB", (64, 64))),), answers=("a",)
    )
    with pytest.raises(CannotBeAsked, match="no other place"):
        shifted(Region.from_box(1, (0, 0, 64, 64)), sample, np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["blank", "shift", "unzoomed"])
def test_frames_of_a_video_become_other_frames(kind: str) -> None:
    env = gymnasium.make("pxr_env:pxr/SyntheticVideo-v0", split="test", operations=["select_frames"])
    base: Any = env.unwrapped
    sample_id = base.data.sample_ids()[0]
    changed = Changed(env, kind=kind)
    first, _ = changed.reset(options={"sample_id": sample_id})
    numbers = [2, 3]
    turn = f'<tool_call>{{"name": "select_frames", "arguments": {{"target_frames": {numbers}}}}}</tool_call>'
    after, _, _, _, info = changed.step(turn)
    assert info["usage"] == {"select_frames": 1}, after["text"]
    assert len(after["images"]) == 2
    for number, image in zip(numbers, after["images"], strict=True):
        view = info["views"][len(first["images"]) + numbers.index(number)]
        assert image.shape == (view["size"][1], view["size"][0], 3)
        if kind == "unzoomed":
            size = image.shape[1], image.shape[0]
            expected = Image.fromarray(first["images"][number - 1]).resize(size, Image.Resampling.BICUBIC)
            assert np.array_equal(image, np.asarray(expected))
