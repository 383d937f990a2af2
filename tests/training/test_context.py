"""Conversations that outgrow the model's context: their episodes end, the run goes on and says so."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pxr_agents.chat import Conversation
from pxr_agents.checkpoint import read_checkpoint
from pxr_agents.engines.vllm.arguments import StartArguments
from pxr_agents.groups import Group
from pxr_agents.types import Episode
from pxr_env import Sample, VisualReasoningEnv
from pxr_env.media import ImageSource, VideoSource
from tests.training.conftest import ENV
from tests.training.uneven import uneven
from tests.vllm_support import ARGUMENTS, VARIABLES, needs_vllm
from training.config import EngineRecipe, PPORecipe, load_recipe
from training.conversation_bound import conversation_bound, mute_samples
from training.doctor import check_conversations, check_start
from training.learners import plain_weights
from training.loop import PlainPPO, run_plain


def written(out, name):
    return [json.loads(line) for line in (Path(out) / name).read_text().splitlines()]


def with_context(speaker, folder, n_ids):
    """A copy of a checkpoint that reads at most so many ids."""
    shutil.copytree(speaker, folder)
    config = json.loads((folder / "config.json").read_text())
    (config.get("text_config") or config)["max_position_embeddings"] = n_ids
    (folder / "config.json").write_text(json.dumps(config))
    assert read_checkpoint(folder).config.text_config.max_position_embeddings == n_ids
    return str(folder)


# A prompt has 25 ids, a zoom 12, what it shows 21, and a turn may have 16: after two zooms 91 + 16 would be needed.
@pytest.mark.parametrize(("n_ids", "n_turns"), [(100, 2), (40, 0)])
def test_a_run_goes_on_without_room(make_recipe, speaker, tmp_path, n_ids, n_turns):
    recipe = make_recipe(model=with_context(speaker, tmp_path / "model", n_ids), num_minibatches=2, env=uneven(ENV))
    model = run_plain(recipe)
    rows, faults = written(recipe.out, "metrics.jsonl"), written(recipe.out, "faults.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2]
    assert [(fault["iteration"], fault["kind"]) for fault in faults] == [(1, "context"), (2, "context")]
    for row, fault in zip(rows, faults, strict=True):
        n_full = round(row["truncated/context"] * 16)
        assert 0 < n_full <= row["truncated_rate"] * 16
        assert fault["text"].startswith(f"{n_full} of 16 episodes ended without room for another turn, of sample")
        assert ("not even the first turn" in fault["text"]) == (n_turns == 0)
        assert n_turns or n_full == 16
        assert row["faults/context"] == 1
        assert (row["tokens/generated"] > 0) == (n_turns > 0)
    # Without a turn there is nothing to learn from.
    one, other = (load_file(Path(folder) / "model.safetensors") for folder in (recipe.model, model))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items()) == (n_turns == 0)


@pytest.mark.parametrize("options", [{}, {"advantage": "gae"}, {"minibatch_tokens": 400, "kl_coef": 0.1}])
def test_a_group_without_a_turn_carries_no_loss(make_recipe, options):
    """It is to a learner what a group is whose episodes all score alike."""

    def learned(second):
        recipe = make_recipe(groups_per_iteration=2, num_minibatches=2, env=uneven(ENV), **options)
        trainer = PlainPPO(recipe)
        first, alike = trainer.sample()
        for episode in alike.episodes:
            episode.steps[:] = [replace(step, reward=0.0) for step in episode.steps]
        metrics = trainer.learn([first, second(alike)])
        return metrics, dict(plain_weights(trainer.policy.vlm.model))

    mute = Group(sample_id="mute", episodes=[Episode(task="t", sample_id="mute", truncated_by="context")] * 4)
    metrics, weights = learned(lambda alike: mute)
    assert all(math.isfinite(value) for value in metrics.values())
    if options.get("advantage") != "gae":
        expected, others = learned(lambda alike: alike)
        assert metrics == expected
        assert all(torch.equal(tensor, others[name]) for name, tensor in weights.items())


def hd_sample():
    """A picture of 12 megapixels, and 16 s of 1080p."""
    picture, frame = np.zeros((3000, 4000, 3), np.uint8), np.zeros((1080, 1920, 3), np.uint8)
    film = VideoSource(key="hd", load_frame=lambda index: frame, n_frames=64, fps=4.0, size=(1920, 1080))
    return Sample(sample_id="hd", question="What?", sources=(ImageSource(image=picture), film), answers=("B",))


def call(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


ALL = ["zoom_in", "select_frames", "seek", "rotate", "enhance", "compare", "mark", "grid", "flip"]
EACH = [
    call("select_frames", target_frames=[*range(2, 10)]),
    call("enhance", target_image=1, contrast=1.25, brightness=1.25, sharpness=1.25),
    call("rotate", target_image=18, degrees=17),
    call("compare", first_image=1, second_image=2),
    call("seek", start=0, end=16),
    call("zoom_in", bbox_2d=[0, 0, 1, 1], target_image=1),
]
FRAMES = [call("select_frames", target_frames=[*range(k, k + 8)]) for k in range(2, 8)]


@pytest.mark.parametrize(
    ("operations", "turns", "limits", "share"),
    [
        (ALL, EACH, {}, 0.75),
        (["select_frames"], FRAMES, {}, 0.85),
        (["select_frames"], FRAMES, {"max_call_pixels": 2 * 4_014_080}, 0.9),
        (["select_frames"], FRAMES, {"max_vision_tokens": 20_000}, 0.85),
        (["zoom_in"], [call("zoom_in", bbox_2d=[0, 0, 1, 1 - k / 100], target_image=1) for k in range(6)], {}, 0.85),
    ],
)
def test_no_conversation_is_longer_than_its_bound(tiny_path, operations, turns, limits, share):
    """Every operation at its maximum, beside a refused call in every turn."""
    chat = read_checkpoint(tiny_path).chat
    env = VisualReasoningEnv([hd_sample()], operations=operations, max_turns=6, max_operations=5, **limits)
    bound = conversation_bound(env, chat, max_tokens=300)
    conversation = Conversation()
    observation, info = env.reset()
    chat.prompt(conversation, info["system_prompt"], observation)
    assert len(conversation.ids) <= bound.prompt + bound.images
    for turn in turns:
        conversation.append_turn((chat.image_id,) * 300, train=False)
        observation, _, _, truncated, info = env.step(turn + call("zoom_in", bbox_2d=[0, 0, 1.5, 1], target_image=99))
        if not truncated:
            chat.reply(conversation, observation)
    assert truncated
    assert len(conversation.images) <= bound.n_images
    assert share * bound.total < len(conversation.ids) <= bound.total
    assert info["vision_tokens"] + 2 * len(conversation.images) <= bound.images


def test_samples_without_a_turn_are_named(tiny_path):
    chat = read_checkpoint(tiny_path).chat
    small = Sample(
        sample_id="small",
        question="What?",
        sources=(ImageSource(image=np.zeros((56, 56, 3), np.uint8)),),
        answers=("B",),
    )
    env = VisualReasoningEnv([hd_sample(), small], min_pixels=784)
    # 5084 vision tokens for the picture, 299 for each of 16 frames; the others may have one more row or column.
    assert (
        mute_samples(env, chat, n_ids=8000, n_images=None)
        == mute_samples(env, chat, n_ids=20_000, n_images=16)
        == ["hd"]
    )
    assert mute_samples(env, chat, n_ids=20_000, n_images=17) == []


@pytest.mark.parametrize(("room", "level"), [(0, "ok"), (200, "warning"), (40, "warning")])
def test_the_doctor_tells_the_longest_conversation_and_what_has_no_room(make_recipe, room, level):
    # A prompt has 25 ids, and a turn may have 16.
    recipe = make_recipe(engine=EngineRecipe(kind="vllm", vllm=StartArguments(max_model_len=room)))
    [finding] = check_conversations(recipe)
    assert finding.level == level
    assert re.match(
        r"a conversation has at most [\d,]+ ids \(prompt 14, 3 images 33, replies [\d,]+, 3 turns 48\)", finding.text
    )
    assert ("no room for a single turn in samples train-0" in finding.text) == (room == 40)
    with pytest.raises(ValueError, match="got max_tokens=16 for an engine that takes 16 ids"):
        check_start(replace(recipe, engine=EngineRecipe(kind="vllm", vllm=StartArguments(max_model_len=16))))


@pytest.mark.parametrize("name", [pytest.param("ppo_tiny", marks=[*needs_vllm, pytest.mark.ray])])
def test_the_recipe_goes_on_where_vllm_has_no_room_for_two_zooms(name, speaker, tmp_path, monkeypatch, request):
    from training.rllib.run import run_ppo

    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)
    request.getfixturevalue("ray_session")
    vllm = [f"engine.vllm.{name}={json.dumps(value)}" for name, value in (ARGUMENTS | {"max_model_len": 100}).items()]
    small = ["iterations=2", "groups_per_iteration=4", "num_env_runners=1", "num_cpus_per_env_runner=0.25"]
    paths = [f"model={speaker}", f"out={tmp_path / 'run'}", "wandb=false"]
    recipe = load_recipe(
        name, PPORecipe, [*paths, *small, "engine.kind=vllm", "engine.num_cpus_per_engine=0.25", *vllm]
    )
    run_ppo(recipe)
    rows = written(recipe.out, "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2]
    faults = [fault for fault in written(recipe.out, "faults.jsonl") if fault["kind"] == "context"]
    assert len(faults) == sum("truncated/context" in row for row in rows) > 0
