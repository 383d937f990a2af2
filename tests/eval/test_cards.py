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

from eval.cards import build_card, choose_samples, data_uri
from eval.records import RunDirectory
from eval.replay import Replayer, ReplayError
from pxr_agents.types import Episode
from tests.eval.conftest import ENV_ARGS, ENV_ID


def decode(href: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(href.partition(",")[2])))


@pytest.fixture
def run(oracle_run: Path) -> RunDirectory:
    return RunDirectory(oracle_run)


@pytest.fixture
def zoomed(run: RunDirectory) -> Episode:
    return next(episode for episode in run.episodes() if episode.n_operations == 1)


def test_the_pictures_are_those_the_model_saw(run: RunDirectory, zoomed: Episode) -> None:
    env = gymnasium.make(ENV_ID, **ENV_ARGS)
    first, _ = env.reset(options={"sample_id": zoomed.sample_id})
    second, *_ = env.step(zoomed.steps[0].turn)
    replay = Replayer(run.manifest()).replay(zoomed)
    assert [(view.turn, view.index) for view in replay.views] == [(0, 1), (1, 2)]
    assert (replay.views[0].image == first["images"][0]).all()
    assert (replay.views[1].image == second["images"][0]).all()
    card = build_card(zoomed, Replayer(run.manifest()))
    assert (np.asarray(decode(card.turns[0].views[0].href)) == second["images"][0]).all()


def test_a_card_marks_the_zoom_and_the_evidence(run: RunDirectory, zoomed: Episode) -> None:
    card = build_card(zoomed, Replayer(run.manifest()))
    view, evidence = card.sources[0].marks
    assert (view.kind, view.label, evidence.kind) == ("view", "2", "evidence")
    assert zoomed.evidence_box is not None
    x1, y1, x2, y2 = zoomed.evidence_box
    assert (evidence.x, evidence.y, evidence.width, evidence.height) == (x1, y1, x2 - x1, y2 - y1)
    assert view.x <= evidence.x
    assert view.x + view.width >= x2
    assert (card.used, card.hit, card.failed, card.outcome) == (True, True, False, "correct")
    assert card.reward_terms == {"correct": 1.0}


def test_a_changed_reply_is_noticed(run: RunDirectory, zoomed: Episode) -> None:
    zoomed.steps[0] = dataclasses.replace(zoomed.steps[0], reply="Image 2 (1x1).")
    with pytest.raises(ReplayError, match=r"after turn 1 .* is on record"):
        Replayer(run.manifest()).replay(zoomed)


def test_a_changed_question_is_noticed(run: RunDirectory, zoomed: Episode) -> None:
    zoomed.prompt = "What letter is in the purple box?"
    with pytest.raises(ReplayError, match="after turn 0"):
        Replayer(run.manifest()).replay(zoomed)


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
