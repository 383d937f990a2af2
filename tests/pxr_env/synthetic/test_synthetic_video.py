"""Events in videos: what the overview shows of them, what other frames show, what is refused."""

import functools
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pxr_env.synthetic import COLOURS, LETTERS, SyntheticVideo
from pxr_env.synthetic.letters import GLYPHS
from pxr_env.synthetic.video import _scene
from pxr_env.synthetic.video_drawing import BALL_COLOURS, BALL_FILL, draw_frame


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
        scene = _scene(data().config, "train", index)
        event = scene.events[0]
        mover = scene.stage.movers[event.mover]
        video = samples()[index].sources[0]
        for frame in range(64):
            seen = read(np.asarray(video.frame(frame)), mover.box(frame), mover.kind)
            assert (seen is not None) == (event.start <= frame < event.stop)


def test_needs_operation_is_what_all_frames_of_the_overview_say():
    config = data().config
    kinds = Counter()
    for index, sample in enumerate(samples()):
        scene = _scene(config, "train", index)
        shown = [config.budget.show(sample.sources[0].frame(frame)) for frame in config.shown]
        blank = [config.budget.show(draw_frame(scene.stage, scene.events[1:], frame)) for frame in config.shown]
        assert sample.needs_operation is all(map(np.array_equal, shown, blank))
        assert sample.needs_operation is (sample.metadata["need"] is not None)
        kinds[sample.category] += 1
    assert min(kinds[kind] for kind in ("easy", "hard_time", "hard_detail")) >= 2


def test_hard_letters_differ_in_what_the_calls_show_alone():
    """Whatever letter it is, the overview has the same bytes; the frames that the oracle asks for have not."""
    config = data().config
    for index, sample in enumerate(samples()[:24]):
        scene = _scene(config, "train", index)
        event = scene.events[0]
        if not sample.needs_operation or event.mover == 0:
            continue
        others = [replace(event, value=letter) for letter in LETTERS]
        frames = [[draw_frame(scene.stage, [other, *scene.events[1:]], f) for f in config.shown] for other in others]
        for shown in frames[1:]:
            assert all(map(np.array_equal, map(config.budget.show, shown), map(config.budget.show, frames[0])))
        called = {draw_frame(scene.stage, [other], event.start).tobytes() for other in others}
        assert len(called) == len(LETTERS)
        small = {config.budget.show(draw_frame(scene.stage, [other], event.start)).tobytes() for other in others}
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
            assert start <= data().config.shown[number - 1] < stop
        else:
            assert call is None


def test_the_budget_of_larger_views_can_be_chosen():
    defaults = SyntheticVideo.environment_defaults({})
    assert (defaults["min_pixels"], defaults["max_pixels"]) == (112 * 84, 448 * 336)
    defaults = SyntheticVideo.environment_defaults({"min_pixels": 784, "max_pixels": 224 * 168})
    assert (defaults["min_pixels"], defaults["max_pixels"]) == (784, 224 * 168)


def test_objects_keep_to_their_tracks():
    scene = _scene(data().config, "train", 3)
    tops = sorted((mover.box(0)[1], mover.box(0)[3]) for mover in scene.stage.movers)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(tops))
    for mover in scene.stage.movers:
        lefts = [mover.box(frame)[0] for frame in range(200)]
        assert min(lefts) >= 0
        assert max(mover.box(frame)[2] for frame in range(200)) <= 448
        assert {abs(first - second) <= 12 for first, second in itertools.pairwise(lefts)} == {True}
        assert len(set(lefts)) > 10


def test_shares_of_questions_and_answers():
    config = data().config
    scenes = [_scene(config, "train", index) for index in range(2000)]
    hard = [scene.need is not None for scene in scenes]
    ball = [scene.events[0].mover == 0 for scene in scenes]
    assert np.mean(hard) == pytest.approx(0.5, abs=0.03)
    assert np.mean(ball) == pytest.approx(0.5, abs=0.03)
    # The question does not tell whether it is hard.
    assert np.corrcoef(hard, ball)[0, 1] == pytest.approx(0, abs=0.05)
    letters = Counter(scene.events[0].value for scene in scenes if scene.events[0].mover != 0)
    assert set(letters) == set(LETTERS)
    assert max(letters.values()) / sum(letters.values()) < 0.22


def test_the_ball_is_no_colour_of_the_answers():
    assert BALL_FILL not in BALL_COLOURS.values()


def test_train_and_test_have_no_frame_in_common():
    for split, parity in (("train", 0), ("test", 1)):
        assert {_scene(data().config, split, index).stage.corner[1] % 2 for index in range(20)} == {parity}


@pytest.mark.parametrize(
    "arguments",
    [
        {"seconds": 5, "fps": 10, "video_frames": 16, "event_frames": 2},
        {"size_multiple": 32},
        {"max_frame_pixels": 48 * 28**2},
        {"max_frame_pixels": 21 * 28**2 + 17},
        {"video_frames": 1, "n_distractors": 0},
        {"detail_fraction": 1},
    ],
)
def test_other_arguments_are_certified_too(arguments):
    other = SyntheticVideo(hard_fraction=1, num_samples=8, **arguments)
    assert all(other.get(sample_id).needs_operation for sample_id in other.sample_ids())
    defaults = SyntheticVideo.environment_defaults(arguments)
    width, height = other.config.size
    assert defaults["max_frame_pixels"] == other.config.budget.max_pixels
    assert defaults["max_pixels"] >= width * height
    assert defaults["video_frames"] == other.config.video_frames


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_frames": 8}, "got event_frames=8 with 64 frames, video_frames=8 .* Lower event_frames"),
        ({"event_frames": 65}, "got event_frames=65, expected an integer from 1 to 64"),
        ({"video_frames": 65}, "video_frames=65"),
        ({"n_distractors": 4}, "got n_distractors=4, expected an integer from 0 to 3"),
        ({"detail_fraction": -1}, "detail_fraction=-1"),
        ({"seconds": 0}, "seconds=0"),
        ({"fps": 2.5}, "fps=2.5.* expected an integer"),
        ({"max_frame_pixels": 4 * 28**2}, "room for frames of 96x84 pixels. Raise max_frame_pixels"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SyntheticVideo(**arguments)
