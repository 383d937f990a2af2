"""Events in videos: what the overview shows of them, what other frames show, what is refused."""

import functools
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pxr_env.synthetic import COLOURS, LETTERS, SyntheticVideo
from pxr_env.synthetic.scenes import GLYPHS, scene_of
from pxr_env.synthetic.video import BALL_COLOURS, draw_frame


@functools.cache
def data(**arguments):
    return SyntheticVideo(**arguments)


@functools.cache
def samples(n=40):
    return [data().get(f"train-{index}") for index in range(n)]


def read(pixels, box, kind):
    """What stands in the pixels of an object: a letter, the name of a colour, or None."""
    x1, y1, x2, y2 = box
    if kind == "ball":
        centre = tuple(pixels[(y1 + y2) // 2, (x1 + x2) // 2].tolist())
        return next((name for name, colour in BALL_COLOURS.items() if centre == colour), None)
    inked = np.any(pixels[y1:y2, x1:x2] != COLOURS[kind], axis=2)
    if not inked.any():
        return None
    assert inked.shape == (72, 56)
    cells = inked[8:64, 8:48].reshape(7, 8, 5, 8).mean(axis=(1, 3)) > 0.5
    return next(letter for letter, glyph in GLYPHS.items() if np.array_equal(cells, glyph))


def test_the_event_is_where_and_when_the_evidence_says():
    for sample in samples():
        video, kind = sample.sources[0], sample.metadata["object"]
        start, stop = sample.metadata["frames"]
        assert sample.evidence_time == (start / 8, stop / 8)
        assert list(video.frames_between(*sample.evidence_time)) == list(range(start, stop))
        for frame, box in zip(range(start, stop), sample.metadata["boxes"], strict=True):
            assert read(np.asarray(video.frame(frame)), box, kind) == sample.answers[0]
            x1, y1, x2, y2 = sample.evidence_box
            assert x1 <= box[0] < box[2] <= x2
            assert y1 <= box[1] < box[3] <= y2


def test_the_event_is_nowhere_else():
    for index in range(6):
        scene = scene_of(data(), index)
        event = scene.events[0]
        mover = scene.movers[event.mover]
        video = samples()[index].sources[0]
        for frame in range(64):
            seen = read(np.asarray(video.frame(frame)), mover.box(frame), mover.kind)
            assert (seen is not None) == (event.start <= frame < event.stop)


def test_needs_operation_is_what_all_frames_of_the_overview_say():
    kinds = Counter()
    for index, sample in enumerate(samples()):
        scene = scene_of(data(), index)
        shown = [data().budget.show(sample.sources[0].frame(frame)) for frame in data().shown]
        blank = [data().budget.show(draw_frame(scene, scene.events[1:], frame)) for frame in data().shown]
        assert sample.needs_operation is all(map(np.array_equal, shown, blank))
        assert sample.needs_operation is (sample.metadata["need"] is not None)
        kinds[sample.category] += 1
    assert min(kinds[kind] for kind in ("easy", "hard_time", "hard_detail")) >= 2


def test_hard_letters_differ_in_what_the_calls_show_alone():
    """Whatever letter it is, the overview has the same bytes; the frames that the oracle asks for have not."""
    for index, sample in enumerate(samples()[:24]):
        scene = scene_of(data(), index)
        event = scene.events[0]
        if not sample.needs_operation or event.mover == 0:
            continue
        others = [replace(event, value=letter) for letter in LETTERS]
        frames = [[draw_frame(scene, [other, *scene.events[1:]], f) for f in data().shown] for other in others]
        for shown in frames[1:]:
            assert all(map(np.array_equal, map(data().budget.show, shown), map(data().budget.show, frames[0])))
        called = {draw_frame(scene, [other], event.start).tobytes() for other in others}
        assert len(called) == len(LETTERS)
        small = {data().budget.show(draw_frame(scene, [other], event.start)).tobytes() for other in others}
        # What `seek` shows is as small as the overview: enough for letters that were only missed.
        assert len(small) == (len(LETTERS) if scene.need == "time" else 1)


def test_the_oracle_calls_what_the_need_asks_for():
    for sample in samples():
        call, (start, stop) = sample.evidence_call, sample.metadata["frames"]
        if sample.metadata["need"] == "time":
            assert call.name == "seek"
            assert dict(call.arguments) == {"start": start / 8, "end": stop / 8}
        elif sample.metadata["need"] == "detail":
            assert call.name == "select_frames"
            (number,) = call.arguments["target_frames"]
            assert start <= data().shown[number - 1] < stop
        else:
            assert call is None


def test_the_budget_of_larger_views_can_be_chosen():
    defaults = SyntheticVideo.environment_defaults({})
    assert (defaults["min_pixels"], defaults["max_pixels"]) == (112 * 84, 448 * 336)
    defaults = SyntheticVideo.environment_defaults({"min_pixels": 784, "max_pixels": 224 * 168})
    assert (defaults["min_pixels"], defaults["max_pixels"]) == (784, 224 * 168)


def test_objects_keep_to_their_tracks():
    scene = scene_of(data(), 3)
    tops = sorted((mover.box(0)[1], mover.box(0)[3]) for mover in scene.movers)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(tops))
    for mover in scene.movers:
        lefts = [mover.box(frame)[0] for frame in range(200)]
        assert min(lefts) >= 0
        assert max(mover.box(frame)[2] for frame in range(200)) <= 448
        assert {abs(first - second) <= 12 for first, second in itertools.pairwise(lefts)} == {True}
        assert len(set(lefts)) > 10


def test_shares_of_questions_and_answers():
    scenes = [scene_of(data(), index) for index in range(2000)]
    hard = [scene.need is not None for scene in scenes]
    ball = [scene.events[0].mover == 0 for scene in scenes]
    assert np.mean(hard) == pytest.approx(0.5, abs=0.03)
    assert np.mean(ball) == pytest.approx(0.5, abs=0.03)
    # The question does not tell whether it is hard.
    assert np.corrcoef(hard, ball)[0, 1] == pytest.approx(0, abs=0.05)
    letters = Counter(scene.events[0].value for scene in scenes if scene.events[0].mover != 0)
    assert set(letters) == set(LETTERS)
    assert max(letters.values()) / sum(letters.values()) < 0.22


def test_train_and_test_have_no_frame_in_common():
    for split, parity in (("train", 0), ("test", 1)):
        assert {scene_of(data(split=split), index).corner[1] % 2 for index in range(20)} == {parity}
