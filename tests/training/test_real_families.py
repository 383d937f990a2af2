"""Training on the published architectures: a warm start, then PPO from files to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("torch")
import torch

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents.random_checkpoint import build_random
from pxr_agents.vlm import VLM
from training.config import EnvRecipe
from training.doctor import check_start
from training.quickstart.recipe import TraceRecipe
from training.quickstart.stages import search_trace
from training.sft import Optimizers, TokenWeights, cross_entropy

pytestmark = pytest.mark.slow

ENVS = {
    "qwen2.5-vl": EnvRecipe(
        id="pxr_env:pxr/SyntheticSearch-v0",
        kwargs={"size_multiple": 28, "coordinates": "pixel", "max_turns": 3, "max_operations": 2},
    ),
    "qwen3-vl": EnvRecipe(
        id="pxr_env:pxr/SyntheticSearch-v0",
        kwargs={
            "size_multiple": 32,
            "coordinates": "permille",
            "dialect": "qwen3-vl",
            "min_pixels": 65536,
            "max_pixels": 288 * 288,
            "max_turns": 3,
            "max_operations": 2,
        },
    ),
}
TURNS = (
    '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [28, 0, 56, 28], "target_image": 1}}\n</tool_call>',
    "\\boxed{A}",
)


def warm_start(path: Path, family: str, n_steps: int) -> list[float]:
    """Build a checkpoint and train it on demonstrations; returns the loss of every step."""
    recipe = ENVS[family]
    env: Any = gymnasium.make(recipe.id, **recipe.kwargs)
    vlm = build_random(path, family, texts=[env.reset(seed=0)[1]["system_prompt"], *TURNS] * 2)
    rng = np.random.default_rng(0)
    rows = [search_trace(env, vlm.chat, f"train-{k}", TraceRecipe(zoom=0.5), rng) for k in range(32)]
    optimizers = Optimizers(vlm, lr=3e-3, muon_lr=6e-3)
    losses = []
    for _ in range(n_steps):
        loss = cross_entropy(vlm, [rows[k] for k in rng.integers(0, len(rows), 8)], TokenWeights())
        optimizers.step(loss)
        losses.append(float(loss.detach()))
    vlm.save(path)
    return losses


@pytest.fixture(scope="module")
def speaker_of_family(tmp_path_factory) -> Path:
    """A Qwen2.5-VL that knows the form of a turn and guesses what stands in it."""
    path = tmp_path_factory.mktemp("speaker") / "qwen2.5-vl"
    losses = warm_start(path, "qwen2.5-vl", 40)
    assert losses[0] > 5
    assert losses[-1] < 0.5
    return path


def test_a_warm_start_learns_on_qwen3_vl(tmp_path, make_recipe):
    losses = warm_start(tmp_path / "model", "qwen3-vl", 8)
    assert losses[-1] < losses[0] / 2
    check_start(make_recipe(model=str(tmp_path / "model"), env=ENVS["qwen3-vl"]))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ppo_from_checkpoint_to_checkpoint(speaker_of_family, make_recipe):
    from training.rllib.run import run_ppo

    seen: list[dict[str, Any]] = []
    recipe = make_recipe(
        model=str(speaker_of_family), env=ENVS["qwen2.5-vl"], iterations=1, group_size=8, max_tokens=64
    )
    model = run_ppo(recipe, on_iteration=seen.append)
    [metrics] = seen
    assert metrics["n_episodes"] == 32
    assert metrics["learner/logprob_gap_max"] < 1e-4
    assert metrics["learner/ratio_max"] == pytest.approx(1, abs=1e-4)
    assert metrics["learner/grad_norm"] > 1e-3
    before, after = VLM.from_pretrained(speaker_of_family), VLM.from_pretrained(model)
    assert after.norm == before.norm
    assert after.chat.tokenizer.chat_template == before.chat.tokenizer.chat_template
    new, old = after.model.state_dict(), before.model.state_dict()
    assert new.keys() == old.keys()
    # The vision tower learns too: of what it computes, the policy's gradient reaches the first patch.
    changed = {name for name in new if not torch.equal(new[name], old[name])}
    assert {"model.visual.patch_embed.proj.weight", "lm_head.weight"} <= changed
    assert json.loads((model / "config.json").read_text())["model_type"] == "qwen2_5_vl"
