"""The demo without a browser: what a model wants, what a visitor may ask, what is shown of it."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.__main__ import main
from eval.demo import find_defaults, find_model
from eval.demo.live import MAX_QUESTION, SAMPLE_ID, End, ask_about, describe_sample, draw_sample, play
from eval.suites import read_recipe
from pxr_agents.agents import EachEpisode, Oracle
from pxr_env.play.serving import Moment, Transcript

SEARCH = "pxr_env:pxr/SyntheticSearch-v0"


def checkpoint(folder: Path, model_type: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def test_a_model_is_asked_as_it_was_trained(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "run" / "arms" / "curiosity" / "model", "qwen3_vl")
    env = {"id": SEARCH, "kwargs": {"coordinates": "pixel", "max_turns": 3}}
    (model.parent / "recipe.json").write_text(json.dumps({"env": env}))
    assert find_model(str(tmp_path / "run")) == str(model)
    assert find_model(str(model)) == str(model)
    assert find_model("somewhere/else") == "somewhere/else"
    defaults = find_defaults(str(model))
    assert defaults.env_id == SEARCH
    # The task's pictures have nine vision tokens of 28x28 pixels, and own ones should not have more.
    budget = {"min_pixels": 7056, "max_pixels": 7056, "size_multiple": 28}
    assert defaults.arguments == budget | {"coordinates": "pixel", "max_turns": 3}


@pytest.mark.parametrize(
    ("model", "dialect", "coordinates"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3-vl", "permille"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "hermes", "pixel"),
        ("TIGER-Lab/PixelReasoner-RL-v1", "pixel-reasoner", "unit"),
        ("/models/Mini-o3-7B-v1", "mini-o3", "unit"),
        ("DeepEyes-7B", "deepeyes", "pixel"),
    ],
)
def test_a_name_tells_the_family(model: str, dialect: str, coordinates: str) -> None:
    arguments = find_defaults(model).arguments
    assert (arguments["dialect"], arguments["coordinates"]) == (dialect, coordinates)


def test_a_checkpoint_tells_its_family_a_recipe_goes_before_and_an_unknown_model_gets_ours(tmp_path: Path) -> None:
    model = str(checkpoint(tmp_path / "a", "qwen3_vl_moe"))
    assert find_defaults(model).arguments["size_multiple"] == 32
    assert find_defaults(model, read_recipe("deepeyes")).arguments["dialect"] == "deepeyes"
    assert find_defaults(model, read_recipe("deepeyes")).sampling == {"temperature": 0.0, "max_tokens": 10_240}
    assert find_defaults("gpt-9").arguments == {}
    (tmp_path / "recipe.json").write_text("{no json")
    assert find_defaults(model).arguments["dialect"] == "qwen3-vl"


@pytest.fixture
def photograph(tmp_path: Path) -> str:
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_an_own_question_is_an_episode_like_any_other(photograph: str) -> None:
    env = ask_about(photograph, " What? ", is_video=False, arguments={"dialect": "mini-o3", "max_turns": 2})
    observation, info = env.reset(options={"sample_id": SAMPLE_ID})
    assert observation["text"] == "What?"
    assert list(env.operations) == ["zoom_in"]
    assert info["views"][0]["box"] == (0, 0, 200, 100)


@pytest.mark.parametrize(
    ("path", "question", "message"),
    [
        (None, "What?", "Got no image; choose one first"),
        ("photograph", "  ", "Got no question; write one first"),
        ("photograph", "a" * (MAX_QUESTION + 1), "The question has 2001 characters; expected at most 2000"),
        ("text", "What?", "text.png"),
        ("huge", "What?", "The image has 9000x8000 pixels; expected at most 64,000,000"),
    ],
)
def test_what_cannot_be_asked_is_said(
    path: str | None, question: str, message: str, photograph: str, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("1", (9000, 8000)).save(tmp_path / "huge.png")
    files = {None: None, "photograph": photograph, "text": tmp_path / "text.png", "huge": tmp_path / "huge.png"}
    with pytest.raises(ValueError, match=message):
        ask_about(files[path] and str(files[path]), question, is_video=False, arguments={})


@contextmanager
def oracle():
    yield EachEpisode(Oracle)


def test_an_episode_is_told_turn_by_turn_and_shown_escaped() -> None:
    env, sample = draw_sample(SEARCH, 3, {"split": "test", "hard_fraction": 1.0})
    events = [event for event in play(env, oracle, threading.Event(), sample_id=sample.sample_id) if event]
    first, zoom, answer, end = events
    assert isinstance(first, Moment)
    assert (first.turn, first.reply) == (None, sample.question)
    assert len(zoom.images) == 1
    assert zoom.views[0]["turn"] == 1
    assert zoom.overview.shape == (720, 960, 3)
    assert answer.images == ()
    assert isinstance(end, End)
    assert end.episode.correct
    pytest.importorskip("gradio")
    from eval.demo.page import finish

    transcript = Transcript()
    for moment in events[:-1]:
        transcript.add(moment)
    finish(transcript, end, sample.answers[0])
    html = transcript.html()
    assert html.count('<section class="turn">') == 2
    assert '<p class="verdict">correct</p>' in html
    hostile = Transcript()
    hostile.add(Moment(turn="<script>x</script>\ud800", reply="<b>", images=(), views=(), overview=None))
    hostile.end("Error", "<img onerror=x>", is_error=True)
    assert "<script" not in hostile.html()
    assert "<b>" not in hostile.html()
    assert "<img" not in hostile.html()
    assert f"target <b>{sample.answers[0]}</b>" in describe_sample(sample)


def test_whoever_leaves_ends_the_episode_and_its_thread() -> None:
    env, sample = draw_sample(SEARCH, 3, {"split": "test"})
    n_before = threading.active_count()
    events = play(env, oracle, threading.Event(), sample_id=sample.sample_id)
    assert isinstance(next(events), Moment)
    events.close()
    assert threading.active_count() == n_before


def test_a_broken_agent_is_an_error_to_read() -> None:
    @contextmanager
    def broken():
        raise RuntimeError("out of memory")
        yield

    env, sample = draw_sample(SEARCH, 3, {})
    *_, end = play(env, broken, threading.Event(), sample_id=sample.sample_id)
    assert end == End(error="RuntimeError: out of memory")


def test_without_a_model_it_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio")
    assert main(["demo"]) == 2
    assert "expected --model PATH" in capsys.readouterr().err
