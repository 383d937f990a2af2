"""Training on data in the released RL format, made of real photographs with small labels drawn in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import ray
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents import tiny
from tests.training.uneven import uneven
from training.config import EnvRecipe, PPORecipe, SFTRecipe
from training.demonstrations import Trace, answer_turn, write_traces, zoom_turn
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.run import run_ppo
from training.sft_run import run_sft

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

QUESTION = "Which digit is in the white box?"


@pytest.fixture(scope="module")
def env_recipe(tmp_path_factory: pytest.TempPathFactory) -> EnvRecipe:
    """Six photographs from 451x300 to 640x427 pixels, shown within 16 vision tokens."""
    sklearn = pytest.importorskip("sklearn.datasets")
    skimage = pytest.importorskip("skimage.data")
    directory = tmp_path_factory.mktemp("photographs")
    (directory / "images").mkdir()
    photographs = [*sklearn.load_sample_images().images]
    photographs += [getattr(skimage, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    rows = []
    for number, photograph in enumerate(photographs):
        picture = Image.fromarray(photograph)
        draw = ImageDraw.Draw(picture)
        draw.rectangle((100, 90, 119, 109), fill="white")
        draw.text((105, 93), str(number), fill="black")
        picture.save(directory / "images" / f"{number}.png")
        image = [f"images/{number}.png"]
        rows.append({"qid": f"q{number}", "question": QUESTION, "answer": [str(number)], "image": image})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), directory / "release.parquet")
    budget = {"min_pixels": 28 * 28 * 4, "max_pixels": 28 * 28 * 16, "size_multiple": 28}
    limits = {"operations": ["zoom_in"], "max_turns": 3, "max_operations": 2}
    kwargs = {"data": str(directory), "coordinates": "pixel", **limits, **budget}
    return EnvRecipe(id="pxr_env:pxr/RLData-v0", kwargs=kwargs)


@pytest.fixture(scope="module")
def warm(env_recipe: EnvRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that zooms anywhere and answers with any digit, after supervised training on such traces."""
    out = tmp_path_factory.mktemp("warm")
    env: Any = gymnasium.make(env_recipe.id, **env_recipe.kwargs)
    rng, traces, texts = np.random.default_rng(0), [], [QUESTION]
    for k in range(48):
        _, info = env.reset(options={"sample_id": f"q{k % 6}"})
        x, y = rng.integers(0, 200, 2)
        zooms = [zoom_turn(env, (x, y, x + 100, y + 60))] if k % 2 else []
        turns = (*zooms, answer_turn(env, str(rng.integers(0, 6))))
        traces.append(Trace(env=env_recipe, sample_id=f"q{k % 6}", turns=turns))
        texts += [turn.text for turn in turns] + [env.step(turn.text)[0]["text"] for turn in turns]
    write_traces(out / "traces.jsonl", traces)
    tiny.build(out / "base", texts, r"\d+", [info["system_prompt"]], seed=0)
    recipe = SFTRecipe(
        model=str(out / "base"),
        traces=str(out / "traces.jsonl"),
        out=str(out / "sft"),
        steps=60,
        batch_size=8,
        lr=3e-3,
        lr_warmup_steps=5,
        wandb=False,
    )
    return run_sft(recipe)


@pytest.fixture
def recipe(env_recipe: EnvRecipe, warm: Path, tmp_path: Path) -> PPORecipe:
    return PPORecipe(
        model=str(warm),
        env=env_recipe,
        out=str(tmp_path / "run"),
        iterations=2,
        groups_per_iteration=6,
        group_size=4,
        num_env_runners=2,
        num_cpus_per_env_runner=0.5,
        lr=1e-3,
        lr_warmup_iterations=0,
        lr_decay_fraction=0.0,
        max_tokens=32,
        wandb=False,
    )


def test_two_iterations_on_two_env_runners(recipe, warm):
    # With six answers to choose from, all may be wrong: then there would be nothing to learn.
    model = run_ppo(replace(recipe, env=uneven(recipe.env)))
    lines = [json.loads(line) for line in (Path(recipe.out) / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    for line in lines:
        assert line["n_episodes"] == 24
        assert line["learner/logprob_gap_max"] < 1e-4
        assert line["learner/grad_norm"] > 0
        # The data knows nothing of evidence, so nothing is said about it.
        assert not {"hit_rate", "accuracy_easy", "needless_rate"} & line.keys()
    assert 0 < lines[0]["usage_rate"] < 1
    before, after = load_file(warm / "model.safetensors"), load_file(model / "model.safetensors")
    assert before.keys() == after.keys()
    vision = [name for name in before if "visual" in name]
    assert vision
    assert any(not torch.equal(before[name], after[name]) for name in vision)


def test_a_lost_file_is_named_across_processes(recipe, env_recipe):
    algorithm = VLMPPOConfig().recipe(recipe).build_algo()
    groups = algorithm.sampler.sample(["q0", "q1"])
    images = [ray.get(group.group).episodes[0].tokens.images[0] for group in groups]
    assert [image.shape for image in images] == [(84, 112, 3), (84, 112, 3)]
    lost = Path(env_recipe.kwargs["data"]) / "images" / "3.png"
    content = lost.read_bytes()
    lost.unlink()
    try:
        [group] = algorithm.sampler.sample(["q3"])
        assert group.sample_id != "q3"
        assert [fault.kind for fault in algorithm.books.faults] == ["stuck", "stuck", "given up"]
        assert all("images/3.png" in fault.text for fault in algorithm.books.faults)
    finally:
        lost.write_bytes(content)
        algorithm.stop()
