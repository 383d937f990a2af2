"""What a report shows of an episode: rebuilt pictures, boxes, the choice of episodes."""

from __future__ import annotations

import base64
import dataclasses
import io
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from PIL import Image

from eval.cards import TEXT_LIMIT, build_card, choose_samples, data_uri, text_card
from eval.records import Record, RunDirectory
from eval.replay import Replayer, ReplayError
from eval.runner import evaluate
from tests.eval.conftest import ENV_ARGS, ENV_ID


def decode(href: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(href.partition(",")[2])))


@pytest.fixture
def run(oracle_run: Path) -> RunDirectory:
    return RunDirectory(oracle_run)


@pytest.fixture
def zoomed(run: RunDirectory) -> Record:
    return next(record for record in run.records() if record.episode.n_operations == 1)


def test_the_pictures_are_those_the_model_saw(run: RunDirectory, zoomed: Record) -> None:
    env = gymnasium.make(ENV_ID, **ENV_ARGS)
    first, _ = env.reset(options={"sample_id": zoomed.episode.sample_id})
    second, *_ = env.step(zoomed.episode.steps[0].turn)
    replay = Replayer(run.manifest()).replay(zoomed.episode)
    assert [(view.turn, view.index) for view in replay.views] == [(0, 1), (1, 2)]
    assert (replay.views[0].image == first["images"][0]).all()
    assert (replay.views[1].image == second["images"][0]).all()
    card = build_card(zoomed, Replayer(run.manifest()))
    assert (np.asarray(decode(card.turns[0].views[0].href)) == second["images"][0]).all()


def test_a_card_marks_the_zoom_and_the_evidence(run: RunDirectory, zoomed: Record) -> None:
    card = build_card(zoomed, Replayer(run.manifest()))
    view, evidence = card.sources[0].marks
    assert (view.kind, view.label, evidence.kind) == ("view", "2", "evidence")
    assert zoomed.episode.evidence_box is not None
    x1, y1, x2, y2 = zoomed.episode.evidence_box
    assert (evidence.x, evidence.y, evidence.width, evidence.height) == (x1, y1, x2 - x1, y2 - y1)
    assert view.x <= evidence.x
    assert view.x + view.width >= x2
    assert (card.used, card.hit, card.failed, card.outcome) == (True, True, False, "correct")
    assert card.reward_terms == {"correct": 1.0}
    assert (view.turn, view.colour, card.no_pictures) == (1, 1, None)
    assert card.n_picture_bytes > 3 * len("data:image/png;base64,")


def test_a_card_without_pictures_still_shows_the_boxes(run: RunDirectory, zoomed: Record) -> None:
    pictured, plain = build_card(zoomed, Replayer(run.manifest())), text_card(zoomed, "no data")
    assert plain.no_pictures == "no data"
    assert plain.n_picture_bytes == 0
    (source,) = plain.sources
    assert (source.href, source.width, source.height) == (None, 336, 336)
    assert source.marks == pictured.sources[0].marks
    assert [turn.segments for turn in plain.turns] == [turn.segments for turn in pictured.turns]


def test_very_long_texts_are_shortened(zoomed: Record) -> None:
    zoomed.episode.prompt = "x" * (TEXT_LIMIT + 1234)
    card = text_card(zoomed, "")
    assert card.prompt == "x" * TEXT_LIMIT + " … 1,234 more characters"


def test_a_changed_reply_is_noticed(run: RunDirectory, zoomed: Record) -> None:
    zoomed.episode.steps[0] = dataclasses.replace(zoomed.episode.steps[0], reply="Image 2 (1x1).")
    with pytest.raises(ReplayError, match=r"after turn 1 .* is on record"):
        Replayer(run.manifest()).replay(zoomed.episode)


def test_a_changed_question_is_noticed(run: RunDirectory, zoomed: Record) -> None:
    zoomed.episode.prompt = "What letter is in the purple box?"
    with pytest.raises(ReplayError, match="after turn 0"):
        Replayer(run.manifest()).replay(zoomed.episode)


def test_every_kind_is_chosen_before_a_second_of_one() -> None:
    kinds = ["a", "a", "a", "b", "a", "c", "b"]
    assert choose_samples(kinds, 3) == [0, 3, 5]
    assert choose_samples(kinds, 5) == [0, 1, 3, 5, 6]
    assert choose_samples(kinds, 100) == list(range(7))


def test_small_pictures_are_exact_and_photographs_are_compressed() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    small = data_uri(Image.fromarray(noise[:56, :56]))
    assert small.startswith("data:image/png;")
    assert (np.asarray(decode(small)) == noise[:56, :56]).all()
    large = data_uri(Image.fromarray(noise))
    assert large.startswith("data:image/jpeg;")
    assert decode(large).size == (400, 400)


@pytest.mark.parametrize("agent", ["oracle", "random"])
def test_the_evidence_in_a_video_has_its_picture(tmp_path: Path, agent: str) -> None:
    env_args = {"split": "test", "hard_fraction": 1.0}
    evaluate("pxr_env:pxr/SyntheticVideo-v0", out=tmp_path, agent=agent, env_args=env_args, limit=3)
    run = RunDirectory(tmp_path)
    replayer = Replayer(run.manifest())
    for record in run.records():
        start, end = record.episode.evidence_time
        times = replayer.replay(record.episode).sources[0].times
        shown = [picture for picture in build_card(record, replayer).sources if start <= times[picture.frame] < end]
        assert shown
        for picture in shown:
            assert picture.href is not None
            assert [mark.kind for mark in picture.marks].count("evidence") == 1
