"""Advantages of the tokens of an episode, in float64; those of a group are `pxr_env.curiosity.probe_advantages`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


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
