"""The recipes that come with the package can be read, and fit the machines that their comments name."""

from __future__ import annotations

import re

import gymnasium
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from pxr_agents.random_checkpoint import build_random
from pxr_agents.tiny import learn_bpe
from tests.training.published import write_config
from training.config import PPORecipe, SFTRecipe, TracesRecipe, load_recipe
from training.conversation_bound import REFUSAL, conversation_bound
from training.costs import estimate, transient
from training.doctor import load_any, parts_of, processes
from training.machine import GIB
from training.plan import make_plan, notes
from training.recipe_reader import RECIPES

#: All of them, and how many GPUs they ask for.
KINDS = {
    "traces_tiny": (TracesRecipe, 0),
    "sft_tiny": (SFTRecipe, 0),
    "ppo_tiny": (PPORecipe, 0),
    "sft_7b_8gpu": (SFTRecipe, 8),
    "ppo_3b_lora_1gpu": (PPORecipe, 1),
    "ppo_7b_8gpu": (PPORecipe, 8),
    "ppo_7b_4x8_4x8": (PPORecipe, 64),
}
LARGE = pytest.mark.parametrize("name", ["ppo_3b_lora_1gpu", "ppo_7b_8gpu", "ppo_7b_4x8_4x8"])
# Of Qwen2.5-VL as published: parameters, width, layers, vocabulary.
SIZES = {"3b": (3_754_622_976, 2048, 36, 151_936), "7b": (8_292_166_656, 3584, 28, 152_064)}
# Linear layers of one of the 36 layers of the 3B model: queries, keys, values, output; gate, up, down.
LAYER_3B = [(2048, 2048), (256, 2048), (256, 2048), (2048, 2048), (11008, 2048), (11008, 2048), (2048, 11008)]


@pytest.mark.parametrize("name", sorted(KINDS.keys() | {path.stem for path in RECIPES.glob("*.toml")}))
def test_a_recipe_can_be_read_and_begins_with_what_it_is_for(name):
    kind, n_gpus = KINDS[name]
    recipe = load_recipe(name, kind)
    assert type(load_any(name)) is kind
    text = (RECIPES / f"{name}.toml").read_text()
    assert text.startswith("# ")
    assert re.search(rf"python -m training (ppo|sft|traces) {name}\b", text)
    if n_gpus:
        assert sum(count * each for count, _, each in processes(recipe).values()) == n_gpus
        assert "# Memory" in text
        assert "deepspeed" in parts_of(recipe)


@pytest.mark.parametrize("name", [name for name, (_, n_gpus) in KINDS.items() if n_gpus])
def test_comments_are_what_the_plan_says(name, tmp_path):
    plan = make_plan(name, [f"model={write_config(tmp_path, '3b' if '3b' in name else '7b')}"])
    comments = (RECIPES / f"{name}.toml").read_text().splitlines()
    assert plan.fits
    assert [line for line in notes(plan) if f"# {line}".rstrip() not in comments] == []


@LARGE
def test_learners_and_engines_fit_gpus_of_80_gigabytes(name):
    recipe = load_recipe(name, PPORecipe)
    n, width, n_layers, n_vocabulary = SIZES["3b" if "3b" in name else "7b"]
    adapters = 36 * recipe.learner.lora_rank * sum(out + into for out, into in LAYER_3B)
    stays = estimate(recipe, n + adapters, adapters or None)
    learner = (
        stays.total
        - stays.host
        + transient(
            recipe,
            n_tokens=recipe.learner.micro_batch_tokens,
            # The longest answers that a conversation can hold.
            n_actions=recipe.max_tokens * recipe.env.kwargs["max_turns"],
            width=width,
            n_layers=n_layers,
            n_vocabulary=n_vocabulary,
            largest_layer=n_vocabulary * width,
        )
    )
    room = 80e9 * 0.95
    engine = recipe.engine.vllm.gpu_memory_utilization * 80e9
    assert engine > 2 * n + 4 * GIB  # weights, and some cache
    shares = recipe.num_gpus_per_learner + recipe.engine.num_gpus_per_engine <= 1
    assert learner + (engine if shares else 0) < room


def rl_data(folder):
    """A question of 512 characters about an image, and one about a video."""
    for k in range(9):
        Image.new("RGB", (56, 56)).save(folder / f"{k}.png")
    question = ("What is written on the cup to the left of the lamp? " * 10)[:512]
    pictures = {"image": ["0.png"], "video": [f"{k}.png" for k in range(1, 9)]}
    rows = [
        {"question": question, "answer": ["B"], "image": files, "qid": kind, "is_video": kind == "video"}
        for kind, files in pictures.items()
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "release.parquet")
    return str(folder)


@LARGE
def test_conversations_fit_the_engine_and_the_learner_as_the_comment_says(name, tmp_path):
    recipe = load_recipe(name, PPORecipe)
    data = {"data": rl_data(tmp_path)} if "data" in recipe.env.kwargs else {}
    env = gymnasium.make(recipe.env.id, **recipe.env.kwargs | data).unwrapped
    # Words that it was made of are single ids, as in a published vocabulary.
    words = learn_bpe([env.system_prompt, "What is written on the cup to the left of the lamp?", REFUSAL], n_merges=800)
    chat = build_random(tmp_path / "model", "qwen2.5-vl", bpe=words).chat
    bound, vllm = conversation_bound(env, chat, max_tokens=recipe.max_tokens), recipe.engine.vllm
    assert bound.total <= vllm.max_model_len <= recipe.learner.micro_batch_tokens
    assert bound.n_images <= vllm.images_per_prompt
    assert recipe.aligned_engine.vllm.dtype == recipe.learner.dtype == "bfloat16"
    assert (recipe.clip_coef_dual, recipe.old_logprobs, recipe.importance_cap) == (3.0, "learner", 2.0)
    comment = re.sub(r"\s+#?\s*", " ", (RECIPES / f"{name}.toml").read_text())
    [total, room, *parts] = (
        int(number.replace(",", ""))
        for number in re.search(
            r"at most ([\d,]+) of ([\d,]+) ids .*?: prompt ([\d,]+), images ([\d,]+), replies ([\d,]+), turns ([\d,]+)",
            comment,
        ).groups()
    )
    assert (total, room) == (sum(parts), vllm.max_model_len)
    assert (parts[1], parts[3]) == (bound.images, bound.turns)
    # The published vocabulary has other ids for the text.
    assert (bound.prompt, bound.replies) == pytest.approx((parts[0], parts[2]), rel=0.35)


def test_the_warm_start_reads_what_the_traces_recipe_writes():
    assert load_recipe("sft_tiny", SFTRecipe).traces == load_recipe("traces_tiny", TracesRecipe).out


def test_the_paper_s_setting():
    recipe = load_recipe("ppo_7b_4x8_4x8", PPORecipe)
    assert (recipe.groups_per_iteration, recipe.group_size, recipe.num_minibatches) == (512, 8, 2)
    assert (recipe.lr, recipe.clip_coef, recipe.clip_coef_high, recipe.temperature) == (1e-6, 0.2, 0.35, 1.0)
    assert (recipe.kl_coef, recipe.advantage, recipe.normalize_std) == (0.0, "group", False)
    assert (recipe.env.kwargs["max_images"], recipe.env.kwargs["max_operations"]) == (16, 4)
    assert (recipe.curiosity.preset, recipe.uniform_groups) == ("paper", "replay")
    # Every conversation of an iteration runs at once.
    assert recipe.num_env_runners * recipe.max_envs_per_runner == 512 * 8


def test_the_environment_of_the_recipe_without_data_can_be_made():
    recipe = load_recipe("ppo_3b_lora_1gpu", PPORecipe)
    env = gymnasium.make(recipe.env.id, **recipe.env.kwargs)
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        for image in observation["images"]:
            assert image.shape[0] % 28 == image.shape[1] % 28 == 0
            assert image.shape[0] * image.shape[1] <= 504 * 504
    env.close()
