"""Rewards of a whole group, as small pure functions: what its rollouts earn for how they used operations.

Each takes the rollouts of one group, its constants as keyword arguments, and returns for every rollout named terms to
*add* to its reward. `GROUP_REWARDS` has them by name. Rollouts that did not choose freely whether to use an operation
(`Rollout.free`) are neither paid nor taxed for it, and others are not compared with them; how well they looked is
their own doing. A call counts whether it was executed or refused, unless said otherwise: what costs nothing when it
breaks would be broken.

Over-turn masking (Mini-o3, arXiv 2509.07969) is no reward: see the recipe key `mask_truncated`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from statistics import mean
from typing import NamedTuple

from pxr_env.errors import did_you_mean, hints_of, quote, show, typed_arguments
from pxr_env.tasks import import_function


class Look(NamedTuple):
    """What one call showed of the evidence: of all its views, the one that showed most."""

    share: float
    """Of the evidence box that the view contains, 0 to 1; 0 beside the evidence time."""
    magnification: float
    """Its shown pixels per source pixel, divided by those of the first view; infinite for a frame of a video that did
    not come with the question, 0 if nothing of the source did."""

    @property
    def shows(self) -> bool:
        """Whether the view contains all of the evidence."""
        return self.share >= 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """What rewards need to know of one rollout of a group; `pxr_agents.groups.rollout_facts` has it of an episode."""

    correct: bool
    n_operations: int
    """Operations that were executed."""
    n_failed: int = 0
    """Operations that were refused, and malformed turns."""
    n_turns: int = 1
    free: bool = True
    """Whether it was left to the policy to use an operation: it is no probe, and none was withdrawn."""
    truncated_by: str | None = None
    """The limit that ended it without an answer."""
    looks: tuple[Look, ...] | None = None
    """Of each executed operation; None if it is not known where the evidence lies."""

    @property
    def n_calls(self) -> int:
        return self.n_operations + self.n_failed

    @property
    def answered_at_once(self) -> bool:
        """Whether its first turn was its answer."""
        return self.n_turns == 1 and self.truncated_by is None


GroupReward = Callable[..., list[dict[str, float]]]
"""(rollouts of a group, **constants) -> the terms of each."""


def beacon(rollouts: Sequence[Rollout], *, reduced: float = 0.25) -> list[dict[str, float]]:
    """A correct answer with calls is worth `reduced` instead of 1 where one without was correct, too.

    Beacon, arXiv 2607.28595, there .9 of the reward beside .1 for the format. Answers without calls count if they were
    given freely: with forced ones among them usage collapsed (its appendix E).
    """
    right = [each.correct and each.free for each in rollouts]
    solved = any(own and not each.n_calls for each, own in zip(rollouts, right, strict=True))
    return [
        {"beacon": reduced - 1.0 if solved and own and each.n_calls else 0.0}
        for each, own in zip(rollouts, right, strict=True)
    ]


def faith_eyes(rollouts: Sequence[Rollout], *, weight: float = 0.2) -> list[dict[str, float]]:
    """weight * (1 - (failed + unhelpful) / n) of n calls, whether the answer is correct or not; 0 without a call.

    FaithEyes, arXiv 2607.28225 (weight .2). There the policy itself judges what is unhelpful; here a call is that does
    not show all of the evidence, and none where the evidence is not known.
    """

    def helpful(each: Rollout) -> float:
        shows = [True] * each.n_operations if each.looks is None else [look.shows for look in each.looks]
        return sum(shows) / max(len(shows) + each.n_failed, 1)

    return [{"faith-eyes": weight * helpful(each)} for each in rollouts]


def productivity(rollouts: Sequence[Rollout], *, alpha: float = 1.0, c: float = 1.0) -> list[dict[str, float]]:
    """A correct answer after m calls is worth alpha * f instead of 1, with n the fewest of a correct rollout:

        f = 1 where m = n,  sin(pi m / (m + n)) for n > 0,  cos(pi m / (2 m + c)) for n = 0

    OTC-GRPO, arXiv 2504.14870. A larger c forgives more; 1 is ours.
    """
    if not c >= 0.0:
        raise ValueError(f"c is {c!r}; expected a number >= 0")
    least = min((each.n_calls for each in rollouts if each.correct and each.free), default=0)

    def worth(m: int) -> float:
        if m == least:
            return 1.0
        return math.sin(math.pi * m / (m + least)) if least else math.cos(math.pi * m / (2 * m + c))

    return [
        {"productivity": alpha * worth(each.n_calls) - 1.0 if each.correct and each.free else 0.0} for each in rollouts
    ]


def pyvision(rollouts: Sequence[Rollout], *, weight: float = 0.1) -> list[dict[str, float]]:
    """weight * n for n executed operations before a correct answer, without a limit.

    PyVision-RL, arXiv 2602.20739: against a policy that gives operations up.
    """
    return [{"pyvision": weight * each.n_operations * (each.correct and each.free)} for each in rollouts]


def evidence(rollouts: Sequence[Rollout], *, weight: float = 0.2, enough: float = 2.0) -> list[dict[str, float]]:
    """weight * (h - mean h of the users), for users, those that executed an operation; 0 for others.

    Ours. h is the best of its looks: the share of the evidence box, times a factor that rises from 0 at the first
    view's scale to 1 at `enough` times that; a view of everything shows nothing new. The terms of users add up to 0,
    so that neither using operations nor leaving them is paid, and they do not depend on the answer: only where to look
    is taught. Free users are compared with free ones and forced ones with forced ones. All 0 where the evidence is not
    known.
    """
    if not enough > 1.0:
        raise ValueError(f"enough is {enough!r}; expected a magnification above 1")

    def shown(each: Rollout) -> float:
        factors = ((look, min(max((look.magnification - 1.0) / (enough - 1.0), 0.0), 1.0)) for look in each.looks or ())
        return max((look.share * factor for look, factor in factors), default=0.0)

    def mean_of(free: bool) -> float:
        # The mean of equal numbers is that number, to the last digit: a tie teaches nothing.
        return mean(h for index, h in users.items() if rollouts[index].free is free)

    users = {index: shown(each) for index, each in enumerate(rollouts) if each.n_operations and each.looks is not None}
    return [
        {"evidence": weight * (users[index] - mean_of(each.free)) if index in users else 0.0}
        for index, each in enumerate(rollouts)
    ]


GROUP_REWARDS: dict[str, GroupReward] = {
    "beacon": beacon,
    "faith-eyes": faith_eyes,
    "productivity": productivity,
    "pyvision": pyvision,
    "evidence": evidence,
}
"""The rewards by name. Add your own: `GROUP_REWARDS["mine"] = mine`."""


def group_reward(name: str, **constants: object) -> Callable[[Sequence[Rollout]], list[dict[str, float]]]:
    """Returns the reward of a name in `GROUP_REWARDS`, or of "module:function", with its constants.

    Two rollouts were right, one of them without a call:

    >>> group_reward("beacon")([Rollout(correct=True, n_operations=0), Rollout(correct=True, n_operations=1)])
    [{'beacon': 0.0}, {'beacon': -0.75}]

    Raises:
        ValueError: there is no such reward, or it does not take these constants; where it is called, it returned
            something else than terms.
    """
    function = GROUP_REWARDS.get(name)
    if function is None and not all(name.partition(":")):
        near = did_you_mean(name, GROUP_REWARDS)
        raise ValueError(f'got "{quote(name)}"; expected "module:function" or one of {", ".join(GROUP_REWARDS)}.{near}')
    function = function or import_function(name)
    try:
        inspect.signature(function).bind((), **constants)
    except TypeError as error:
        raise ValueError(
            f"group reward {name} with {show(constants)}: {error}; expected a function of rollouts that takes these "
            f"keyword arguments"
        ) from error
    typed = typed_arguments(hints_of(function), constants)
    if name in GROUP_REWARDS:
        function((), **typed)  # checks their range

    def reward(rollouts: Sequence[Rollout]) -> list[dict[str, float]]:
        terms: object = function(rollouts, **typed)
        if not isinstance(terms, list) or len(terms) != len(rollouts) or not all(map(_is_terms, terms)):
            raise ValueError(
                f"group reward {name} returned {show(terms)} for {len(rollouts)} rollouts; expected a list with a dict "
                "of numbers for each"
            )
        return terms

    return reward


def _is_terms(terms: object) -> bool:
    return isinstance(terms, Mapping) and all(isinstance(value, Real) for value in terms.values())
