"""Advantages, in float64: of the action ids of an episode (GAE), of the episodes of a group, and of forced ids.

Forced ids are those of a probe's opening (docs/curiosity.md, "What a probe teaches", says why they are credited so).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Probability of an opening below which a probe that did worse than its group teaches nothing about the opening.
DEAD_BELOW = 1e-4
#: The same of an answer that was forced, which begins with far fewer ids than a call.
DEAD_ANSWER_BELOW = 0.02


def gae(rewards: ArrayLike, values: ArrayLike, *, gamma: float, gae_lambda: float) -> tuple[Floats, Floats]:
    """Generalized advantage estimation (arXiv 1506.02438) over the action ids of one episode.

    Every sampled id is one step of the Markov decision process: its state is everything before it. What the environment
    says in between belongs to the next state and is no step: it is neither discounted nor given an advantage.

    Args:
        rewards: (T,) what each action id earned; that of a turn arrives at its last one.
        values: (T,) value of the state in which each was chosen; that after the last one is 0.
        gamma: discount per action id.
        gae_lambda: 0 for one-step differences, 1 for discounted returns minus values.

    Returns:
        (T,) advantages and (T,) returns, the targets of the critic (advantage + value).

    Raises:
        ValueError: lengths differ.
    """
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    if len(rewards) != len(values):
        raise ValueError(f"{len(rewards)} rewards came for {len(values)} values; expected one of each per action id")
    deltas = rewards + gamma * np.append(values[1:], 0.0) - values
    advantages = np.zeros_like(values)
    running = 0.0
    for t in reversed(range(len(deltas))):
        running = advantages[t] = deltas[t] + gamma * gae_lambda * running
    return advantages, advantages + values


def group_advantages(
    rewards: ArrayLike, probed: ArrayLike, withdrawn: ArrayLike | None = None, *, normalize_std: bool = False
) -> Floats:
    """Returns how much better each rollout of a group did than the mean of those that were left alone.

    Probes stay out of the mean: the advantages of the others are exactly those of a group without probes, and the
    reward of a probe has no part in what it is compared with, so that its advantage is on average that of the forced
    opening over the policy. `settle_group(..., probed=...)` keeps them out of the curiosity terms in the same way.

    Rollouts whose operations were withdrawn had another question before them, and are compared with each other alone.

    Args:
        rewards: (n,) total rewards of the rollouts of one sample.
        probed: (n,) bool, whether each was a (followed) probe.
        withdrawn: (n,) bool, whether each had no operations; by default none.
        normalize_std: divide by a standard deviation + 1e-4: for the others that of the others, for probes the root
            mean square of all rollouts' differences from the mean (the others alone may all have done alike, which is
            when a probe that did not matters most).

    Returns:
        (n,) advantages; without probes those of GRPO (arXiv 2402.03300), exactly 0 if all did alike.

    Raises:
        ValueError: there is not one finite reward and one flag per rollout, or all rollouts are probes.
    """
    rewards = _finite("rewards", rewards)
    probed = _flags("probed", probed, len(rewards))
    if withdrawn is not None and (apart := _flags("withdrawn", withdrawn, len(rewards))).any():
        advantages = np.zeros_like(rewards)
        for part in (apart, ~apart):
            advantages[part] = group_advantages(rewards[part], probed[part], normalize_std=normalize_std)
        return advantages
    own = rewards[~probed]
    if rewards.size == 0:
        return rewards
    if own.size == 0:
        raise ValueError(
            f"all {len(rewards)} rollouts of a group are probes; expected at least one that is not, to compare with. "
            "Probe a smaller share."
        )
    # The mean of equal floats can differ from them by rounding; a tie carries no signal at all.
    advantages = rewards - (own[0] if np.ptp(own) == 0.0 else own.mean())
    if not normalize_std:
        return advantages
    spread = math.sqrt(float(np.mean(advantages**2)))
    return advantages / (np.where(probed, spread, own.std()) + 1e-4)


class TokenCredit(NamedTuple):
    """What the T action ids of one rollout teach: the advantage of each (float64), and whether it is trained: ids that
    are not carry no loss of any kind and are not counted in means."""

    advantages: Floats
    trained: NDArray[np.bool_]


def credit_tokens(
    old_logprobs: ArrayLike,
    forced: ArrayLike,
    advantage: float,
    *,
    first_id: float = 0.0,
    dead_below: float = DEAD_BELOW,
) -> TokenCredit:
    """Returns what each action id of a rollout teaches.

    Sampled ids carry the advantage. Forced ids carry it too, together or not at all: they do unless the advantage of
    the first is <= 0 and the old policy's probability of the whole opening was below `dead_below`.

    Args:
        old_logprobs: (T,) log-probability of each id under the policy that sampled the rollout. For forced ids too: the
            policy's own, not 0 because they were forced.
        forced: (T,) bool, True for forced ids; all False for a rollout that is no probe.
        advantage: of the rollout, from `group_advantages`.
        first_id: what is added to that of the first id, which decides between an operation and an answer.
        dead_below: see above; 0 lets every loss count ("signed" in docs/curiosity.md), 1 none ("imitate wins").

    Raises:
        ValueError: shapes differ, or a number is not finite.
    """
    logprobs = _finite("old_logprobs", old_logprobs)
    forced = _flags("forced", forced, len(logprobs))
    if not math.isfinite(advantage + first_id):
        raise ValueError(f"the advantage is {advantage!r}, and {first_id!r} at the first id; expected finite numbers")
    dead = advantage + first_id <= 0.0 and np.exp(logprobs[forced].sum()) < dead_below
    trained = ~forced if dead else np.ones(len(logprobs), np.bool_)
    advantages = np.full(len(logprobs), advantage)
    advantages[:1] += first_id
    return TokenCredit(np.where(trained, advantages, 0.0), trained)


def _flags(name: str, flags: ArrayLike, n: int) -> NDArray[np.bool_]:
    array = np.asarray(flags)
    if array.shape != (n,) or (n and array.dtype != np.bool_):
        raise ValueError(f"{name} is {array.dtype}{list(array.shape)}; expected bool[{n}]")
    return array.astype(np.bool_)


def _finite(name: str, numbers: ArrayLike) -> Floats:
    array = np.asarray(numbers, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} are {array!r}; expected a sequence of finite numbers")
    return array
