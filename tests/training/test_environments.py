"""Several environments in a run: by their shares, each with its own data, curiosity and numbers."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import gymnasium
import pytest
import torch
from safetensors.torch import load_file

from pxr_agents.statistics import episode_statistics
from pxr_env.curiosity import curiosity_terms
from tests.training.conftest import ENV
from tests.training.uneven import uneven
from training.config import CuriosityRecipe, MixedEnvRecipe, PPORecipe, ProbesRecipe, RecipeError, load_recipe
from training.environments import MixedCursor, make_env, sample_cursor
from training.loop import PlainPPO, plain_recipe, run_plain
from training.run_directory import Interrupted

LUCK = uneven(ENV)
VIDEO = {"coordinates": "pixel", "max_turns": 3, "max_operations": 2, "dialect": "tags"}
MIX = (
    MixedEnvRecipe(id=LUCK.id, kwargs=LUCK.kwargs, name="images", share=3),
    MixedEnvRecipe(
        id="pxr_env:pxr/SyntheticVideo-v0", kwargs=VIDEO, name="videos", curiosity=CuriosityRecipe(preset="off")
    ),
)


def lines(out):
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("seconds/")} for row in rows]


def test_shares_are_kept_from_the_first_sample_on_and_after_a_restart():
    ids = {"a": [str(k) for k in range(5)], "b": ["0", "1"], "c": ["x"]}
    shares = {"a": 4 / 6, "b": 1 / 6, "c": 1 / 6}
    cursor = MixedCursor(ids, shares, seed=3)
    taken = []
    for n in (6, 1, 3, 2):
        state = cursor.state_dict()
        again = MixedCursor(ids, shares, seed=3)
        again.load_state_dict(json.loads(json.dumps(state)))
        part = cursor.take(n)
        assert again.take(n) == part
        assert len(set(part)) == n
        taken += part
        counts = Counter(each.partition("/")[0] for each in taken)
        assert all(abs(counts[name] - share * len(taken)) < 1 for name, share in shares.items())
    # Each goes through all of its own samples before one comes again.
    assert not {*cursor.take(2, besides=["a/0", "a/1", "b/0"])} & {"a/0", "a/1", "b/0"}
    assert {each for each in taken[:8] if each[0] == "a"} == {f"a/{k}" for k in range(5)}
    with pytest.raises(ValueError, match="got data of 5 samples, expected 8 different ones"):
        cursor.take(12)


def test_the_sample_chooses_the_environment():
    env = make_env(MIX, arms=True)
    for name, task, operations in (
        ("videos", "pxr/SyntheticVideo-v0", {"select_frames", "seek", "zoom_in"}),
        ("images", "uneven/Any-v0", {"zoom_in"}),
    ):
        _, info = env.reset(seed=1, options={"sample_id": f"{name}/train-3", "probe": "zoom_in"})
        assert info["sample_id"] == f"{name}/train-3"
        assert set(info["usage"]) == operations
        assert env.spec.id == task
        assert env.unwrapped.sample.sample_id == "train-3"
        assert env.step("x")[-1]["probe"]["operation"] == "zoom_in"
    with pytest.raises(
        ValueError, match=r"got sample_id train-3/; expected NAME/ID, NAME one of \['images', 'videos'\]"
    ):
        env.reset(options={"sample_id": "train-3"})
    env.close()


def test_one_environment_is_as_it_was():
    env = make_env(ENV)
    assert isinstance(env.unwrapped, type(gymnasium.make(ENV.id, **ENV.kwargs).unwrapped))
    assert sample_cursor(env, ENV, seed=0).state_dict() == {"taken": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[env]]\nid = "a"\nshar = 2', r"env\[0\]\.shar: there is no such key\. Did you mean \"env\[\]\.share\""),
        ('[[env]]\nid = "a"\n[[env]]\nshare = 0', r"env\[1\]\.id: is missing.*\n.*env\[1\]\.share: got 0"),
        ('[env]\nid = "a"\nshare = 2', r"env\.share: there is no such key"),
        ('[[env]]\nid = "m:a/B-v0"\n[[env]]\nid = "c/B-v0"', 'env has the name "B"; expected another one'),
        ("env = []", "env is empty"),
    ],
)
def test_mistakes_in_tables_are_named(tmp_path, text, message):
    file = tmp_path / "r.toml"
    file.write_text(f'model = "m"\n{text}')
    with pytest.raises(RecipeError, match=message):
        load_recipe(file, PPORecipe)


def test_images_and_videos_are_trained_at_once_and_a_resumed_run_is_the_same(make_recipe, tmp_path):
    def recipe(out):
        return make_recipe(env=MIX, iterations=2, out=str(tmp_path / out), stop_strings=True, episode_table_every=1)

    def stop(metrics):
        os.kill(os.getpid(), signal.SIGTERM)

    model = run_plain(recipe("straight"))
    with pytest.raises(Interrupted):
        run_plain(recipe("stopped"), on_iteration=stop)
    resumed = run_plain(recipe("stopped"))
    assert lines(tmp_path / "stopped") == lines(tmp_path / "straight")
    one, other = (load_file(folder / "model.safetensors") for folder in (model, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    for row in lines(tmp_path / "straight"):
        # 4 groups of 4, 3 to 1.
        assert (row["env/images/n_episodes"], row["env/videos/n_episodes"], row["n_episodes"]) == (12, 4, 16)
        assert row["accuracy"] == pytest.approx((12 * row["env/images/accuracy"] + 4 * row["env/videos/accuracy"]) / 16)
        assert {"env/videos/usage/seek", "env/images/reward/luck"} <= row.keys()
        assert "env/images/usage/seek" not in row
        assert row["learner/grad_norm"] > 1e-3
        assert row["learner/logprob_gap_max"] < 1e-4
    shown = (tmp_path / "straight" / "episodes" / "1" / "index.html").read_text()
    assert "videos/" in shown
    assert "<img" in shown


def test_numbers_curiosity_and_probes_are_those_of_each(make_recipe):
    trainer = PlainPPO(plain_recipe(make_recipe(env=MIX, probes=ProbesRecipe(enabled=True, window=30))))
    trainer.train()
    parts = {name: [e for e in trainer.last_episodes if e.sample_id.startswith(name)] for name in ("images", "videos")}
    tasks = {name: {e.task for e in part} for name, part in parts.items()}
    assert tasks == {"images": {"uneven/Any-v0"}, "videos": {"pxr/SyntheticVideo-v0"}}
    for name, part in parts.items():
        for key, value in episode_statistics(part).items():
            assert trainer.last_iteration[f"env/{name}/{key}"] == value
        assert trainer.books.arms.rates.episodes(name) == len(part)
    assert {"env/images/probes/zoom_in", "env/videos/probes/seek"} <= trainer.last_iteration.keys()
    for group in range(0, 16, 4):
        members = trainer.last_episodes[group : group + 4]
        paid = [sum(step.reward_terms.get("curiosity", 0.0) for step in e.steps) for e in members]
        preset = "off" if members[0].sample_id.startswith("videos") else "paper"
        expected = curiosity_terms([e.n_operations for e in members], preset=preset)
        assert paid == pytest.approx([each["curiosity"] for each in expected])
    assert trainer.last_iteration["env/images/usage_rate"] > 0
