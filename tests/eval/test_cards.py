"""What a report shows of an episode: rebuilt pictures, boxes, the choice of episodes."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image

from eval.cards import TEXT_LIMIT, arrange, build_card, choose_samples, data_uri, text_card
from eval.records import RunFiles, RunRecord
from eval.replay import Replayer, ReplayError
from eval.runner import evaluate
from eval.suites import Choice
from pxr_agents.types import Episode
from tests.eval.conftest import ENV_ARGS, ENV_ID


def decode(href: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(href.partition(",")[2])))


@pytest.fixture
def run(oracle_run: Path) -> RunFiles:
    return RunFiles(oracle_run)


@pytest.fixture
def zoomed(run: RunFiles) -> RunRecord:
    return next(record for record in run.records() if record.episode.n_operations == 1)


def test_a_card_has_the_pictures_that_the_model_saw_and_marks_the_zoom_and_the_evidence(
    run: RunFiles, zoomed: RunRecord
) -> None:
    env = gymnasium.make(ENV_ID, **ENV_ARGS)
    env.reset(options={"sample_id": zoomed.episode.sample_id})
    second, *_ = env.step(zoomed.episode.steps[0].turn)
    card = build_card(zoomed, Replayer(run.manifest()))
    assert [view.index for view in card.first_views] == [1]
    assert (np.asarray(decode(card.turns[0].views[0].href)) == second["images"][0]).all()
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
    # Without pictures it still shows the boxes.
    plain = text_card(zoomed, "no data")
    assert (plain.no_pictures, plain.n_picture_bytes) == ("no data", 0)
    (source,) = plain.sources
    assert (source.href, source.width, source.height) == (None, 336, 336)
    assert source.marks == card.sources[0].marks
    assert [turn.segments for turn in plain.turns] == [turn.segments for turn in card.turns]


def test_very_long_texts_are_shortened(zoomed: RunRecord) -> None:
    zoomed.episode.prompt = "x" * (TEXT_LIMIT + 1234)
    card = text_card(zoomed, "")
    assert card.prompt == "x" * TEXT_LIMIT + " … 1,234 more characters"


def test_a_changed_reply_or_question_is_noticed(run: RunFiles, zoomed: RunRecord) -> None:
    replayer = Replayer(run.manifest())
    zoomed.episode.steps[0] = dataclasses.replace(zoomed.episode.steps[0], reply="Image 2 (1x1).")
    with pytest.raises(ReplayError, match=r"after turn 1 .* is on record"):
        replayer.replay(zoomed.episode)
    zoomed.episode.prompt = "What letter is in the purple box?"
    with pytest.raises(ReplayError, match="after turn 0"):
        replayer.replay(zoomed.episode)


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
    evaluate("pxr_env:pxr/SyntheticVideo-v0", out=tmp_path, agent=agent, env_args=env_args, choice=Choice(limit=3))
    run = RunFiles(tmp_path)
    replayer = Replayer(run.manifest())
    for record in run.records():
        start, end = record.episode.evidence_time
        times = replayer.replay(record.episode).sources[0].times
        shown = [picture for picture in build_card(record, replayer).sources if start <= times[picture.frame] < end]
        assert shown
        for picture in shown:
            assert picture.href is not None
            assert [mark.kind for mark in picture.marks].count("evidence") == 1


def view(index: int, turn: int, box: tuple[float, float, float, float], **more: Any) -> dict[str, Any]:
    return {"index": index, "turn": turn, "source": 1, "box": box, "size": (10, 10)} | more


def episode(*views: dict[str, Any], **changes: Any) -> Episode:
    return Episode(task="t", sample_id="s", views=list(views), **changes)


def test_boxes_in_order_then_the_evidence() -> None:
    played = episode(
        view(1, 0, (0.0, 0.0, 200.0, 100.0)),
        view(2, 1, (10.0, 20.0, 60.0, 70.0)),
        view(3, 7, (100.0, 0.0, 200.0, 50.0)),
        evidence_box=(20.0, 30.0, 40.0, 50.0),
    )
    first, second, evidence = arrange(played, 1, None, (200.0, 100.0))
    assert (first.label, first.x, first.y, first.width, first.height, first.points) == ("2", 10, 20, 50, 50, None)
    # The seventh turn has the first colour again: there are six.
    assert (first.turn, first.colour, second.label, second.colour) == (1, 1, "3", 1)
    assert (evidence.kind, evidence.label, evidence.x, evidence.height) == ("evidence", "", 20, 20)
    assert first.badge[:2] == (10, 20)


def test_only_the_boxes_of_this_source_and_frame() -> None:
    whole = (0.0, 0.0, 50.0, 50.0)
    part = (0.0, 0.0, 25.0, 25.0)
    played = episode(
        view(1, 0, whole, frame=0, time=0.0),
        view(2, 1, part, frame=8, time=2.0),
        view(3, 2, part, source=2),
        evidence_box=(1.0, 1.0, 5.0, 5.0),
        evidence_time=(1.0, 3.0),
    )
    assert [mark.label for mark in arrange(played, 1, 8, (50.0, 50.0))] == ["2", ""]
    # The evidence cannot be seen in a frame before it.
    assert arrange(played, 1, 0, (50.0, 50.0)) == ()
    assert [mark.label for mark in arrange(played, 2, None, (50.0, 50.0))] == ["3"]


def test_a_comparison_marks_both_of_its_regions_and_a_turned_one_its_corners() -> None:
    corners = [(5.0, 0.0), (10.0, 5.0), (5.0, 10.0), (0.0, 5.0)]
    panels = [
        {"source": 1, "box": (0.0, 0.0, 10.0, 10.0), "corners": corners},
        {"source": 1, "box": (30.0, 0.0, 40.0, 9.0)},
    ]
    turned, upright = arrange(episode(view(2, 1, (0.0, 0.0, 10.0, 10.0), panels=panels)), 1, None, (100.0, 100.0))
    assert turned.points == "5,0 10,5 5,10 0,5"
    assert (upright.x, upright.label, turned.label) == (30, "2", "2")


def test_badges_do_not_cover_each_other_and_stay_inside() -> None:
    corner = (90.0, 90.0, 100.0, 100.0)
    same = (10.0, 10.0, 60.0, 60.0)
    marks = arrange(episode(*(view(2 + k, 1, same) for k in range(3)), view(9, 1, corner)), 1, None, (100.0, 100.0))
    *stacked, last = [mark.badge for mark in marks]
    assert [badge[0] for badge in stacked] == sorted({badge[0] for badge in stacked})
    for left, right in itertools.pairwise(stacked):
        assert left[0] + left[2] <= right[0] + 1e-9
    assert last[0] + last[2] <= 100
    assert last[1] + last[3] <= 100


def test_a_badge_does_not_cover_a_small_box() -> None:
    below_the_edge = (40.0, 0.0, 60.0, 8.0)
    inside = (10.0, 50.0, 16.0, 90.0)
    high, low = arrange(episode(view(2, 1, below_the_edge), view(3, 2, inside)), 1, None, (100.0, 100.0))
    assert high.badge[1] == 8
    assert low.badge[1] + low.badge[3] <= 50
