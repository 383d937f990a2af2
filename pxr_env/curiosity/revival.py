"""Which rollouts are probes: forced to begin with an operation that has died out.

A bonus pays for use, so it cannot bring back what nobody uses: at a rate of 0 in every group there is no rollout to
pay. `Revival` decides, from what was counted so far, which rollouts of which samples begin with a dead operation;
`ProbeOperations` carries it out, and docs/curiosity.md says what is learned from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

from pxr_env.curiosity.usage import UsageRates

#: Rollouts that have to be left to the policy: their mean reward is what a probe is compared with.
MAX_SHARE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Revival:
    """Decides which rollouts are probes. Pure: equal rates and arguments give equal decisions in every process.

    A candidate becomes a probe of operation o with a probability that rises linearly as the operation dies:

        p(o) = probability * max(floor - rate(o), 0) / floor

    where rate(o) is its rate in the task, probes excluded; 0 until `min_episodes` episodes have been counted, and less
    once there were more probes than `patience`. Of several operations the largest p decides whether there is a probe,
    and it goes to o with odds p(o). The ramp ends continuously at 0, so that a rate that wavers around the floor
    switches nothing on or off: no hysteresis is needed.

    Candidates are the first floor(share * group_size) rollouts of a group. Rollouts of a group are exchangeable, so
    that it does not matter which ones, and a fixed choice bounds what a group loses without any communication.

    Count with a window (`UsageRates(window=...)`): over the whole past a rate falls below the floor long after the
    operation has died, and rises above it long after it has come back.

    Args:
        operations: operations that may be probed.
        floor: the rate below which an operation is probed. At .05, a third of the groups of 8 hold a voluntary use
            (1 - .95^8 = .34): from there on the curiosity bonus and the reward itself have something to work on.
        probability: that a candidate is a probe at rate 0.
        share: the largest share of a group that is probed, at most 1/2; of single episodes, their mean share.
        patience: number of counted probes of an operation from which on its p falls as patience / probes, for one that
            does not come back because it does not pay; it never falls to 0, since that may change. None for no end.
        min_episodes: episodes of the task that have to be counted first. With a true rate of .05, 64 episodes show no
            use with probability .95^64 = .04.
        seed: of the decisions.

    Raises:
        ValueError: an argument is out of range.
    """

    operations: tuple[str, ...]
    floor: float = 0.05
    probability: float = 1.0
    share: float = 0.25
    patience: int | None = None
    min_episodes: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.operations, str) or not self.operations:
            raise ValueError(f"operations is {self.operations!r}; expected the names of one operation or more")
        for name, low, high in (("floor", 0.0, 1.0), ("probability", 0.0, 1.0), ("share", 0.0, MAX_SHARE)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
                raise ValueError(f"{name} is {value!r}; expected a number above {low:g}, at most {high:g}")
        for name, number in (("min_episodes", self.min_episodes), ("patience", self.patience)):
            if number is None and name == "patience":
                continue
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} is {number!r}; expected an int >= 1")

    def probe_probability(self, rates: UsageRates, task: str, operation: str) -> float:
        """Returns p(operation), the probability that a candidate is a probe of it if it is the only one."""
        rate = rates.rate(task, operation=operation)
        if rate is None or rates.episodes(task) < self.min_episodes:
            return 0.0
        tired = 1.0
        if self.patience is not None:
            tired = min(1.0, self.patience / max(rates.probes(task, operation=operation), 1))
        return self.probability * tired * max(self.floor - rate, 0.0) / self.floor

    def n_candidates(self, group_size: int) -> int:
        """Returns how many rollouts of a group may be probes: floor(share * group_size)."""
        # A share such as 1/3 is not exact: 1/3 of 3 rollouts is one.
        return math.floor(self.share * group_size + 1e-9)

    def decide(
        self,
        rates: UsageRates,
        task: str,
        sample_id: str,
        *,
        rollout: int,
        group_size: int | None = None,
        iteration: int = 0,
    ) -> str | None:
        """Returns the operation that a rollout has to begin with, or None for a rollout that is left alone.

        Args:
            rates: what was counted so far. Processes agree as far as their counts do: decide in one place.
            task: the task.
            sample_id: the sample.
            rollout: index of the rollout in its group, from 0; without groups, of the episode in its stream.
            group_size: rollouts of the group; None for a stream of single episodes, each of which is a candidate
                with probability `share`.
            iteration: makes the decisions of another visit to the sample others.
        """
        if group_size is not None and rollout >= self.n_candidates(group_size):
            return None
        odds = {name: self.probe_probability(rates, task, name) for name in self.operations}
        probability = max(odds.values()) * (1.0 if group_size is not None else self.share)
        whether, which = self._uniform_pair(task, sample_id, rollout, iteration)
        if whether >= probability:
            return None
        return _choose(odds, which)

    def _uniform_pair(self, *where: str | int) -> tuple[float, float]:
        """Two numbers in [0, 1) that depend on the seed and on `where` only, on every machine."""
        digest = hashlib.blake2b(json.dumps([self.seed, *where]).encode(), digest_size=16).digest()
        first, second = (int.from_bytes(part, "big") >> 11 for part in (digest[:8], digest[8:]))
        return first / 2**53, second / 2**53


def _choose(odds: dict[str, float], uniform: float) -> str:
    rest = uniform * sum(odds.values())
    likely = [name for name, weight in odds.items() if weight > 0.0]
    for name in likely:
        rest -= odds[name]
        if rest < 0.0:
            return name
    # Rounding of the sum.
    return likely[-1]
