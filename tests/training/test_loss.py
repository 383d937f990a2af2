"""The losses of PPO against gradients derived by hand, and the default objective against the plain formula."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.rows import make_tokens
from training.batch import TrainingRow, buckets
from training.config import EnvRecipe, PPORecipe
from training.loss import (
    ENTROPY,
    LOGPROBS,
    VALUES,
    column,
    importance_weights,
    kl_penalty,
    logprob_gap,
    objective,
    ppo_loss,
    value_loss,
)

CLIP = {"clip_coef": 0.2, "clip_coef_high": 0.28}


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def one_token(ratio, advantage, **changes):
    """The loss, its gradient with respect to the log-probability, and the metrics of a token with this ratio."""
    logprob = tensor(-1.0 + math.log(ratio)).requires_grad_()
    arguments = {**CLIP, "ent_coef": 0.0, "normalizer": 1} | changes
    loss, metrics = ppo_loss(logprob, tensor(-1.0), tensor(advantage), tensor(0.0), **arguments)
    (gradient,) = torch.autograd.grad(loss, logprob)
    return loss.item(), gradient.item(), metrics


class TestPpoLoss:
    def test_first_update_has_ratio_one_and_loss_minus_mean_advantage(self):
        logprobs = tensor(-0.1, -2.0, -3.0)
        loss, metrics = ppo_loss(
            logprobs, logprobs.clone(), tensor(1.0, -2.0, 4.0), tensor(0.5, 0.6, 0.7), ent_coef=0.0, normalizer=3,
            **CLIP,
        )  # fmt: skip
        assert loss.item() == pytest.approx(-(1 - 2 + 4) / 3)
        assert metrics["ratio_mean"] == metrics["ratio_max"] == 1.0
        assert metrics["entropy"] == pytest.approx(0.6)
        for name in ("clip_frac", "approx_kl"):
            assert metrics[name] == 0.0

    @pytest.mark.parametrize(
        ("ratio", "advantage", "dual", "loss", "gradient", "clip_frac"),
        [
            # Inside the bounds: loss -r A, gradient d(-r A)/dlogp = -r A
            (1.1, 2.0, None, -2.2, -2.2, 0),
            (0.9, -2.0, None, 1.8, 1.8, 0),
            # Beyond the bound the advantage pushes to: -1.28 * 2 and -.8 * -2, constant
            (1.5, 2.0, None, -2.56, 0.0, 1),
            (0.5, -2.0, None, 1.6, 0.0, 1),
            # Beyond the other bound nothing is clipped: the update goes back
            (0.5, 2.0, None, -1.0, -1.0, 0),
            (1.5, -2.0, None, 3.0, 3.0, 0),
            # Dual clip: a negative advantage counts at most three times, -(3 * -2), constant.
            (5.0, -2.0, 3.0, 6.0, 0.0, 1),
            # Below three times nothing changes, and a positive advantage is none of its business.
            (2.0, -2.0, 3.0, 4.0, 4.0, 0),
            (5.0, 2.0, 3.0, -2.56, 0.0, 1),
        ],
    )
    def test_gradient_by_hand(self, ratio, advantage, dual, loss, gradient, clip_frac):
        got_loss, got_gradient, metrics = one_token(ratio, advantage, clip_coef_dual=dual)
        assert got_loss == pytest.approx(loss)
        assert got_gradient == pytest.approx(gradient)
        assert metrics["clip_frac"] == clip_frac

    def test_clip_coef_holds_on_both_sides_by_default(self):
        assert one_token(1.25, 1.0)[1] == pytest.approx(-1.25)
        assert one_token(1.25, 1.0, clip_coef_high=None)[1] == 0.0

    def test_metrics_by_hand(self):
        # ratios 2 and 1/2: logarithms +-.6931; k3 = (2 - 1 - .6931) + (.5 - 1 + .6931) = .5 over two tokens
        log2 = math.log(2)
        _, metrics = ppo_loss(
            tensor(-1 + log2, -1 - log2), tensor(-1, -1), tensor(1.0, 1.0), tensor(0, 0),
            ent_coef=0.0, normalizer=2, **CLIP,
        )  # fmt: skip
        expected = {"approx_kl": 0.25, "ratio_mean": 1.25, "ratio_max": 2.0, "clip_frac": 0.5}
        assert {name: metrics[name] for name in expected} == pytest.approx(expected)

    def test_entropy_is_rewarded(self):
        entropy = tensor(0.4, 0.8).requires_grad_()
        still = tensor(-1.0, -1.0)
        loss, _ = ppo_loss(still, still, tensor(0.0, 0.0), entropy, ent_coef=0.1, normalizer=2, **CLIP)
        assert loss.item() == pytest.approx(-0.1 * 0.6)
        assert torch.autograd.grad(loss, entropy)[0].tolist() == pytest.approx([-0.05, -0.05])

    @given(st.data(), st.integers(2, 12))
    def test_pieces_with_one_normalizer_add_up_to_the_whole(self, data, length):
        numbers = st.lists(st.floats(-3, 3), min_size=length, max_size=length)
        columns = [tensor(*data.draw(numbers)) for _ in range(4)]
        cut = data.draw(st.integers(0, length))

        def of(part):
            logprobs, old, advantages, entropy = (column[part].clone() for column in columns)
            logprobs.requires_grad_()
            loss, metrics = ppo_loss(logprobs, old, advantages, entropy, ent_coef=0.01, normalizer=length, **CLIP)
            return loss.item(), torch.autograd.grad(loss, logprobs)[0].tolist(), metrics

        (whole, gradient, metrics), first, second = of(slice(None)), of(slice(cut)), of(slice(cut, None))
        assert first[0] + second[0] == pytest.approx(whole)
        assert first[1] + second[1] == pytest.approx(gradient)
        for name, value in metrics.items():
            pair = first[2][name], second[2][name]
            assert (max(pair) if name.endswith("_max") else sum(pair)) == pytest.approx(value)

    def test_weights_and_importance_by_hand(self):
        logprobs, entropy = tensor(-1.0, -2.0).requires_grad_(), tensor(0.5, 0.25).requires_grad_()
        loss, metrics = ppo_loss(
            logprobs, tensor(-1.0, -2.0), tensor(2.0, -1.0), entropy, ent_coef=0.1, normalizer=2,
            weights=tensor(3.0, 0.5), importance=tensor(0.5, 2.0), **CLIP,
        )  # fmt: skip
        # Surrogates .5 * 2 and 2 * -1: -(3 * 1 + .5 * -2) / 2 = -1; entropies (3 * .5 + .5 * .25) / 2 = .8125
        assert loss.item() == pytest.approx(-1 - 0.1 * 0.8125)
        assert metrics["policy_loss"] == pytest.approx(-1)
        # Metrics are means over tokens, whatever the loss is a mean over.
        assert metrics["entropy"] == pytest.approx(0.375)
        assert metrics["importance_mean"] == pytest.approx(1.25)
        assert metrics["importance_max"] == 2.0
        gradients = torch.autograd.grad(loss, [logprobs, entropy])
        assert gradients[0].tolist() == pytest.approx([-3 * 0.5 * 2 / 2, -0.5 * 2 * -1 / 2])
        assert gradients[1].tolist() == pytest.approx([-0.1 * 3 / 2, -0.1 * 0.5 / 2])

    def test_the_ratio_of_a_sequence_by_hand(self):
        # Ratios 1.5 and .96 have the geometric mean 1.2, beyond 1.1 and below 1.28; the third id is alone with .81.
        logprobs = (tensor(-1, -1, -1) + tensor(1.5, 0.96, 0.81).log()).requires_grad_()
        still = tensor(-1, -1, -1)
        arguments = {"ent_coef": 0.0, "normalizer": 3, "sequences": [2, 0, 1], "clip_coef": 0.1}
        loss, metrics = ppo_loss(logprobs, still, tensor(2, -2, -1), tensor(0, 0, 0), **arguments, clip_coef_high=0.1)
        # 1.1 * 2 is clipped, 1.2 * -2 is not, .9 * -1 is: as GSPO-token has it where advantages differ.
        assert loss.item() == pytest.approx(-(2.2 - 2.4 - 0.9) / 3)
        assert torch.autograd.grad(loss, logprobs)[0].tolist() == pytest.approx([0, 2.4 / 3, 0])
        assert metrics["ratio_mean"] == pytest.approx((1.2 + 1.2 + 0.81) / 3)
        assert (metrics["ratio_max"], metrics["clip_frac"]) == pytest.approx((1.2, 2 / 3))
        _, by_token = ppo_loss(logprobs, still, tensor(2, -2, -1), tensor(0, 0, 0), **arguments | {"sequences": None})
        assert metrics["approx_kl"] == by_token["approx_kl"]

    @given(st.lists(st.tuples(st.integers(1, 6), st.floats(-2, 2)), min_size=1, max_size=6), st.integers(0, 99))
    def test_means_over_sequences_are_gspo(self, sequences, seed):
        """Equation 5 of arXiv 2507.18071 as it stands, with its gradient through the ratio of the whole sequence."""
        rng = torch.Generator().manual_seed(seed)
        lengths, advantages = zip(*sequences, strict=True)
        old, moves = torch.randn(2, sum(lengths), generator=rng, dtype=torch.float64)
        logprobs = (old + 0.3 * moves).requires_grad_()
        losses = []
        for new, before, advantage in zip(logprobs.split(lengths), old.split(lengths), advantages, strict=True):
            ratio = ((new - before).sum() / len(new)).exp()
            losses.append(-torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage))
        expected = torch.stack(losses).mean()

        per_id = tensor(*lengths).repeat_interleave(torch.tensor(lengths))
        spread = tensor(*advantages).repeat_interleave(torch.tensor(lengths))
        loss, _ = ppo_loss(
            logprobs, old, spread, torch.zeros(len(old)), weights=1 / per_id, normalizer=len(lengths), ent_coef=0.0,
            sequences=lengths, **CLIP,
        )  # fmt: skip
        assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
        ours, theirs = (torch.autograd.grad(value, logprobs)[0] for value in (loss, expected))
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)

    def test_mistakes(self):
        three = torch.zeros(3)
        options = {"clip_coef": 0.2, "ent_coef": 0.0}
        with pytest.raises(ValueError, match=r"'advantages': \[1\]"):
            ppo_loss(three, three, torch.zeros(1), three, normalizer=3, **options)
        with pytest.raises(ValueError, match="normalizer is 0"):
            ppo_loss(three, three, three, three, normalizer=0, **options)


class TestValueLoss:
    @pytest.mark.parametrize(
        ("value", "target", "loss", "gradient"),
        [
            # Old value 1, clip .5. Within reach of the old value: the plain loss.
            (1.25, 3.0, 0.5 * 1.75**2, -1.75),
            # Moved .75 towards the target: the loss of 1.5, constant.
            (1.75, 3.0, 0.5 * 1.5**2, 0.0),
            # Moved too far away from the target: the plain loss is larger and leads back.
            (1.75, 0.0, 0.5 * 1.75**2, 1.75),
        ],
    )
    def test_clipped(self, value, target, loss, gradient):
        values = tensor(value).requires_grad_()
        got = value_loss(values, tensor(1.0), tensor(target), clip_coef=0.5, normalizer=1)
        assert got.item() == pytest.approx(loss)
        assert torch.autograd.grad(got, values)[0].item() == pytest.approx(gradient)

    def test_it_is_weighed_as_the_policy_is(self):
        values = tensor(1.0, 3.0)
        loss = value_loss(values, values, tensor(0.0, 1.0), clip_coef=0.2, normalizer=2, weights=tensor(2.0, 0.5))
        assert loss.item() == pytest.approx(0.5 * (2 * 1 + 0.5 * 4) / 2)

    def test_mistakes(self):
        with pytest.raises(ValueError, match=r"'returns': \[2\]"):
            value_loss(tensor(1.0), tensor(1.0), tensor(1.0, 2.0), clip_coef=0.2, normalizer=1)


def test_logprob_gap():
    gap = logprob_gap(tensor(-1.0, -2.0), tensor(-1.5, -1.75))
    assert gap == {"logprob_gap_mean": 0.375, "logprob_gap_max": 0.5}


def test_importance_weights_are_cut_at_the_cap_and_carry_no_gradient():
    old = tensor(math.log(0.5), math.log(0.9), math.log(0.1)).requires_grad_()
    weights = importance_weights(old, tensor(math.log(0.4), math.log(0.1), math.log(0.2)), cap=2.0)
    assert weights.tolist() == pytest.approx([1.25, 2.0, 0.5])
    assert not weights.requires_grad


class TestKlPenalty:
    @pytest.mark.parametrize(
        ("estimator", "value", "gradient"),
        [
            # d = log(.2 / .5) = -.9163; derivatives with respect to the log-probability, whose d has slope -1
            ("k1", 0.916291, 1.0),
            ("k2", 0.419794, 0.916291),
            ("k3", 0.316291, 0.6),
        ],
    )
    def test_by_hand(self, estimator, value, gradient):
        logprob = tensor(math.log(0.5)).requires_grad_()
        other = tensor(math.log(0.2))
        penalty, metrics = kl_penalty(logprob, other, estimator=estimator, normalizer=2, weights=tensor(4.0))
        assert penalty.item() == pytest.approx(4 * value / 2, abs=1e-5)
        assert metrics["ref_kl"] == pytest.approx(value / 2, abs=1e-5)
        assert torch.autograd.grad(penalty, logprob)[0].tolist() == pytest.approx([4 * gradient / 2], abs=1e-5)

    @given(st.lists(st.floats(-4, 4), min_size=2, max_size=6), st.data())
    def test_in_expectation(self, logits, data):
        # Summed over all tokens with their probabilities: k1 and k3 are the divergence itself; the gradient of k2
        # is the divergence's, that of k1 is 0.
        other = tensor(*data.draw(st.lists(st.floats(-4, 4), min_size=len(logits), max_size=len(logits))))
        x = tensor(*logits).requires_grad_()
        logprobs, ref = x.log_softmax(0), other.log_softmax(0)
        probabilities = logprobs.detach().exp()
        kl = (logprobs.exp() * (logprobs - ref)).sum()

        def expected(estimator):
            return kl_penalty(logprobs, ref, estimator=estimator, normalizer=1, weights=probabilities)[0]

        assert expected("k1").item() == pytest.approx(kl.item(), abs=1e-9)
        assert expected("k3").item() == pytest.approx(kl.item(), abs=1e-9)
        (slope,) = torch.autograd.grad(kl, x, retain_graph=True)
        assert torch.autograd.grad(expected("k2"), x, retain_graph=True)[0].tolist() == pytest.approx(
            slope.tolist(), abs=1e-9
        )
        assert torch.autograd.grad(expected("k1"), x)[0].tolist() == pytest.approx([0.0] * len(logits), abs=1e-9)

    def test_mistakes(self):
        with pytest.raises(ValueError, match="estimator is 'k4'; expected 'k1', 'k2' or 'k3'"):
            kl_penalty(tensor(1.0), tensor(1.0), estimator="k4", normalizer=1)
        with pytest.raises(ValueError, match=r"'ref_logprobs': \[2\]"):
            kl_penalty(tensor(1.0), tensor(1.0, 2.0), estimator="k1", normalizer=1)


def plain_ppo(logprobs, old_logprobs, advantages, entropy, *, low, high, ent_coef, normalizer):
    ratio = (logprobs - old_logprobs).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    return -surrogate.sum() / normalizer - ent_coef * (entropy.sum() / normalizer)


def plain_critic(values, old_values, returns, *, clip, normalizer):
    near = old_values + (values - old_values).clamp(-clip, clip)
    error = torch.maximum((values - returns).square(), (near - returns).square())
    return 0.5 * error.sum() / normalizer


@pytest.mark.parametrize("advantage", ["group", "gae"])
@pytest.mark.parametrize("seed", range(5))
def test_the_default_objective_is_the_plain_one(advantage, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(12):
        tokens = make_tokens(rng.integers(1, 20, rng.integers(1, 4)).tolist())
        numbers = rng.normal(size=(3, int(tokens.action.sum()))).astype(np.float32)
        critic = {"returns": numbers[1], "old_values": numbers[2]} if advantage == "gae" else {}
        rows.append(TrainingRow(tokens=tokens, advantages=numbers[0], **critic))
    batch = buckets(rows)
    assert len(batch) > 1
    old_logprobs = column(batch, "engine_logprobs")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, len(old_logprobs), generator=generator)
    out = {LOGPROBS: old_logprobs + 0.3 * noise[0], ENTROPY: noise[1].abs(), VALUES: noise[2]}
    leaves = [tensor.requires_grad_() for tensor in out.values()]
    recipe = PPORecipe(model="m", env=EnvRecipe(id="e"), advantage=advantage, ent_coef=0.01)

    n = float(len(old_logprobs))
    loss, _ = objective(recipe, batch, out, normalizer=n)
    plain = plain_ppo(
        out[LOGPROBS], old_logprobs, column(batch, "advantages"), out[ENTROPY],
        low=0.2, high=0.35, ent_coef=0.01, normalizer=n,
    )  # fmt: skip
    if advantage == "gae":
        plain = plain + 0.5 * plain_critic(
            out[VALUES], column(batch, "old_values"), column(batch, "returns"), clip=0.2, normalizer=n
        )
    assert torch.equal(loss, plain)
    used = leaves if advantage == "gae" else leaves[:2]
    for ours, theirs in zip(torch.autograd.grad(loss, used), torch.autograd.grad(plain, used), strict=True):
        assert torch.equal(ours, theirs)
