"""What holds for all procedural samples, in the environments that show them."""

import json
import pickle

import gymnasium
import numpy as np
import pytest

from pxr_env.errors import DataError
from pxr_env.media import VideoSource, cut
from pxr_env.media.images import decoded_cache
from pxr_env.synthetic import SyntheticCount, SyntheticInfographic, SyntheticSearch, SyntheticVideo
from pxr_env.types import OperationCall

CLASSES = [SyntheticSearch, SyntheticCount, SyntheticInfographic, SyntheticVideo]
every_class = pytest.mark.parametrize("data_class", CLASSES)


def picture(sample):
    """The picture of an image, or the first frame of the event of a video."""
    source = sample.sources[0]
    return source.frame(sample.metadata["frames"][0]) if isinstance(source, VideoSource) else source.image


def facts(sample):
    names = ("sample_id", "question", "answers", "needs_operation", "evidence_box", "evidence_time", "category")
    return [getattr(sample, name) for name in names], sample.metadata


@every_class
def test_a_sample_depends_on_split_and_index_alone(data_class):
    sample = data_class(num_samples=100).get("train-7")
    pixels = np.array(picture(sample))
    decoded_cache.clear()
    again = data_class(num_samples=8).get("train-7")
    assert facts(again) == facts(sample)
    assert np.array_equal(np.array(picture(again)), pixels)
    other = data_class(split="test").get("test-7")
    assert facts(other)[1] != facts(sample)[1]


@every_class
def test_samples_are_small_and_travel(data_class):
    sample = data_class().get("train-3")
    stored = pickle.dumps(sample)
    assert len(stored) < 20_000
    assert np.array_equal(np.array(picture(pickle.loads(stored))), np.array(picture(sample)))
    json.dumps(sample.metadata)


@every_class
def test_hard_samples_need_an_operation_and_easy_ones_do_not(data_class):
    for fraction, needed in ((0.0, False), (1.0, True)):
        data = data_class(hard_fraction=fraction, num_samples=4)
        samples = [data.get(sample_id) for sample_id in data.sample_ids()]
        assert [sample.needs_operation for sample in samples] == [needed] * 4
        assert all(sample.category.startswith("hard" if needed else "easy") for sample in samples)


@every_class
def test_questions_do_not_tell_hard_from_easy(data_class):
    def wordings(fraction):
        data = data_class(hard_fraction=fraction, num_samples=10)
        return [data.get(sample_id).question for sample_id in data.sample_ids()]

    # The same questions in the same order: hardness is drawn beside them.
    easy, hard = wordings(0.0), wordings(1.0)
    assert len(set(easy) & set(hard)) >= min(3, len(set(easy)))
    assert {question.split()[0] for question in easy} == {question.split()[0] for question in hard}


@every_class
def test_unknown_ids_and_arguments_are_refused(data_class):
    with pytest.raises(DataError, match='"train-5", expected "train-0" to "train-4"'):
        data_class(num_samples=5).get("train-5")
    for arguments, message in (
        ({"split": "val"}, '"val", expected "train" or "test"'),
        ({"num_samples": 0}, "got num_samples=0, expected an integer from 1"),
        ({"hard_fraction": 1.5}, "got hard_fraction=1.5, expected a number from 0 to 1"),
        ({"hard_fraction": "all"}, 'hard_fraction="all"'),
    ):
        with pytest.raises(ValueError, match=message):
            data_class(**arguments)


@every_class
@pytest.mark.parametrize("index", range(4))
def test_the_oracle_sees_what_decides_and_scores_one(data_class, index):
    """The evidence, called in the environment of the task, is shown larger than before; the answer scores 1."""
    env = gymnasium.make(f"pxr/{data_class.__name__}-v0", split="test", coordinates="permille").unwrapped
    observation, info = env.reset(options={"sample_id": f"test-{index}"})
    sample = env.sample
    assert info["needs_operation"] is sample.needs_operation
    event = sample.metadata.get("frames")
    target = next((view for view in env.views if event is None or event[0] <= view.frame < event[1]), None)
    call = sample.evidence_call
    if call is None:
        box = env.frame.from_source(sample.evidence_box, target)
        call = OperationCall(name="zoom_in", arguments={"bbox_2d": box, "target_image": target.index})
    n_shown = len(env.views)
    observation, _, _, _, info = env.step(env.dialect.render_call(call))
    assert info["usage"][call.name] == 1, observation["text"]
    shown = [view for view in env.views[n_shown:] if event is None or event[0] <= view.frame < event[1]]
    assert shown, "the call shows the evidence"
    x1, y1, x2, y2 = sample.evidence_box
    left, top, right, bottom = shown[0].box
    assert left <= x1 < x2 <= right
    assert top <= y1 < y2 <= bottom
    if call.name != "seek" and sample.needs_operation:
        # With a tenth to spare: a side is a multiple of 28 pixels.
        assert shown[0].size[0] >= 0.9 * (right - left), "at about full resolution"
    *_, terminated, _, info = env.step(env.dialect.render_answer(sample.answers[0]))
    assert terminated
    assert info["reward_terms"]["correct"] == 1.0


@every_class
def test_the_environment_shows_the_certified_first_view(data_class):
    env = gymnasium.make(f"pxr/{data_class.__name__}-v0").unwrapped
    observation, _ = env.reset(options={"sample_id": "train-2"})
    for view, pixels in zip(env.views, observation["images"], strict=True):
        picture = env.sample.sources[0] if view.frame is None else env.sample.sources[0].frame(view.frame)
        width, height = picture.size
        reduction = width // view.size[0]
        assert (width, height) == (reduction * view.size[0], reduction * view.size[1])
        whole = np.asarray(picture.image if view.frame is None else picture).astype(np.int64)
        sums = whole.reshape(view.size[1], reduction, view.size[0], reduction, 3).sum(axis=(1, 3))
        # Pillow rounds half up, or down where many pixels are added.
        mean = sums / reduction**2
        assert np.abs(pixels - mean).max() <= 0.5
        assert np.array_equal(pixels, cut(picture, (0, 0, width, height), view.size))
