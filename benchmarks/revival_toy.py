"""A dead operation in a bandit: what the paper's bonus, probes and several learning rules make of it.

    python -m benchmarks.revival_toy [--seeds 3] [--iterations 300]

A policy answers questions of two kinds, "plain" and "fine" print. It chooses to answer directly or to use an operation,
and if it uses it, whether it aims well. It begins with P(operation) = 1e-6, as after the learning trap, and learns by
group-relative PPO on groups of 8. Who is probed, what is counted and paid is decided by `pxr_env.curiosity`, what is
learned by `training.advantages`; only the policy, its gradient and the rules it is compared with are written here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pxr_env.curiosity import Revival, UsageRates, settle_group
from training.advantages import credit_tokens, group_advantages

Floats = NDArray[np.float64]

TASK, OPERATION = "toy", "zoom_in"
GROUPS, GROUP_SIZE = 16, 8
CLIP_LOW, CLIP_HIGH = 0.2, 0.35
STEPS, LEARNING_RATE = 4, 4.0
WINDOW = 10
#: LUFFY's constant (arXiv 2504.14945).
SHAPING = 0.1

RULES = {
    "bonus only": "no probes, the paper's bonus",
    "exact weights": "ratio pi / 1",
    "shaped weights": "ratio pi / (pi + .1), probes in the group's mean",
    "no loss": "forced tokens masked",
    "imitate wins": "as if sampled, where A > 0",
    "signed": "as if sampled, with A as it is",
    "here": "signed, but no loss where pi < 1e-4",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What is rewarded.

    Args:
        direct: for plain and for fine print, the probability that a direct answer is right.
        hit: the same after an operation that was aimed well.
        miss: the same after one that was not.
        aim: probability of aiming well at the beginning.
        broken_until: iteration before which even well aimed operations show nothing.
    """

    direct: tuple[float, float]
    hit: tuple[float, float]
    miss: tuple[float, float]
    aim: float
    broken_until: int = 0


WORLDS = {
    "useful": World(direct=(0.9, 0.2), hit=(0.9, 0.95), miss=(0.5, 0.1), aim=0.4),
    "clumsy at first": World(direct=(0.9, 0.2), hit=(0.9, 0.95), miss=(0.2, 0.0), aim=0.15),
    "useful later": World(direct=(0.9, 0.2), hit=(0.9, 0.95), miss=(0.2, 0.0), aim=0.4, broken_until=100),
    "changes nothing": World(direct=(0.5, 0.5), hit=(0.5, 0.5), miss=(0.5, 0.5), aim=0.4),
    "harmful": World(direct=(0.6, 0.6), hit=(0.2, 0.2), miss=(0.2, 0.2), aim=0.4),
}


def sigmoid(logits: Floats) -> Floats:
    """The logistic function."""
    return 1.0 / (1.0 + np.exp(-logits))


class Policy:
    """Logits: 0 of the operation in general, 1 and 2 more of it for plain and for fine print, 3 of aiming well.

    Args:
        p_use: probability of the operation.
        p_hit: probability of aiming well.
    """

    def __init__(self, *, p_use: float, p_hit: float) -> None:
        self.logits = np.array([np.log(p_use / (1 - p_use)), 0.0, 0.0, np.log(p_hit / (1 - p_hit))])

    def p_use(self, kind: NDArray[np.intp]) -> Floats:
        """Probability of the operation for questions of each kind (0 or 1)."""
        return sigmoid(self.logits[0] + self.logits[1 + kind])

    @property
    def p_hit(self) -> float:
        """Probability of aiming well."""
        return float(sigmoid(self.logits[3:])[0])

    def accuracy(self, world: World) -> float:
        """Exact accuracy of the policy itself, both kinds equally frequent."""
        use = self.p_use(np.arange(2))
        after = self.p_hit * np.array(world.hit) + (1 - self.p_hit) * np.array(world.miss)
        return float(np.mean((1 - use) * np.array(world.direct) + use * after))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """(groups, group size) arrays: kind of question, probed, operation used, aimed well, right answer."""

    kind: NDArray[np.intp]
    probed: NDArray[np.bool_]
    used: NDArray[np.bool_]
    hit: NDArray[np.bool_]
    correct: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """(T,) arrays: kind of question (-1 for the token that aims), whether the unlikely way was chosen, denominator of
    the ratio as a log-probability, advantage, and whether LUFFY's shaping replaces ratio and clipping."""

    kind: NDArray[np.intp]
    chosen: NDArray[np.bool_]
    behaviour: Floats
    advantage: Floats
    shaped: NDArray[np.bool_]


@dataclass(kw_only=True, slots=True)
class History:
    """One number per iteration.

    Attributes:
        rate: probability that the policy itself uses the operation.
        fine_rate: the same for fine print.
        accuracy: of the policy itself.
        reward: share of right answers in training, probes included.
        bonus: sum of the curiosity paid.
        probes: share of probed rollouts.
    """

    rate: list[float] = field(default_factory=list)
    fine_rate: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    bonus: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)


def run(world: World, rule: str, *, seed: int, iterations: int = 300, p_use: float = 1e-6) -> History:
    """Trains a policy with one of the `RULES` and returns what happened."""
    rng = np.random.default_rng(seed)
    policy = Policy(p_use=p_use, p_hit=world.aim)
    rates = UsageRates(window=WINDOW)
    revival = Revival(operations=(OPERATION,), seed=seed)
    history = History()
    for iteration in range(iterations):
        rates.advance(iteration)
        probed = np.zeros((GROUPS, GROUP_SIZE), np.bool_)
        if rule != "bonus only":
            probed = choose_probes(revival, rates, iteration)
        now = world if iteration >= world.broken_until else replace(world, hit=world.miss)
        rollouts = sample(policy, now, probed, rng)
        count(rates, rollouts)
        bonuses, advantages = settle(rollouts, joint_mean=rule == "shaped weights")
        learn(policy, tokens_of(policy, rollouts, advantages, rule))
        history.rate.append(float(policy.p_use(np.arange(2)).mean()))
        history.fine_rate.append(float(policy.p_use(np.array([1]))[0]))
        history.accuracy.append(policy.accuracy(now))
        history.reward.append(float(rollouts.correct.mean()))
        history.bonus.append(bonuses)
        history.probes.append(float(probed.mean()))
    return history


def choose_probes(revival: Revival, rates: UsageRates, iteration: int) -> NDArray[np.bool_]:
    """Which rollouts of which groups are probes."""
    decisions = [
        revival.decide(rates, TASK, str(group), rollout=k, group_size=GROUP_SIZE, iteration=iteration) == OPERATION
        for group in range(GROUPS)
        for k in range(GROUP_SIZE)
    ]
    return np.array(decisions).reshape(GROUPS, GROUP_SIZE)


def sample(policy: Policy, world: World, probed: NDArray[np.bool_], rng: np.random.Generator) -> Rollouts:
    """Rolls out one group per question; every other question is fine print."""
    shape = probed.shape
    kind = np.repeat(np.arange(GROUPS) % 2, GROUP_SIZE).reshape(shape)
    used = probed | (rng.random(shape) < policy.p_use(kind))
    hit = used & (rng.random(shape) < policy.p_hit)
    direct, after_hit, after_miss = (np.array(chances)[kind] for chances in (world.direct, world.hit, world.miss))
    chance = np.where(used, np.where(hit, after_hit, after_miss), direct)
    return Rollouts(kind=kind, probed=probed, used=used, hit=hit, correct=rng.random(shape) < chance)


def count(rates: UsageRates, rollouts: Rollouts) -> None:
    """Records every rollout."""
    for group in range(GROUPS):
        for used, probed in zip(rollouts.used[group], rollouts.probed[group], strict=True):
            rates.record(TASK, str(group), {OPERATION: int(used)}, probe=OPERATION if probed else None)


def settle(rollouts: Rollouts, *, joint_mean: bool) -> tuple[float, Floats]:
    """Returns the curiosity paid in all groups, and the advantages."""
    paid, advantages = 0.0, np.zeros(rollouts.used.shape)
    for group in range(GROUPS):
        probed = rollouts.probed[group]
        terms = settle_group(
            [int(used) for used in rollouts.used[group]],
            [{"correct": float(correct)} for correct in rollouts.correct[group]],
            probed=probed.tolist(),
        )
        paid += sum(term["curiosity"] for term in terms)
        compared = np.zeros_like(probed) if joint_mean else probed
        advantages[group] = group_advantages([sum(term.values()) for term in terms], compared)
    return paid, advantages


def tokens_of(policy: Policy, rollouts: Rollouts, advantages: Floats, rule: str) -> Tokens:
    """The tokens of all rollouts: first operation or not, then, after an operation, aimed well or not."""
    kind, used, probed = rollouts.kind.ravel(), rollouts.used.ravel(), rollouts.probed.ravel()
    hit, advantage = rollouts.hit.ravel()[used], advantages.ravel()
    use_logprobs = logprobs(policy, kind, used)
    hit_logprobs = logprobs(policy, np.full(len(hit), -1), hit)
    behaviour, first = use_logprobs.copy(), advantage.copy()
    for k in np.flatnonzero(probed):
        first[k] = forced_advantage(rule, use_logprobs[k], advantage[k])
    if rule == "exact weights":
        behaviour[probed] = 0.0
    shaped = probed if rule == "shaped weights" else np.zeros_like(probed)
    return Tokens(
        kind=np.concatenate([kind, np.full(len(hit), -1)]),
        chosen=np.concatenate([used, hit]),
        behaviour=np.concatenate([behaviour, hit_logprobs]),
        advantage=np.concatenate([first, advantage[used]]),
        shaped=np.concatenate([shaped, np.zeros(len(hit), np.bool_)]),
    )


def forced_advantage(rule: str, logprob: float, advantage: float) -> float:
    """The advantage that a forced token carries."""
    if rule == "no loss":
        return 0.0
    if rule in ("exact weights", "shaped weights"):
        return advantage
    dead_below = {"imitate wins": {"dead_below": 1.0}, "signed": {"dead_below": 0.0}, "here": {}}[rule]
    return float(credit_tokens([logprob], [True], advantage, **dead_below).advantages[0])


def logits_of(policy: Policy, kind: NDArray[np.intp]) -> Floats:
    """The logit of the unlikely way at each token."""
    return np.where(kind < 0, policy.logits[3], policy.logits[0] + policy.logits[1 + np.maximum(kind, 0)])


def logprobs(policy: Policy, kind: NDArray[np.intp], chosen: NDArray[np.bool_]) -> Floats:
    """Log-probability of what was chosen at each token."""
    logits = logits_of(policy, kind)
    return -np.logaddexp(0.0, np.where(chosen, -logits, logits))


def learn(policy: Policy, tokens: Tokens) -> None:
    """Ascends the clipped surrogate, averaged over rollouts, in a few plain gradient steps."""
    for _ in range(STEPS):
        new = logprobs(policy, tokens.kind, tokens.chosen)
        ratio = np.exp(new - tokens.behaviour)
        gains = tokens.advantage > 0
        clipped = (gains & (ratio > 1 + CLIP_HIGH)) | (~gains & (ratio < 1 - CLIP_LOW))
        probability = np.exp(new)
        shaping = SHAPING * probability / (probability + SHAPING) ** 2
        weight = np.where(tokens.shaped, shaping, np.where(clipped, 0.0, ratio))
        by_logit = weight * tokens.advantage * (tokens.chosen - sigmoid(logits_of(policy, tokens.kind)))
        first = tokens.kind >= 0
        by_kind = [by_logit[tokens.kind == kind].sum() for kind in (0, 1)]
        gradient = np.array([by_logit[first].sum(), *by_kind, by_logit[~first].sum()])
        policy.logits += LEARNING_RATE / STEPS * gradient / (GROUPS * GROUP_SIZE)


def until_floor(history: History) -> float:
    """Iterations until the policy used the operation at the floor's rate for the first time; infinite if never."""
    above = np.flatnonzero(np.array(history.rate) >= Revival(operations=(OPERATION,)).floor)
    return float(above[0] + 1) if above.size else float("inf")


def main() -> None:
    """Prints one line per world and rule, averaged over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=300)
    args = parser.parse_args()
    columns = (
        "world",
        "rule",
        "P(operation)",
        "on fine print",
        "accuracy",
        "iterations to floor",
        "probed",
        "at the end",
    )
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, world in WORLDS.items():
        for rule in RULES:
            runs = [run(world, rule, seed=seed, iterations=args.iterations) for seed in range(args.seeds)]
            rate, fine, accuracy = (
                np.mean([getattr(h, k)[-1] for h in runs]) for k in ("rate", "fine_rate", "accuracy")
            )
            probed, late = (np.mean([h.probes[start:] for h in runs]) for start in (0, -50))
            rounds = np.mean([until_floor(h) for h in runs])
            print(
                f"| {name} | {rule} | {rate:.1e} | {fine:.1e} | {accuracy:.3f} | {rounds:.0f} | {probed:.3f} "
                f"| {late:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
