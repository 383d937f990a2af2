"""Counting: what is hidden, what can be read from the pixels, what is refused."""

import functools
from collections import Counter

import numpy as np
import pytest

from pxr_env.media import cut
from pxr_env.synthetic import COLOURS, SyntheticCount
from pxr_env.synthetic.count import SHAPES, TRAY_FILL


@functools.cache
def samples(split="train", n=30):
    data = SyntheticCount(split=split)
    return [data.get(f"{split}-{index}") for index in range(n)]


def components(mask):
    """The connected parts of a mask, as boxes x1, y1, x2, y2, found row by row."""
    parts, above = [], []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(np.int8), [0]))))
        runs = []
        for x1, x2 in zip(edges[::2], edges[1::2], strict=True):
            part = [int(x1), y, int(x2), y + 1]
            for left, right, other in above:
                if left < x2 and x1 < right and other is not part:
                    joined = [min(part[0], other[0]), min(part[1], other[1]), max(part[2], other[2]), y + 1]
                    other[:] = joined
                    if part in parts:
                        parts.remove(part)
                    part = other
            if not any(part is known for known in parts):
                parts.append(part)
            runs.append((x1, x2, part))
        above = runs
    return parts


def shape_of(mask, box):
    x1, y1, x2, y2 = box
    part = mask[y1:y2, x1:x2]
    if part[-1, 0]:
        return "square" if part[0, 0] else "triangle"
    return "circle" if part.mean() > 0.65 else "cross"


def read(pixels):
    """Counts what is in the pixels: (shape, colour) -> how many."""
    found = Counter()
    for name, colour in COLOURS.items():
        mask = np.all(pixels == colour, axis=2)
        found.update((shape_of(mask, box), name) for box in components(mask))
    return found


def test_the_answer_can_be_counted_in_the_pixels():
    for sample in samples()[:8]:
        found = read(np.asarray(sample.sources[0].image))
        described = Counter((item["shape"], item["colour"]) for item in sample.metadata["objects"])
        assert found == described
        shape, colour = sample.metadata["shape"], sample.metadata["colour"]
        assert sample.answers == (str(found[shape, colour]),)
        assert sample.question == f"How many {colour} {SHAPES[shape]} are there, tiny ones included?"


def test_the_evidence_of_hard_samples_shows_all_that_is_hidden():
    hard = [sample for sample in samples() if sample.category == "hard"]
    assert len(hard) > 8
    for sample in hard:
        asked = (sample.metadata["shape"], sample.metadata["colour"])
        hidden = [item for item in sample.metadata["objects"] if item["hidden"]]
        x1, y1, x2, y2 = (int(value) for value in sample.evidence_box)
        inside = read(np.asarray(sample.sources[0].image)[y1:y2, x1:x2])
        assert inside[asked] == sum((item["shape"], item["colour"]) == asked for item in hidden) >= 1
        assert max(x2 - x1, y2 - y1) <= 112
        left, top, right, bottom = sample.metadata["tray"]
        assert left <= x1 < x2 <= right
        assert top <= y1 < y2 <= bottom


def test_hidden_objects_change_a_zoom_but_not_the_first_view():
    data = SyntheticCount()
    checked = 0
    for sample in samples():
        image = sample.sources[0].image
        size, side = data.budget.size(image.size), image.width
        without = image.copy()
        asked = sample.metadata["shape"], sample.metadata["colour"]
        for item in sample.metadata["objects"]:
            if item["hidden"] and (item["shape"], item["colour"]) == asked:
                without.paste(TRAY_FILL, item["box"])
                checked += 1
        first, blank = (cut(picture, (0, 0, side, side), size) for picture in (image, without))
        zoomed, empty = (cut(picture, sample.evidence_box, size).astype(int) for picture in (image, without))
        assert np.array_equal(first, blank)
        assert sample.needs_operation is (sample.category == "hard")
        assert bool(np.abs(zoomed - empty).max() > 60) is sample.needs_operation
    assert checked > 20


def test_a_tray_that_looks_empty_is_the_same_whatever_it_holds():
    data = SyntheticCount(hard_fraction=1)
    for index in range(10):
        sample = data.get(f"train-{index}")
        x1, y1, x2, y2 = (value // 8 for value in sample.metadata["tray"])
        assert np.all(data.budget.show(sample.sources[0])[y1:y2, x1:x2] == TRAY_FILL)


def test_large_objects_do_not_touch_and_easy_trays_hold_one():
    for sample in samples():
        boxes = [item["box"] for item in sample.metadata["objects"] if not item["hidden"]]
        for first in boxes:
            for second in boxes:
                apart = first[2] < second[0] or second[2] < first[0] or first[3] < second[1] or second[3] < first[1]
                assert first is second or apart
        left, top, right, bottom = sample.metadata["tray"]
        in_tray = [box for box in boxes if left <= box[0] < box[2] <= right and top <= box[1] < box[3] <= bottom]
        assert len(in_tray) == (sample.category == "easy")


def test_every_number_is_as_frequent_in_easy_as_in_hard_scenes():
    data = SyntheticCount(max_count=4)
    answers = {"easy": Counter(), "hard": Counter()}
    for index in range(3000):
        scene = data._scene(index)
        answers["hard" if scene.hard else "easy"][len(scene.asked)] += 1
    assert sum(answers["hard"].values()) / 3000 == pytest.approx(0.5, abs=0.03)
    for counted in answers.values():
        assert set(counted) == {1, 2, 3, 4}
        for number in counted.values():
            assert number / sum(counted.values()) == pytest.approx(0.25, abs=0.04)
