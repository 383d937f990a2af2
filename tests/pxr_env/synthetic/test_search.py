"""Scenes: geometry, certification, reproducibility."""

import functools
import itertools

import numpy as np
import pytest

from pxr_env.media import ImageSource, cut
from pxr_env.synthetic import COLOURS, LETTERS, SyntheticSearch, cell_box, scenes


@functools.cache
def samples(split="train", n=150):
    data = SyntheticSearch(split=split)
    return [data.get(f"{split}-{index}") for index in range(n)]


def overview(pixels):
    """The exact 4x area mean, rounded half up, by plain arithmetic."""
    side = pixels.shape[0] // 4
    sums = pixels.astype(np.int64).reshape(side, 4, side, 4, 3).sum(axis=(1, 3))
    return (sums + 8) // 16


def test_geometry():
    for sample in samples():
        boxes = sample.metadata["boxes"]
        assert sample.sources[0].size == (336, 336)
        assert len(boxes) == 3
        assert sample.metadata["cell_size"] == 112
        assert sample.evidence_box == boxes[0]["box"]
        assert sample.answers == (boxes[0]["letter"],)
        assert sample.question == f"What letter is in the {boxes[0]['colour']} box?"
        assert sorted(box["colour"] for box in boxes) == sorted(COLOURS)
        assert len({box["cell"] for box in boxes}) == 3
        pixels = np.asarray(sample.sources[0].image)
        for box in boxes:
            x1, y1, x2, y2 = box["box"]
            left, top, right, bottom = cell_box(sample, box["cell"])
            assert left <= x1 < x2 <= right
            assert top <= y1 < y2 <= bottom
            assert x1 % 56 == y1 % 56 == 0  # the patch grid: 14 pixels of the overview
            assert (x2 - x1, y2 - y1) == (56, 72)
            corners = pixels[[y1, y1, y2 - 1, y2 - 1], [x1, x2 - 1, x1, x2 - 1]]
            assert np.all(corners == COLOURS[box["colour"]])


def test_hard_letters_cannot_be_seen_at_first_sight():
    """Whatever letter is drawn, the first view has the same bytes; after a zoom all letters differ."""
    hard = [sample for sample in samples() if sample.metadata["boxes"][0]["hard"]]
    assert len(hard) > 50
    for sample in hard[:20]:
        original = np.asarray(sample.sources[0].image)
        x1, y1, x2, y2 = sample.metadata["boxes"][0]["box"]
        colour = sample.metadata["boxes"][0]["colour"]
        views, zooms = [], []
        for letter in LETTERS:
            ink, paint = scenes.draw_letter(letter, COLOURS[colour], hard=True, pixel=8, reduction=4)
            pixels = original.copy()
            pixels[y1:y2, x1:x2] = original[y1, x1]
            pixels[y1 + 8 : y1 + 64, x1 + 8 : x1 + 48][ink] = paint
            views.append(cut(ImageSource(image=pixels), (0, 0, 336, 336), (84, 84)))
            zooms.append(cut(ImageSource(image=pixels), (x1, y1, x2, y2), (84, 84)).astype(int))
            if letter == sample.answers[0]:
                assert np.array_equal(pixels, original)
        assert all(np.array_equal(view, views[0]) for view in views)
        assert np.array_equal(views[0], overview(original))
        for first, second in itertools.combinations(zooms, 2):
            assert np.abs(first - second).max() > 60


def test_needs_operation_is_what_the_bytes_say():
    for sample in samples():
        image = sample.sources[0].image
        blank = image.copy()
        x1, y1, _, _ = box = sample.metadata["boxes"][0]["box"]
        blank.paste(image.getpixel((x1, y1)), box)
        same = np.array_equal(overview(np.asarray(image)), overview(np.asarray(blank)))
        assert sample.needs_operation is same
        assert sample.needs_operation is sample.metadata["boxes"][0]["hard"]
        assert sample.category == ("hard" if same else "easy")


def test_easy_letters_are_dark_in_the_overview():
    for sample in samples():
        target = sample.metadata["boxes"][0]
        if not target["hard"]:
            x1, y1, x2, y2 = (value // 4 for value in target["box"])
            view = overview(np.asarray(sample.sources[0].image))[y1:y2, x1:x2]
            glyph = scenes.GLYPHS[target["letter"]].repeat(2, 0).repeat(2, 1)
            assert np.array_equal(np.all(view[2:-2, 2:-2] == 15, axis=2), glyph)


def test_shares_of_hard_letters_and_of_the_frequent_letter():
    data = SyntheticSearch(hard_fraction=0.5, letter_prior=0.3)
    placed = [data._place_boxes(np.random.default_rng(seed)) for seed in range(4000)]
    targets = [boxes[0] for boxes in placed]
    assert np.mean([box.hard for box in targets]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([box.hard for boxes in placed for box in boxes[1:]]) == pytest.approx(0.5, abs=0.03)
    # 0.3 + 0.7 / 6 of the hard targets are T, 1/6 of all others.
    assert np.mean([box.letter == "T" for box in targets if box.hard]) == pytest.approx(0.4167, abs=0.04)
    assert np.mean([box.letter == "T" for box in targets if not box.hard]) == pytest.approx(1 / 6, abs=0.03)
    for name in COLOURS:
        assert np.mean([box.colour == name for box in targets]) == pytest.approx(1 / 3, abs=0.03)


def test_arguments_reach_the_scene():
    easy = SyntheticSearch(hard_fraction=0, num_samples=5)
    assert [easy.get(sample_id).needs_operation for sample_id in easy.sample_ids()] == [False] * 5
    hard = SyntheticSearch(hard_fraction=1, letter_prior=1, n_boxes=1, num_samples=5)
    for sample_id in hard.sample_ids():
        assert hard.get(sample_id).answers == ("T",)
        assert hard.get(sample_id).needs_operation
        assert len(hard.get(sample_id).metadata["boxes"]) == 1


def test_a_budget_that_shows_more_is_not_certified():
    with pytest.warns(UserWarning, match=r"112x112 pixels.*max_pixels=84\*\*2"):
        data = SyntheticSearch(num_samples=30, min_pixels=112**2, max_pixels=112**2)
    assert not any(data.get(sample_id).needs_operation for sample_id in data.sample_ids())


def test_the_environment_shows_the_exact_overview():
    assert SyntheticSearch.environment_defaults({}) == {
        "operations": ("zoom_in",),
        "max_turns": 3,
        "max_operations": 2,
        "min_pixels": 84**2,
        "max_pixels": 84**2,
        "size_multiple": 28,
    }
    budget = SyntheticSearch.environment_defaults({"grid": 4, "size_multiple": 32, "max_pixels": 300**2})
    assert (budget["min_pixels"], budget["max_pixels"]) == (256**2, 256**2)


def test_sample_ids_are_lazy_and_strict():
    ids = SyntheticSearch(split="test", num_samples=10**9).sample_ids()
    assert len(ids) == 10**9
    assert ids[0] == "test-0"
    assert ids[-1] == "test-999999999"
    assert list(ids[2:4]) == ["test-2", "test-3"]
    assert ids.index("test-5") == 5
    for wrong in ("test-1000000000", "train-0", "test-01", "test--1", "test-", "test-٣", 3, None):
        assert wrong not in ids


def test_cell_boxes():
    sample = samples()[0]
    assert cell_box(sample, (0, 0)) == (0, 0, 112, 112)
    assert cell_box(sample, (2, 1)) == (224, 112, 336, 224)
    with pytest.raises(ValueError, match="from 0 to 2"):
        cell_box(sample, (3, 0))
