"""Advantages, in float64: of the tokens of an episode (GAE), of the episodes of a group, and of forced tokens.

Forced tokens are those of a probe's opening (docs/curiosity.md, "What a probe teaches", says why they are credited so).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Probability of an opening below which a probe that did worse than its group teaches nothing about the opening.
DEAD_BELOW = 1e-4


def gae(
    rewards_per_turn: ArrayLike,
    turn_ends: Sequence[int],
    action_mask: ArrayLike,
    values: ArrayLike,
    *,
    gamma: float,
    gae_lambda: float,
    bootstrap_value: float = 0.0,
) -> tuple[Floats, Floats]:
    """Generalized advantage estimation (arXiv 1506.02438) over the action tokens of one episode.

    Every sampled token is one step of the Markov decision process: its state is everything before it. What the
    environment says in between belongs to the next state and is no step, so that observation tokens are neither
    discounted nor given an advantage.

    Args:
        rewards_per_turn: (K,) reward of each turn; it arrives at the turn's last action token.
        turn_ends: K positions of these tokens, as in `pxr_agents.types.Tokens`.
        action_mask: (L,) bool, True where the token was sampled.
        values: (L,) value of the state in which token t was chosen; only read where `action_mask`.
        gamma: discount per action token.
        gae_lambda: 0 for one-step differences, 1 for discounted returns minus values.
        bootstrap_value: value of the state after the last token: 0 if the episode terminated, the critic's value if
            it was truncated and would have gone on.

    Returns:
        (L,) advantages and (L,) returns, the targets of the critic (advantage + value); 0 off the action tokens.

    Raises:
        ValueError: lengths do not fit, turn_ends are not ascending action tokens that end with the last one, or a
            number that is read is not finite.
    """
    action_mask = np.asarray(action_mask)
    values = np.asarray(values, dtype=np.float64)
    if action_mask.dtype != np.bool_ or action_mask.ndim != 1 or action_mask.shape != values.shape:
        raise ValueError(
            f"action_mask is {action_mask.dtype}{list(action_mask.shape)} and values have shape {list(values.shape)}; "
            "expected bool[L] and [L], one entry per token of the episode"
        )
    actions = np.flatnonzero(action_mask)
    rewards = _rewards_per_action(_finite("rewards_per_turn", rewards_per_turn), turn_ends, actions)
    states = _finite("values of action tokens and the bootstrap value", np.append(values[actions], bootstrap_value))

    deltas = rewards + gamma * states[1:] - states[:-1]
    advantages = np.zeros_like(values)
    returns = np.zeros_like(values)
    running = 0.0
    for step in range(len(actions) - 1, -1, -1):
        running = deltas[step] + gamma * gae_lambda * running
        advantages[actions[step]] = running
        returns[actions[step]] = running + states[step]
    return advantages, returns


def group_advantages(
    rewards: ArrayLike, probed: ArrayLike, *, normalize_std: bool = False, eps: float = 1e-4
) -> Floats:
    """Returns how much better each rollout of a group did than the mean of those that were not probes.

    Probes stay out of the mean: the advantages of the others are exactly those of a group without probes, and the
    reward of a probe has no part in what it is compared with, so that its advantage is on average that of the forced
    opening over the policy. `settle_group(..., probed=...)` keeps them out of the curiosity terms in the same way.

    Args:
        rewards: (n,) total rewards of the rollouts of one sample.
        probed: (n,) bool, whether each was a (followed) probe.
        normalize_std: divide by a standard deviation + eps: for the others that of the others, for probes the root
            mean square of all rollouts' differences from the mean (the others alone may all have done alike, which
            is when a probe that did not matters most).
        eps: see `normalize_std`.

    Returns:
        (n,) advantages; without probes those of GRPO (arXiv 2402.03300), exactly 0 if all did alike.

    Raises:
        ValueError: there is not one finite reward and one flag per rollout, or all rollouts are probes.
    """
    rewards, probed = _finite("rewards", rewards), _flags("probed", probed, len(np.asarray(rewards)))
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
    return advantages / (np.where(probed, spread, own.std()) + eps)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokenCredit:
    """What the action tokens of one rollout teach.

    Args:
        advantages: (T,) float64, the advantage of each token; its ratio is exp(new - old log-probability).
        trained: (T,) bool, False for tokens that carry no loss of any kind and are not counted in means.
    """

    advantages: Floats
    trained: NDArray[np.bool_]


def credit_tokens(
    old_logprobs: ArrayLike, forced: ArrayLike, advantage: float, *, dead_below: float = DEAD_BELOW
) -> TokenCredit:
    """Returns what each token of a rollout teaches.

    Sampled tokens carry the advantage. Forced tokens carry it too, together or not at all: they do unless the
    advantage is <= 0 and the old policy's probability of the whole opening was below `dead_below`.

    Args:
        old_logprobs: (T,) log-probability of each action token under the policy that sampled the rollout. For forced
            tokens too: the policy's own, not 0 because they were forced.
        forced: (T,) bool, True for forced tokens; all False for a rollout that is no probe.
        advantage: of the rollout, from `group_advantages`.
        dead_below: see above; 0 lets every loss count ("signed" in docs/curiosity.md), 1 none ("imitate wins").

    Raises:
        ValueError: shapes differ, or a number is not finite.
    """
    logprobs = _finite("old_logprobs", old_logprobs)
    forced = _flags("forced", forced, len(logprobs))
    if not math.isfinite(advantage):
        raise ValueError(f"the advantage is {advantage!r}; expected a finite number")
    trained = np.ones(len(logprobs), np.bool_)
    if advantage <= 0.0 and np.exp(logprobs[forced].sum()) < dead_below:
        trained[forced] = False
    return TokenCredit(advantages=np.where(trained, advantage, 0.0), trained=trained)


def _flags(name: str, flags: ArrayLike, n: int) -> NDArray[np.bool_]:
    array = np.asarray(flags)
    if array.shape != (n,) or (n and array.dtype != np.bool_):
        raise ValueError(f"{name} is {array.dtype}{list(array.shape)}; expected bool[{n}]")
    return array.astype(np.bool_)


def _rewards_per_action(rewards: Floats, turn_ends: Sequence[int], actions: NDArray[np.intp]) -> Floats:
    ends = np.asarray(turn_ends, dtype=np.intp)
    if len(ends) != len(rewards):
        raise ValueError(f"{len(rewards)} rewards for {len(ends)} turn_ends; expected one reward per turn")
    in_order = bool(np.all(np.diff(ends) > 0)) and bool(np.isin(ends, actions).all())
    if not in_order or list(ends[-1:]) != list(actions[-1:]):
        raise ValueError(
            f"turn_ends are {ends.tolist()}; expected ascending positions of action tokens, the last of them the "
            f"last action token ({actions[-1] if len(actions) else 'there is none'})"
        )
    per_action = np.zeros(len(actions))
    per_action[np.searchsorted(actions, ends)] = rewards
    return per_action


def _finite(name: str, numbers: ArrayLike) -> Floats:
    array = np.asarray(numbers, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} are {array!r}; expected a sequence of finite numbers")
    return array
