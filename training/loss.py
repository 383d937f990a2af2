"""The losses of PPO (arXiv 1707.06347) on action tokens: plain functions on tensors.

Every mean is a sum divided by a `normalizer` that the caller passes: the number of action tokens of the whole batch
of one optimizer step. The losses of its pieces then add up to the loss of the whole, however long the episodes of a
piece are, under gradient accumulation as under data parallelism. Where gradients are averaged over learners (DDP),
pass the tokens of all learners divided by the number of learners.

`weights` change what a loss is the mean of (episodes, groups; see `training.batch.loss_weights`); metrics stay means
over tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


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
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    importance: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Returns the clipped surrogate loss minus the entropy bonus, per token, and its metrics.

    With r = exp(logprobs - old_logprobs), of each token, and c, h, d the three clipping coefficients:

        surrogate = min(r A, clip(r, 1 - c, 1 + h) A),  where A < 0 at least d A (dual clip, arXiv 1912.09729)
        loss = sum(weight * (-importance * surrogate - ent_coef * entropy)) / normalizer

    Args:
        logprobs, old_logprobs: (T,) log-probability of each token under the policy that is trained, and under the one
            that the ratio is held near: its engine's, or the learner's own before its first step.
        advantages, entropy: (T,) of each token; the entropy is that of the policy's distribution, in nats.
        clip_coef, clip_coef_high: the ratio earns nothing below 1 - clip_coef and above 1 + clip_coef_high (clip_coef
            if None).
        clip_coef_dual: a negative advantage counts at most this many times, > 1; None for no such bound.
        ent_coef: weight of the entropy.
        normalizer: number of action tokens the sums are divided by (see the module).
        mask: (T,) bool, False where an entry is no action token (padding) and may hold anything; None if all are.
        weights, importance: (T,) factor of each token's loss, and constant factor of its surrogate from
            `importance_weights`; None for 1.

    Returns:
        The scalar loss, and metrics. Add up over the pieces of a batch: "policy_loss", "entropy", "clip_frac" (share
        of tokens that have no gradient because of clipping), "approx_kl" (k3 estimate of KL(old || new),
        http://joschu.net/blog/kl-approx.html), "ratio_mean", "importance_mean". Take the maximum of "..._max".

    Raises:
        ValueError: shapes differ, the mask is not bool or the normalizer is not > 0.
    """
    optional = {name: x for name, x in (("weights", weights), ("importance", importance)) if x is not None}
    required = {"logprobs": logprobs, "old_logprobs": old_logprobs, "advantages": advantages, "entropy": entropy}
    mask = _check(normalizer, mask, **required, **optional)
    # Masked before anything is computed: 0 * nan would be nan, in the loss and in its gradient.
    zero = logprobs.new_zeros(())
    log_ratio = torch.where(mask, logprobs - old_logprobs, zero)
    advantages = torch.where(mask, advantages, zero)
    entropy = torch.where(mask, entropy, zero)
    optional = {name: torch.where(mask, x, zero) for name, x in optional.items()}

    ratio, high = log_ratio.exp(), clip_coef if clip_coef_high is None else clip_coef_high
    surrogate, clipped = _surrogate(ratio, advantages, 1 - clip_coef, 1 + high, clip_coef_dual)
    if importance is not None:
        surrogate = optional["importance"] * surrogate
    token_weights = optional.get("weights")
    policy_loss = -_total(surrogate, token_weights) / normalizer
    loss = policy_loss - ent_coef * (_total(entropy, token_weights) / normalizer)

    with torch.no_grad():
        means = {"entropy": entropy, "clip_frac": clipped, "approx_kl": (ratio - 1) - log_ratio}
        metrics = {"policy_loss": float(policy_loss)}
        metrics |= {name: float(numbers.sum() / normalizer) for name, numbers in means.items()}
        metrics |= _mean_and_max("ratio", torch.where(mask, ratio, zero), normalizer)
        if importance is not None:
            metrics |= _mean_and_max("importance", optional["importance"], normalizer)
    return loss, metrics


def importance_weights(old_logprobs: Tensor, engine_logprobs: Tensor, *, cap: float) -> Tensor:
    """Returns min(pi_learner / pi_engine, cap) of each token: truncated importance sampling (TIS).

    An engine and a learner with the same weights still compute slightly different probabilities, and a replayed
    episode comes from older weights: the gradient is an average over tokens that another policy drew. The ratio makes
    up for it; truncating it keeps its variance bounded, at the price of a bias where it exceeds the cap. Source: Yao
    et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025,
    https://fengyao.notion.site/off-policy-rl); truncation: Ionides, "Truncated Importance Sampling" (2008).

    Args:
        old_logprobs: (T,) what the learner says of each token before its first step.
        engine_logprobs: (T,) what the engine said when it sampled it.
        cap: the largest weight.
    """
    return (old_logprobs - engine_logprobs).exp().clamp(max=cap).detach()


def kl_penalty(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    *,
    estimator: Literal["k1", "k2", "k3"],
    normalizer: float,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Returns an estimate of KL(policy || reference) from the sampled tokens; multiply it by kl_coef and add it.

    With d = ref_logprobs - logprobs (Schulman, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html):

        k1 = -d              unbiased, noisy, may be negative; as a loss its gradient is 0 in expectation on policy,
                             so that it measures but does not pull
        k2 = d^2 / 2         biased; its gradient is that of the KL in expectation on policy
        k3 = exp(d) - 1 - d  unbiased, never negative, the usual choice (GRPO, arXiv 2402.03300)

    Args:
        logprobs: (T,) log-probability of each token under the policy that is trained.
        ref_logprobs: (T,) the same under the reference.
        estimator: which one.
        normalizer, mask, weights: as in `ppo_loss`.

    Returns:
        The scalar penalty, and "ref_kl": the mean of the estimate over tokens.

    Raises:
        ValueError: as in `ppo_loss`, or there is no such estimator.
    """
    optional = {} if weights is None else {"weights": weights}
    mask = _check(normalizer, mask, logprobs=logprobs, ref_logprobs=ref_logprobs, **optional)
    zero = logprobs.new_zeros(())
    difference = torch.where(mask, ref_logprobs - logprobs, zero)
    if estimator == "k1":
        estimate = -difference
    elif estimator == "k2":
        estimate = difference.square() / 2
    elif estimator == "k3":
        estimate = difference.exp() - 1 - difference
    else:
        raise ValueError(f"estimator is {estimator!r}; expected 'k1', 'k2' or 'k3'")
    token_weights = None if weights is None else torch.where(mask, weights, zero)
    return _total(estimate, token_weights) / normalizer, {"ref_kl": float(estimate.detach().sum() / normalizer)}


def logprob_gap(logprobs: Tensor, old_logprobs: Tensor) -> dict[str, float]:
    """Returns "logprob_gap_mean" and "logprob_gap_max", the absolute differences in nats.

    Measured before the first optimizer step both come from the same weights: what is left is the disagreement of the
    engine that sampled and the learner that trains, which should be rounding (1e-5 in float32).

    Args:
        logprobs, old_logprobs: (T,) with T > 0, as in `ppo_loss`.
    """
    gap = (logprobs.detach() - old_logprobs).abs()
    return {"logprob_gap_mean": float(gap.mean()), "logprob_gap_max": float(gap.max())}


def value_loss(
    values: Tensor,
    old_values: Tensor | None,
    returns: Tensor,
    *,
    clip_coef: float | None,
    normalizer: float,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Returns half the mean squared error of the critic; multiply it by vf_coef and add it to `ppo_loss`.

    Args:
        values: (T,) value of the state in which each token was chosen.
        old_values: (T,) the values at sampling time; needed for clipping only.
        returns: (T,) the targets, from `training.advantages.gae`.
        clip_coef: a value that moved further than this from its old one earns nothing by it; None for no clipping.
        normalizer, mask, weights: as in `ppo_loss`.

    Raises:
        ValueError: as in `ppo_loss`, or clip_coef without old_values.
    """
    optional = {} if weights is None else {"weights": weights}
    mask = _check(normalizer, mask, values=values, returns=returns, **optional)
    # Selected before anything is computed, for the same reason as in `ppo_loss`.
    values, returns = values[mask], returns[mask]
    error = (values - returns).square()
    if clip_coef is not None:
        if old_values is None:
            raise ValueError("clip_coef came without old_values; expected both, or clip_coef=None for no clipping")
        _check(normalizer, mask, old_values=old_values)
        old_values = old_values[mask]
        near = old_values + (values - old_values).clamp(-clip_coef, clip_coef)
        error = torch.maximum(error, (near - returns).square())
    return 0.5 * _total(error, None if weights is None else weights[mask]) / normalizer


def _surrogate(ratio: Tensor, advantages: Tensor, low: float, high: float, dual: float | None) -> tuple[Tensor, Tensor]:
    """The clipped surrogate of each token, and whether it has no gradient because of clipping."""
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    clipped = ((ratio > high) & (advantages > 0)) | ((ratio < low) & (advantages < 0))
    if dual is not None:
        surrogate = torch.where(advantages < 0, torch.maximum(surrogate, dual * advantages), surrogate)
        clipped |= (ratio > dual) & (advantages < 0)
    return surrogate, clipped


def _total(numbers: Tensor, weights: Tensor | None) -> Tensor:
    return numbers.sum() if weights is None else (weights * numbers).sum()


def _mean_and_max(name: str, numbers: Tensor, normalizer: float) -> dict[str, float]:
    largest = float(numbers.max()) if numbers.numel() else 0.0
    return {f"{name}_mean": float(numbers.sum() / normalizer), f"{name}_max": largest}


def _check(normalizer: float, mask: Tensor | None, **tensors: Tensor) -> Tensor:
    """Returns the mask, all True if there is none, after checking that everything fits."""
    first = next(iter(tensors.values()))
    if mask is None:
        mask = torch.ones_like(first, dtype=torch.bool)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if mask.dtype != torch.bool or any(shape != list(mask.shape) for shape in shapes.values()):
        raise ValueError(f"shapes are {shapes} with a mask {mask.dtype}{list(mask.shape)}; expected one bool per entry")
    if not normalizer > 0:
        raise ValueError(f"normalizer is {normalizer!r}; expected the number of action tokens of the batch, > 0")
    return mask
