from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
from PIL import Image

from pxr_agents.agents import EachEpisode
from pxr_agents.rollout import rollout
from pxr_agents.types import Episode, Job, Step
from pxr_env.rendering import OVERVIEW_SIZE
from tests.training.conftest import ENV
from training.config import EnvRecipe
from training.episode_table import (
    Illustrator,
    PicturedEpisode,
    choose_episodes,
    episodes_page,
    table_row,
    write_episodes,
)

ZOOM = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [28, 0, 56, 28], "target_image": 1}}\n</tool_call>'
HOSTILE = "</pre><script>alert(1)</script>\ud800 \\boxed{<b>}"


class Script:
    """Says the same turns in every episode."""

    def __init__(self, turns):
        self._turns = iter(turns)

    def act(self, observation):
        return next(self._turns)


@pytest.fixture
def played():
    """A function that plays turns in the quick start's task and returns the episode."""

    def play(*turns, sample_id="train-3"):
        env = gymnasium.make(ENV.id, **ENV.kwargs)
        [episode] = rollout([env], EachEpisode(lambda env: Script(turns)), [Job(sample_id=sample_id)])
        return episode

    return play


def episode(sample, used=0, failed=0, correct=False):
    return Episode(task="t", sample_id=sample, usage={"z": used}, failures={"z": failed}, correct=correct)


def test_every_kind_is_shown_before_any_is_shown_twice():
    plain = [episode(f"p{k}") for k in range(6)]
    rare = [episode("used", used=1), episode("right", correct=True), episode("refused", failed=1)]
    chosen = choose_episodes([*plain, *rare], 5)
    assert [each.sample_id for each in chosen] == ["p0", "p1", "used", "right", "refused"]
    assert choose_episodes(plain, 99) == plain
    assert [each.sample_id for each in choose_episodes(plain, 2)] == ["p0", "p1"]


def test_the_picture_shows_the_boxes_of_the_views(played):
    illustrator = Illustrator(ENV)
    direct = illustrator.draw(played("\\boxed{A}"))
    zoomed = illustrator.draw(played(ZOOM, "\\boxed{A}"))
    illustrator.close()
    assert direct.shape == zoomed.shape == (OVERVIEW_SIZE[1], OVERVIEW_SIZE[0], 3)
    changed = np.argwhere((direct != zoomed).any(-1))
    first, view = played(ZOOM, "\\boxed{A}").views
    # A square source is drawn 714 high in the middle of 960x720; the outline of the box and its number have changed.
    scale, left, top = 714 / first["box"][2], (960 - 714) / 2, 3
    (y1, x1), (y2, x2) = changed.min(0), changed.max(0)
    expected = np.array(view["box"]) * scale + [left, top, left, top]
    assert np.abs(expected - [x1, y1, x2, y2]).max() < 4


def test_what_cannot_be_drawn_has_no_picture(played, caplog):
    assert Illustrator(EnvRecipe(id="nowhere:none-v0")).draw(played("\\boxed{A}")) is None
    assert "no picture of sample train-3" in caplog.text


def test_files_of_an_iteration(played, tmp_path):
    episodes = [played(ZOOM, "\\boxed{A}"), played(HOSTILE)]
    picture = np.zeros((8, 12, 3), np.uint8)
    pictured = [
        PicturedEpisode(episode=episodes[0], picture=picture),
        PicturedEpisode(episode=episodes[1], picture=None),
    ]
    folder = tmp_path / "10"
    for _ in range(2):  # an iteration that is done again replaces what it wrote
        write_episodes(folder, pictured, iteration=10)
        assert sorted(path.name for path in folder.iterdir()) == ["1.png", "episodes.jsonl", "index.html"]
        (folder / "7.png").touch()
    assert Image.open(folder / "1.png").size == (12, 8)
    records = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [record["steps"][0]["turn"] for record in records] == [ZOOM, HOSTILE]
    assert records[0]["usage"] == {"zoom_in": 1}
    page = (folder / "index.html").read_text()
    assert '<img src="1.png"' in page
    assert "2.png" not in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_evaluation_reads_the_episodes(played, tmp_path):
    from eval.records import RunFiles

    episodes = [played(ZOOM, "\\boxed{A}"), played("\\boxed{B}", sample_id="train-4")]
    episodes[0].probe = "zoom_in"
    # Tokens do not travel, what they were does.
    episodes[1].token_spans = (("read", 40), ("written", 3))
    write_episodes(tmp_path / "1", [PicturedEpisode(episode=each, picture=None) for each in episodes], iteration=1)
    assert [record.episode for record in RunFiles(tmp_path / "1").records()] == episodes


def test_a_row_of_the_table():
    steps = [
        Step(turn="zoom", reply="shown", reward=0.0, reward_terms={}),
        Step(turn="X", reply="", reward=0.5, reward_terms={"correct": 1.0, "cost": -0.5}),
    ]
    one = Episode(task="t", sample_id="s", prompt="Which?", steps=steps, usage={"zoom_in": 1, "seek": 0}, answer="X")
    row = table_row(PicturedEpisode(episode=one, picture=None), iteration=3)
    assert row["turns"] == "zoom\n> shown\n\nX"
    assert (row["question"], row["answer"], row["reward"]) == ("Which?", "X", 0.5)
    assert (row["reward terms"], row["usage"], row["failures"]) == ("correct 1, cost -0.5", "zoom_in 1", "")


def test_the_page_says_how_an_episode_ended():
    one = Episode(task="t", sample_id="s", truncated_by="max_turns", error="died", target="A", probe="zoom_in")
    page = episodes_page([PicturedEpisode(episode=one, picture=None)], iteration=4)
    for text in ("Iteration 4: 1 episodes", "cut off by max_turns", "error died", "executed: nothing", "1. s: wrong"):
        assert text in page
    assert "made to begin with zoom_in" in page
