"""All terms of the objective together against plain numpy, and rows in one batch against rows one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pxr_agents.chat import Conversation
from pxr_agents.groups import Group
from pxr_agents.types import Completion
from tests.training.rows import make_episode, make_tokens
from training.batch import TrainingRow, buckets, loss_weights, make_bucket, replay_weight
from training.config import EnvRecipe, PPORecipe
from training.loss import ENTROPY, LOGPROBS, VALUES, column, objective
from training.policy import Policy
from training.run_directory import NonFiniteError
from training.update import Update

EVERYTHING = PPORecipe(
    model="m",
    env=EnvRecipe(id="e"),
    advantage="gae",
    ent_coef=0.02,
    clip_coef_dual=2.0,
    kl_coef=0.3,
    old_logprobs="learner",
    importance_cap=1.5,
)
SEQUENCE = replace(EVERYTHING, advantage="group", ratio="sequence", clip_coef=0.05, clip_coef_high=0.08)
RATIOS = pytest.mark.parametrize("recipe", [EVERYTHING, SEQUENCE], ids=["token", "sequence"])


def make_rows(seed, lengths=((3, 4), (2,), (9, 1), (7,), (12,)), masked=False):
    rng = np.random.default_rng(seed)
    rows = []
    for k, turns in enumerate(lengths):
        tokens = make_tokens(turns)
        n, length = int(tokens.action.sum()), len(tokens.ids)
        tokens = replace(tokens, logprobs=np.where(tokens.action, -rng.exponential(size=length), 0).astype("f4"))
        names = ("advantages", "returns", "old_values", "old_logprobs", "ref_logprobs")
        columns = {name: rng.normal(size=n).astype(np.float32) for name in names}
        columns["old_logprobs"] = tokens.logprobs[tokens.action] + 0.3 * columns["old_logprobs"]
        columns["ref_logprobs"] = tokens.logprobs[tokens.action] + 0.3 * columns["ref_logprobs"]
        trained = np.arange(n) >= n // 2 if masked else None
        rows.append(TrainingRow(tokens=tokens, trained=trained, group=k // 2, **columns))
    return rows


def numpy_objective(recipe, row, logprobs, entropy, values):
    """The terms of each action id of a row, in float64, as the formulas of `training.loss` have them."""
    old, engine, a = (np.asarray(x, float) for x in (row.old_logprobs, row.engine_logprobs, row.advantages))
    ratio = np.exp(logprobs - old)
    if recipe.ratio == "sequence":
        ratio = np.full_like(ratio, np.prod(ratio[row.mask]) ** (1 / row.n_trained))
    surrogate = np.minimum(ratio * a, np.clip(ratio, 1 - recipe.clip_coef, 1 + recipe.clip_coef_high) * a)
    surrogate = np.where(a < 0, np.maximum(surrogate, recipe.clip_coef_dual * a), surrogate)
    importance = np.minimum(np.exp(old - engine), recipe.importance_cap)
    d = row.ref_logprobs - logprobs
    near = row.old_values + np.clip(values - row.old_values, -recipe.clip_coef, recipe.clip_coef)
    critic = 0.5 * np.maximum((values - row.returns) ** 2, (near - row.returns) ** 2)
    kl = np.exp(d) - 1 - d
    critic = recipe.vf_coef * critic if recipe.advantage == "gae" else 0
    return -importance * surrogate - recipe.ent_coef * entropy + recipe.kl_coef * kl + critic


@pytest.mark.parametrize("normalization", ["token", "sequence", "group", "constant"])
@pytest.mark.parametrize("masked", [False, True])
@RATIOS
def test_all_terms_against_numpy(normalization, masked, recipe):
    recipe = replace(recipe, loss_normalization=normalization)
    rows = make_rows(0, masked=masked)
    factors, units = loss_weights(rows, normalization, constant=recipe.max_tokens)
    n = float(sum(row.n_trained for row in rows))
    weighed = [replace(row, weight=factor * n / units) for row, factor in zip(rows, factors, strict=True)]
    batch = buckets(weighed)
    # Numbers of an id follow from its log-probability, so that the order of rows in the buckets does not matter.
    engine = column(batch, "engine_logprobs").double()
    out = {LOGPROBS: 1.1 * engine, ENTROPY: engine.abs(), VALUES: engine.sin()}
    for said in out.values():
        # What carries no loss may be anything.
        said[~column(batch, "mask")] = torch.nan
    loss, metrics = objective(recipe, batch, out, normalizer=n)

    total, counts = 0.0, {"token": n, "sequence": 5, "group": 3, "constant": 5 * recipe.max_tokens}
    group_sizes = [sum(row.n_trained for row in rows if row.group == g) for g in range(3)]
    for row in rows:
        x = np.asarray(row.engine_logprobs, float)
        terms = numpy_objective(recipe, row, 1.1 * x, np.abs(x), np.sin(x))[row.mask]
        size = {"sequence": row.n_trained, "group": group_sizes[row.group]}.get(normalization, 1)
        total += terms.sum() / size
    assert loss.item() == pytest.approx(total / counts[normalization], rel=1e-5)
    assert metrics["loss"] == loss.item()
    assert metrics["importance_max"] <= 1.5
    assert {"ref_kl", "importance_mean", "approx_kl"} <= metrics.keys()
    assert ("value_loss" in metrics) == (recipe.advantage == "gae")
    assert 0 < metrics["clip_frac"] < 1


@pytest.fixture
def policy(tiny_path):
    made = Policy.load(str(tiny_path), critic=True, temperature=0.9)
    torch.nn.init.normal_(made.value_head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return made


def parameters(policy):
    heads = {f"value_head.{name}": p for name, p in policy.value_head.named_parameters()}
    return heads | {f"model.{name}": p for name, p in policy.vlm.model.named_parameters()}


def talk(chat, lengths, image=None):
    """Tokens of a conversation with a turn of each length, whose ids are made up."""
    conversation = Conversation()
    images = () if image is None else (image,)
    chat.prompt(conversation, "system", {"text": "What letter is in the red box?", "images": images})
    for n in lengths:
        turn = tuple(range(20, 20 + n))
        conversation.append_completion(Completion(token_ids=turn, logprobs=(-2.0,) * n, finish_reason="length"))
        chat.reply(conversation, {"text": "red", "images": ()})
    return conversation.tokens()


def rows_of_talks(policy, noise_image):
    """Rows with an image and without, long and short."""
    rng = np.random.default_rng(1)
    image = noise_image()
    rows = []
    for lengths, shown in [((3,), image), ((2, 8), None), ((40,), image), ((5, 5), noise_image()), ((4,), None)]:
        tokens = talk(policy.vlm.chat, lengths, shown)
        n = int(tokens.action.sum())
        names = ("advantages", "returns", "old_values", "old_logprobs", "ref_logprobs")
        columns = {name: rng.normal(size=n).astype(np.float32) - 2 * ("logprobs" in name) for name in names}
        rows.append(TrainingRow(tokens=tokens, **columns))
    return rows


def gradient_of(recipe, policy, batches, normalizer):
    """Loss and gradients of the whole policy, summed over batches."""
    policy.vlm.model.zero_grad()
    policy.value_head.zero_grad()
    losses = []
    for batch in batches:
        loss, _ = objective(recipe, batch, policy(batch), normalizer=normalizer)
        loss.backward()
        losses.append(loss.item())
    return sum(losses), {name: p.grad.clone() for name, p in parameters(policy).items() if p.grad is not None}


@RATIOS
def test_rows_together_equal_rows_one_by_one(policy, noise_image, recipe):
    rows = rows_of_talks(policy, noise_image)
    n = float(sum(row.n_trained for row in rows))
    together, gradients = gradient_of(recipe, policy, [buckets(rows)], n)
    for parts in ([[make_bucket([row])] for row in rows], [[make_bucket(rows)]]):
        loss, others = gradient_of(recipe, policy, parts, n)
        assert loss == pytest.approx(together, abs=1e-5)
        assert others.keys() == gradients.keys()
        for name, gradient in gradients.items():
            # Other shapes add in another order: entries near 0 carry the rounding of the large ones.
            difference = (others[name] - gradient).norm()
            assert difference <= 1e-4 * gradient.norm() + 1e-6, f"{name}: {difference} of {gradient.norm()}"


@RATIOS
def test_idle_rows_change_nothing(policy, noise_image, recipe):
    rows = rows_of_talks(policy, noise_image)
    n = float(sum(row.n_trained for row in rows))
    alone, gradients = gradient_of(recipe, policy, [buckets(rows)], n)
    loss, others = gradient_of(recipe, policy, [[*buckets(rows), make_bucket([replace(rows[0], idle=True)])]], n)
    assert loss == pytest.approx(alone, abs=1e-6)
    assert all(torch.allclose(others[name], gradient, atol=1e-7) for name, gradient in gradients.items())


def test_a_row_without_images_reaches_every_parameter(policy):
    row = rows_of_talks(policy, lambda: None)[1]
    assert not row.tokens.images
    _, gradients = gradient_of(EVERYTHING, policy, [[make_bucket([row])]], 1.0)
    assert gradients.keys() == parameters(policy).keys()
    vision = [gradient for name, gradient in gradients.items() if ".visual." in name]
    assert vision
    assert not any(gradient.any() for gradient in vision)
    assert any(gradient.any() for name, gradient in gradients.items() if ".visual." not in name)


@pytest.mark.parametrize(
    ("mask", "kept"), [("never", [0, 1, 2, 3]), ("turns", [0, 2, 3]), ("all", [0, 3])], ids=["never", "turns", "all"]
)
def test_episodes_that_a_limit_ended_are_compared_with_and_not_learned(policy, mask, kept):
    """Before the first step all ratios are 1: the loss is minus the mean advantage of the ids that count."""
    limits, rewards, lengths = [None, "max_turns", "context", None], [1.0, 0.0, 0.0, 0.0], [3, 5, 7, 9]
    members = zip(limits, rewards, lengths, strict=True)
    episodes = [
        replace(make_episode([reward], turns=[n]), tokens=talk(policy.vlm.chat, (n,)), truncated_by=limit)
        for limit, reward, n in members
    ]
    group = Group(sample_id="s", episodes=episodes)
    plain = PPORecipe(model="m", env=EnvRecipe(id="e"), old_logprobs="learner", temperature=0.9, num_minibatches=1)
    update = Update(replace(plain, mask_truncated=mask), policy)
    [batch] = update.minibatches([group], iteration=0)
    loss = update.loss(batch, policy(batch))
    n = sum(lengths[k] for k in kept)
    assert batch.normalizer == n
    # The masked ones stay in the mean, 1/4.
    assert loss.item() == pytest.approx(-sum(lengths[k] * (rewards[k] - 0.25) for k in kept) / n, abs=1e-6)
    recipe = replace(plain, mask_truncated=mask, replay_alpha=2.0)
    assert replay_weight(group, recipe) == pytest.approx(sum((rewards[k] - 0.25) ** 2 for k in kept))
    with_critic = Update(replace(plain, mask_truncated=mask, advantage="gae"), policy)
    [batch] = with_critic.minibatches([group], iteration=0)
    assert batch.normalizer == n


def test_the_reference_says_what_the_checkpoint_says(policy, tiny_path, noise_image):
    """It is a second policy from the same checkpoint, which stays as it is where the first one moves."""
    batch = buckets(rows_of_talks(policy, noise_image))
    update = Update(replace(EVERYTHING, model=str(tiny_path), temperature=0.9), policy)
    with torch.no_grad():
        expected = policy(batch)[LOGPROBS]
        assert torch.equal(update._reference_says()(batch), expected)
        policy.vlm.model.lm_head.weight.mul_(1.5)
        assert not torch.allclose(policy(batch)[LOGPROBS], expected)
        assert torch.equal(update._reference_says()(batch), expected)


def test_a_critic_that_says_no_number_stops_before_a_step(policy, noise_image):
    tokens = talk(policy.vlm.chat, (3,), noise_image())
    episode = replace(make_episode([1.0], turns=[3], sample_id="s7"), tokens=tokens)
    torch.nn.init.constant_(policy.value_head.bias, torch.nan)
    update = Update(replace(EVERYTHING, kl_coef=0.0), policy)
    with pytest.raises(NonFiniteError, match="Not all numbers to learn from are finite in iteration 4"):
        next(update.minibatches([Group(sample_id="s7", episodes=[episode])], iteration=3))
    assert update.failed_batch["problem"] == "advantages, values of the critic"
    assert [row["sample_id"] for row in update.failed_batch["episodes"]] == ["s7"]
