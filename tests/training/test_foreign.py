"""Environments of others in our rollouts and our trainer."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pxr_agents.agents import EachEpisode
from pxr_agents.foreign import ForeignEnv
from pxr_agents.rollout import rollout
from pxr_agents.types import Job
from pxr_env.errors import DataError
from pxr_env.types import NoTurn
from tests.training.foreign_games import COLOURS, Echo, Letters
from training.config import CuriosityRecipe, EnvRecipe
from training.loop import run_plain

ALPHABET = [chr(ord("A") + k) for k in range(26)]
GAME = {"env": "tests.training.foreign_games:Letters", "actions": ALPHABET}
FOREIGN = "pxr_agents.foreign:pxr/Foreign-v0"


def test_an_episode_of_another_environment():
    env = gymnasium.make(FOREIGN, **GAME, size_multiple=28, min_pixels=28 * 28, max_pixels=56 * 56)
    observation, info = env.reset(options={"sample_id": "3"})
    alone = Letters()
    picture = alone.reset(seed=3)[0]["image"]
    assert observation["text"] == "What letter is in the blue box?"
    # 60x90 within 56x56 pixels: two cells, one beside the other.
    [image] = observation["images"]
    assert image.shape == (28, 56, 3)
    np.testing.assert_array_equal(image[0, 0], picture[0, 0])
    assert (info["sample_id"], info["vision_tokens"], info["tools"]) == ("3", 2, [])
    assert r"\boxed{A}" in info["system_prompt"]
    observation, reward, *ended, info = env.step("I do not know.")
    assert (observation["images"], reward, ended, info["failures"]) == ((), 0.0, [False, False], {"malformed": 1})
    assert observation["text"] == r"Error: the message has 0 actions; expected one, such as \boxed{A}."
    assert "there is no action" in env.step(r"\boxed{AB}")[0]["text"]
    for _ in range(2):
        letter = ALPHABET[alone.colour]
        _, _, over, _, _ = alone.step(5 + alone.colour)
        observation, reward, terminated, _, info = env.step(rf"It is \boxed{{{letter.lower()}}}.")
        assert (observation["text"], reward, terminated) == ("right", 0.5, over)
        assert info["reward_terms"] == {"reward": 0.5}
    assert (info["correct"], info["score"], terminated) == (True, 1.0, True)
    assert "truncated_by" not in info


def test_limits_and_agents_that_give_up():
    env = ForeignEnv(Letters(), max_turns=2)
    env.reset(seed=0)
    env.step("?")
    *_, truncated, info = env.step("?")
    assert (truncated, info["truncated_by"], info["failures"], info["correct"]) == (
        True,
        "max_turns",
        {"malformed": 2},
        False,
    )
    env.reset(seed=0)
    *_, truncated, info = env.step(NoTurn("context"))
    assert (truncated, info["truncated_by"]) == (True, "context")


def test_text_environments_get_the_message_as_it_is():
    env = ForeignEnv("tests.training.foreign_games:Echo", env_kwargs={"words": ["yes", "no"]}, n_seeds=4)
    assert env.reset(options={"sample_id": "1"})[0] == {"text": "Say no.", "images": ()}
    observation, reward, terminated, _, info = env.step("no, thank you")
    assert (observation, reward, terminated, info["correct"]) == ({"text": "", "images": ()}, 1.0, True, True)
    shouted = ForeignEnv(Echo(["YES"]), read=str.upper)
    shouted.reset(seed=0)
    assert shouted.step("yes")[1] == 1.0


def test_it_is_a_gymnasium_environment_and_draws_samples():
    check_env(gymnasium.make(FOREIGN, **GAME).unwrapped, skip_render_check=True)
    env = ForeignEnv(Letters(), n_seeds=50)
    assert len({env.reset(seed=seed)[1]["sample_id"] for seed in range(20)}) > 10


def test_what_cannot_be_played_is_an_error():
    with pytest.raises(ValueError, match=r"got 2 actions; expected 26"):
        ForeignEnv(Letters(), actions=["a", "b"])
    with pytest.raises(ValueError, match=r"takes Box.*expected texts or numbered actions. Pass `read`"):
        ForeignEnv("MountainCarContinuous-v0")
    with pytest.raises(ValueError, match=r'got show="picture"; expected one of observation, render, both'):
        ForeignEnv(Letters(), show="picture")
    with pytest.raises(DataError, match=r'got sample_id="7"; expected a seed from 0 to 4'):
        ForeignEnv(Letters(), n_seeds=5).reset(options={"sample_id": "7"})


class Knows:
    """Names the letter of the colour it sees."""

    def __init__(self, env):
        pass

    def act(self, observation):
        colour = tuple(int(value) for value in observation["images"][0][0, 0])
        return rf"\boxed{{{ALPHABET[COLOURS.index(colour)]}}}"


def test_our_rollouts_play_it():
    envs = [gymnasium.make(FOREIGN, **GAME) for _ in range(2)]
    jobs = [Job(sample_id=str(k), group=str(k), seed=k) for k in range(5)]
    episodes = rollout(envs, EachEpisode(Knows), jobs)
    assert [(episode.reward, episode.correct, len(episode.steps)) for episode in episodes] == [(1.0, True, 2)] * 5


@pytest.mark.slow
def test_our_trainer_trains_in_it(make_recipe, tmp_path):
    """Two iterations of the whole of it: groups that begin alike, images, rewards of each turn."""
    kwargs = {**GAME, "max_pixels": 84 * 84, "read": "tests.training.foreign_games:by_length"}
    recipe = make_recipe(env=EnvRecipe(id=FOREIGN, kwargs=kwargs), curiosity=CuriosityRecipe(preset="off"))
    model = run_plain(recipe)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["n_episodes"] for row in rows] == [16, 16]
    assert all(row["learner/grad_norm"] > 0 for row in rows)
    assert all(row["learner/logprob_gap_max"] < 1e-4 for row in rows)
    assert (Path(model) / "model.safetensors").exists()


def test_evaluation_says_that_it_cannot_score_it(tmp_path):
    from eval.runner import evaluate

    with pytest.raises(ValueError, match=r"Foreign-v0, a ForeignEnv; expected a visual reasoning task"):
        evaluate(suite=FOREIGN, out=tmp_path / "run", agent="random", env_args=GAME)
