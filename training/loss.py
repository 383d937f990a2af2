"""The losses of PPO (arXiv 1707.06347) on action ids, and the objective that a recipe puts together from them.

Every mean is a sum divided by a `normalizer` that the caller passes: the number of action ids of the whole batch of one
optimizer step. The losses of its pieces then add up to the loss of the whole, under gradient accumulation as under data
parallelism; where gradients are averaged over learners (DDP), it is the ids of all learners divided by their number.

`weights` change what a loss is the mean of (episodes, groups; see `training.batch.loss_weights`); metrics stay means
over ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .batch import Bucket
from .config import PPORecipe

# What a policy says of the action ids of a minibatch, all (T,): log-probabilities, entropies, values of a critic.
LOGPROBS, ENTROPY, VALUES = "logprobs", "entropy", "values"


def objective(
    recipe: PPORecipe, buckets: Sequence[Bucket], out: Mapping[str, Tensor], *, normalizer: float
) -> tuple[Tensor, dict[str, float]]:
    """Returns policy loss - ent_coef * entropy + kl_coef * KL + vf_coef * critic's loss, and its metrics.

    Args:
        recipe: coefficients, and which of the terms there are.
        buckets: the minibatch, with T action ids; those that its mask leaves out may hold anything.
        out: what the policy says of them: LOGPROBS, ENTROPY and, with a critic, VALUES.
        normalizer: see the module.
    """
    mask = column(buckets, "mask")

    def of(name: str) -> Tensor:
        # Selected before anything is computed: 0 * nan would be nan, in the loss and in its gradient.
        return (out[name] if name in out else column(buckets, name))[mask]

    common: Any = {"normalizer": normalizer, "weights": of("weights")}
    importance = None
    if recipe.importance_cap is not None:
        importance = importance_weights(of("old_logprobs"), of("engine_logprobs"), cap=recipe.importance_cap)
    loss, metrics = ppo_loss(
        of(LOGPROBS),
        of("old_logprobs"),
        of("advantages"),
        of(ENTROPY),
        clip_coef=recipe.clip_coef,
        clip_coef_high=recipe.clip_coef_high,
        clip_coef_dual=recipe.clip_coef_dual,
        ent_coef=recipe.ent_coef,
        importance=importance,
        sequences=None if recipe.ratio == "token" else _trained_per_episode(buckets),
        **common,
    )
    if recipe.kl_coef:
        penalty, kl_metrics = kl_penalty(of(LOGPROBS), of("ref_logprobs"), estimator=recipe.kl_estimator, **common)
        loss, metrics = loss + recipe.kl_coef * penalty, metrics | kl_metrics
    if recipe.advantage == "gae":
        critic = value_loss(of(VALUES), of("old_values"), of("returns"), clip_coef=recipe.clip_coef, **common)
        loss, metrics = loss + recipe.vf_coef * critic, metrics | {"value_loss": float(critic.detach())}
    return loss, metrics | {"loss": float(loss.detach())}


def column(buckets: Sequence[Bucket], name: str) -> Tensor:
    """(T,) the numbers `name` of all buckets of a minibatch."""
    return torch.cat([getattr(bucket, name) for bucket in buckets])


def _trained_per_episode(buckets: Sequence[Bucket]) -> list[int]:
    """How many ids of each episode carry a loss; an episode is a row of a bucket, and never cut."""
    rows = torch.cat([bucket.tokens.target.sum(1) for bucket in buckets])
    return [int(row.sum()) for row in column(buckets, "mask").split(rows.tolist())]


def ppo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    entropy: Tensor,
    *,
    clip_coef: float,
    clip_coef_high: float | None = None,
    clip_coef_dual: float | None = None,
    ent_coef: float,
    normalizer: float,
    weights: Tensor | float = 1.0,
    importance: Tensor | None = None,
    sequences: Sequence[int] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Returns the clipped surrogate loss minus the entropy bonus, per id, and its metrics.

    With r = exp(logprobs - old_logprobs), of each id or by `sequence_log_ratio`, and c, h, d the three clipping
    coefficients:

        surrogate = min(r A, clip(r, 1 - c, 1 + h) A),  where A < 0 at least d A (dual clip, arXiv 1912.09729)
        loss = sum(weight * (-importance * surrogate - ent_coef * entropy)) / normalizer

    Args:
        logprobs, old_logprobs: (T,) log-probability of each id under the policy that is trained, and under the one that
            the ratio is held near.
        advantages, entropy: (T,) of each id; the entropy is that of the policy's distribution, in nats.
        clip_coef, clip_coef_high: c, and h (c if None).
        clip_coef_dual: d > 1; None for no such bound.
        ent_coef: weight of the entropy.
        normalizer: see the module, > 0.
        weights, importance: (T,) factor of each id's loss, and constant factor of its surrogate (`importance_weights`).
        sequences: lengths of the sequences whose ratio is clipped as one, T in all; None to clip that of each id.

    Returns:
        The scalar loss, and metrics. Add up over the pieces of a batch: "policy_loss", "entropy", "clip_frac" (share of
        ids that have no gradient because of clipping), "approx_kl" (k3 estimate of KL(old || new) from
        single ids, http://joschu.net/blog/kl-approx.html), "ratio_mean", "importance_mean". Take the maximum of
        "..._max".

    Raises:
        ValueError: shapes differ, or the normalizer is not > 0.
    """
    _check(normalizer, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, entropy=entropy)
    log_ratio = logprobs - old_logprobs
    ratio = (log_ratio if sequences is None else sequence_log_ratio(log_ratio, sequences)).exp()
    high = 1 + (clip_coef if clip_coef_high is None else clip_coef_high)
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_coef, high) * advantages)
    clipped = ((ratio > high) & (advantages > 0)) | ((ratio < 1 - clip_coef) & (advantages < 0))
    if clip_coef_dual is not None:
        surrogate = torch.where(advantages < 0, torch.maximum(surrogate, clip_coef_dual * advantages), surrogate)
        clipped |= (ratio > clip_coef_dual) & (advantages < 0)
    if importance is not None:
        surrogate = importance * surrogate
    policy_loss = -(weights * surrogate).sum() / normalizer
    loss = policy_loss - ent_coef * ((weights * entropy).sum() / normalizer)

    with torch.no_grad():
        kl = (log_ratio.exp() - 1) - log_ratio
        means = {"entropy": entropy, "clip_frac": clipped, "approx_kl": kl, "ratio_mean": ratio}
        largest = {"ratio_max": ratio}
        if importance is not None:
            means["importance_mean"] = largest["importance_max"] = importance
        metrics = {"policy_loss": float(policy_loss)}
        metrics |= {name: float(numbers.sum() / normalizer) for name, numbers in means.items()}
        metrics |= {name: float(numbers.max()) if len(numbers) else 0.0 for name, numbers in largest.items()}
    return loss, metrics


def sequence_log_ratio(log_ratio: Tensor, sequences: Sequence[int]) -> Tensor:
    """Returns the logarithm of GSPO-token's ratio (arXiv 2507.18071, equation 14) of each id.

    Its value is the same for all ids of a sequence, the mean of their log-ratios (equation 7); its gradient is that of
    the id's own log-probability. With one advantage per sequence and the mean over its ids, this has GSPO's loss,
    clipping and gradient (section 4.3), and the loss stays a sum over ids, which every normalization can weigh.

    Args:
        log_ratio: (T,) of each id, sequence after sequence.
        sequences: their lengths, T in all; some may be 0.
    """
    held = log_ratio.detach()
    means = torch.cat([part.mean().expand(len(part)) for part in held.split(list(sequences))])
    return means + (log_ratio - held)


def importance_weights(old_logprobs: Tensor, engine_logprobs: Tensor, *, cap: float) -> Tensor:
    """Returns min(pi_learner / pi_engine, cap) of each id: truncated importance sampling (TIS).

    An engine and a learner with the same weights compute slightly different probabilities, and a replayed episode comes
    from older weights: the gradient is an average over ids that another policy drew. The ratio makes up for it;
    truncating it keeps its variance bounded, at the price of a bias where it exceeds the cap. Source: Yao et al., "Your
    Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025,
    https://fengyao.notion.site/off-policy-rl);
    truncation: Ionides, "Truncated Importance Sampling" (2008).

    Args:
        old_logprobs, engine_logprobs: (T,) of each id, what the learner says before its first step, and what the engine
            said when it sampled it.
        cap: the largest weight.
    """
    return (old_logprobs - engine_logprobs).exp().clamp(max=cap).detach()


def kl_penalty(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    *,
    estimator: Literal["k1", "k2", "k3"],
    normalizer: float,
    weights: Tensor | float = 1.0,
) -> tuple[Tensor, dict[str, float]]:
    """Returns an estimate of KL(policy || reference) from the sampled ids; multiply it by kl_coef and add it.

    With d = ref_logprobs - logprobs (Schulman, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html):

        k1 = -d              unbiased, noisy, may be negative; as a loss its gradient is 0 in expectation on policy,
                             so that it measures but does not pull
        k2 = d^2 / 2         biased; its gradient is that of the KL in expectation on policy
        k3 = exp(d) - 1 - d  unbiased, never negative, the usual choice (GRPO, arXiv 2402.03300)

    Args:
        logprobs, ref_logprobs: (T,) log-probability of each id under the policy that is trained, and the reference.
        estimator, normalizer, weights: which one; as in `ppo_loss`.

    Returns:
        The scalar penalty, and "ref_kl": the mean of the estimate over ids.

    Raises:
        ValueError: as in `ppo_loss`, or there is no such estimator.
    """
    _check(normalizer, logprobs=logprobs, ref_logprobs=ref_logprobs)
    difference = ref_logprobs - logprobs
    if estimator == "k1":
        estimate = -difference
    elif estimator == "k2":
        estimate = difference.square() / 2
    elif estimator == "k3":
        estimate = difference.exp() - 1 - difference
    else:
        raise ValueError(f"estimator is {estimator!r}; expected 'k1', 'k2' or 'k3'")
    return (weights * estimate).sum() / normalizer, {"ref_kl": float(estimate.detach().sum() / normalizer)}


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    *,
    clip_coef: float,
    normalizer: float,
    weights: Tensor | float = 1.0,
) -> Tensor:
    """Returns half the mean squared error of the critic; multiply it by vf_coef and add it to `ppo_loss`.

    Args:
        values, old_values: (T,) value of the state in which each id was chosen, now and at sampling time.
        returns: (T,) the targets, from `training.advantages.gae`.
        clip_coef: a value that moved further than this from its old one earns nothing by it.
        normalizer, weights: as in `ppo_loss`.

    Raises:
        ValueError: as in `ppo_loss`.
    """
    _check(normalizer, values=values, old_values=old_values, returns=returns)
    near = old_values + (values - old_values).clamp(-clip_coef, clip_coef)
    error = torch.maximum((values - returns).square(), (near - returns).square())
    return 0.5 * (weights * error).sum() / normalizer


def logprob_gap(logprobs: Tensor, old_logprobs: Tensor) -> dict[str, float]:
    """Returns "logprob_gap_mean" and "logprob_gap_max", the absolute differences of (T,) log-probabilities in nats, T >
    0.

    Before the first optimizer step both come from the same weights: what is left is the disagreement of the engine that
    sampled and the learner that trains, which should be rounding (1e-5 in float32).
    """
    gap = (logprobs.detach() - old_logprobs).abs()
    return {"logprob_gap_mean": float(gap.mean()), "logprob_gap_max": float(gap.max())}


def _check(normalizer: float, **tensors: Tensor) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if any(shape != shapes[next(iter(shapes))] for shape in shapes.values()):
        raise ValueError(f"shapes are {shapes}; expected one number of each per action id")
    if not normalizer > 0:
        raise ValueError(f"normalizer is {normalizer!r}; expected the number of action ids of the batch, > 0")
