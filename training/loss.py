"""The losses of PPO (arXiv 1707.06347) on action tokens: plain functions on tensors.

Every mean is a sum divided by a `normalizer` that the caller passes: the number of action tokens of the whole batch
of one optimizer step. The losses of its pieces then add up to the loss of the whole, however long the episodes of a
piece are, under gradient accumulation as under data parallelism. Where gradients are averaged over learners (DDP),
pass the tokens of all learners divided by the number of learners.
"""

from __future__ import annotations

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
    ent_coef: float,
    normalizer: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Returns the clipped surrogate loss minus the entropy bonus, per token, and its metrics.

    Args:
        logprobs: (T,) log-probability of each token under the policy that is trained.
        old_logprobs: (T,) the same under the policy that sampled it, as its engine returned it.
        advantages: (T,) advantage of each token.
        entropy: (T,) entropy of the policy's distribution at each token, in nats.
        clip_coef: the ratio earns nothing below 1 - clip_coef.
        clip_coef_high: the ratio earns nothing above 1 + clip_coef_high; clip_coef if None.
        ent_coef: weight of the entropy.
        normalizer: number of action tokens the sums are divided by (see the module).
        mask: (T,) bool, False where an entry is no action token (padding) and may hold anything; None if all are.

    Returns:
        The scalar loss, and metrics. Add up over the pieces of a batch: "policy_loss", "entropy",
        "clip_frac" (share of tokens whose ratio lies beyond the bound their advantage pushes it to, so that they
        have no gradient), "approx_kl" (k3 estimate of KL(old || new), http://joschu.net/blog/kl-approx.html) and
        "ratio_mean". Take the maximum of "ratio_max".

    Raises:
        ValueError: shapes differ, the mask is not bool or the normalizer is not > 0.
    """
    mask = _check(
        normalizer, mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, entropy=entropy
    )
    high = clip_coef if clip_coef_high is None else clip_coef_high
    # Masked before anything is computed: 0 * nan would be nan, in the loss and in its gradient.
    zero = logprobs.new_zeros(())
    log_ratio = torch.where(mask, logprobs - old_logprobs, zero)
    advantages = torch.where(mask, advantages, zero)
    entropy = torch.where(mask, entropy, zero)

    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_coef, 1 + high) * advantages)
    policy_loss = -surrogate.sum() / normalizer
    mean_entropy = entropy.sum() / normalizer
    loss = policy_loss - ent_coef * mean_entropy

    with torch.no_grad():
        clipped = ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - clip_coef) & (advantages < 0))
        k3 = (ratio - 1) - log_ratio
        ratio_of_tokens = torch.where(mask, ratio, zero)
        metrics = {
            "policy_loss": float(policy_loss),
            "entropy": float(mean_entropy),
            "clip_frac": float(clipped.sum() / normalizer),
            "approx_kl": float(k3.sum() / normalizer),
            "ratio_mean": float(ratio_of_tokens.sum() / normalizer),
            "ratio_max": float(ratio_of_tokens.max()) if mask.numel() else 0.0,
        }
    return loss, metrics


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
) -> Tensor:
    """Returns half the mean squared error of the critic; multiply it by vf_coef and add it to `ppo_loss`.

    Args:
        values: (T,) value of the state in which each token was chosen.
        old_values: (T,) the values at sampling time; needed for clipping only.
        returns: (T,) the targets, from `training.advantages.gae`.
        clip_coef: a value that moved further than this from its old one earns nothing by it; None for no clipping.
        normalizer, mask: as in `ppo_loss`.

    Raises:
        ValueError: as in `ppo_loss`, or clip_coef without old_values.
    """
    mask = _check(normalizer, mask, values=values, returns=returns)
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
    return 0.5 * error.sum() / normalizer


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
