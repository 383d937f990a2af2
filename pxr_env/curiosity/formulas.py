"""The formulas of the curiosity reward by name, and the reward terms of a group that one of them gives.

A *formula* turns the number of operations of one rollout, and the rate at which operations are used, into two reward
terms. A group has its own exact rate; `pxr_env.curiosity.CuriosityReward` takes a running one.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypedDict

from pxr_env.errors import did_you_mean


class CuriosityTerms(TypedDict):
    """The two terms of one rollout, already weighted: add them to the reward."""

    curiosity: float
    penalty: float


def _number(default: float, most: float = math.inf) -> Any:
    """A field that is checked to be a finite number from 0 to `most`."""
    return dataclasses.field(default=default, metadata={"most": most})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CuriosityFormula(ABC):
    """Base of all formulas. Derive a frozen dataclass, implement `terms`, put an instance into `PRESETS`.

    Args:
        rate_floor: smallest *running* rate that `CuriosityReward` hands to `terms`, for formulas that are not
            defined or not bounded at 0. The exact rate of a group is never touched.
        void_unrepaired: a correct answer counts 0 if the last operation failed and was not repaired.

    Raises:
        TypeError, ValueError: a constant has the wrong type or is out of range.
    """

    rate_floor: float = _number(0.0, 1.0)
    void_unrepaired: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, most = getattr(self, field.name), field.metadata.get("most")
            if most is None:
                continue
            expected = f"a number from 0 to {most:g}" if most < math.inf else "a number >= 0"
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{field.name} is {value!r} ({type(value).__name__}); expected {expected}")
            if not (math.isfinite(value) and 0.0 <= value <= most):
                raise ValueError(f"{field.name} is {value!r}; expected {expected}")
        if not isinstance(self.void_unrepaired, bool):
            raise TypeError(f"void_unrepaired is {self.void_unrepaired!r}; expected True or False")

    @abstractmethod
    def terms(self, n_operations: int, rate: float) -> CuriosityTerms:
        """Terms of a rollout with `n_operations` executed operations, where a share `rate` (0..1) of rollouts uses one.

        In a group the rollout itself counts, so that rate > 0 where n_operations > 0.
        """

    def probe_terms(self, n_operations: int) -> CuriosityTerms:
        """Terms of a probe: no bonus, since it chose nothing; the penalty for what it went on to call stays."""
        # Every formula is defined at a rate of 1.
        return {"curiosity": 0.0, "penalty": self.terms(n_operations, 1.0)["penalty"]}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PaperCuriosity(CuriosityFormula):
    """Pixel Reasoner (arXiv 2505.15966): alpha * max(H - RaPR, 0) * 1[n > 0] + beta * min(N - n, 0).

    RaPR is the share of rollouts with at least one operation, n the number of operations of this one. The bonus ends
    where the share H is reached; N operations cost nothing.
    """

    alpha: float = _number(0.5)
    beta: float = _number(0.05)
    H: float = _number(0.3, 1.0)
    N: int = _number(1)

    def terms(self, n_operations: int, rate: float) -> CuriosityTerms:
        bonus = self.alpha * max(self.H - rate, 0.0) if n_operations > 0 else 0.0
        return {"curiosity": bonus, "penalty": self.beta * min(self.N - n_operations, 0)}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReleasedCodeCuriosity(CuriosityFormula):
    """What the code released with Pixel Reasoner computes, for rollouts with n > 0 operations (0 for others):
    bonus max(H - RaPR, 0) / d / RaPR * alpha with d = 2 for images and 1.5 for video, penalty beta * (1 - n).

    The users of a group are together paid (H - RaPR) / d * alpha times its size. The bonus has no limit at rate 0,
    which a group cannot have for a rollout that used an operation but a running rate can: hence the floor, the smallest
    rate of a group of 8.
    """

    alpha: float = _number(0.25)
    beta: float = _number(0.05)
    H: float = _number(0.3, 1.0)
    media: Literal["image", "video"] = "image"
    rate_floor: float = _number(0.125, 1.0)
    void_unrepaired: bool = True

    def __post_init__(self) -> None:
        # A dataclass with slots is a new class, which the short form of super() does not know.
        super(ReleasedCodeCuriosity, self).__post_init__()
        if self.media not in ("image", "video"):
            raise ValueError(f"media is {self.media!r}; expected 'image' or 'video'")

    def terms(self, n_operations: int, rate: float) -> CuriosityTerms:
        if n_operations == 0:
            return {"curiosity": 0.0, "penalty": 0.0}
        divisor = 2.0 if self.media == "image" else 1.5
        bonus = max(self.H - rate, 0.0) / divisor / rate * self.alpha
        return {"curiosity": bonus, "penalty": self.beta * (1 - n_operations)}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NoCuriosity(CuriosityFormula):
    """Both terms are 0: plain reinforcement learning, in the same records."""

    def terms(self, n_operations: int, rate: float) -> CuriosityTerms:
        return {"curiosity": 0.0, "penalty": 0.0}


PRESETS: dict[str, CuriosityFormula] = {
    "paper": PaperCuriosity(),
    "released-code": ReleasedCodeCuriosity(),
    "off": NoCuriosity(),
}
"""The formulas by name. Add your own: `PRESETS["mine"] = MyFormula()`."""


def curiosity_formula(preset: str = "paper", **overrides: float | str) -> CuriosityFormula:
    """Returns the formula `preset` with `overrides` in place of its constants.

    Raises:
        ValueError: the preset is unknown or a value is out of range.
        TypeError: the preset has no such constant, or a value has the wrong type.
    """
    if preset not in PRESETS:
        raise ValueError(f"there is no curiosity preset {preset!r}; expected {_one_of(preset, PRESETS)}")
    formula = PRESETS[preset]
    names = [field.name for field in dataclasses.fields(formula)]
    for name in overrides:
        if name not in names:
            raise TypeError(f"curiosity preset {preset!r} has no {name!r}; expected {_one_of(name, names)}")
    changes: dict[str, Any] = dict(overrides)
    return dataclasses.replace(formula, **changes)


def _one_of(given: str, options: Collection[str]) -> str:
    return "one of " + ", ".join(map(repr, options)) + "." + did_you_mean(given, options)


def curiosity_terms(
    n_operations: Sequence[int],
    *,
    probed: Sequence[bool] | None = None,
    preset: str = "paper",
    **overrides: float | str,
) -> list[CuriosityTerms]:
    """Returns the curiosity terms of one group, exactly as published: its own rate, no state.

    One rollout of eight used an operation: .5 * (.3 - .125) = .0875 for it.

    >>> curiosity_terms([1, 0, 0, 0, 0, 0, 0, 0])[0]["curiosity"]
    0.0875

    Args:
        n_operations: executed operations of each rollout of the group; failed ones do not count.
        probed: whether each rollout was forced to begin with an operation. The rate is that of the others.
        preset: a name in `PRESETS`.
        overrides: constants of the preset, such as `alpha=1.0` or, for "released-code", `media="video"`.

    Raises:
        ValueError, TypeError: a count is not an int >= 0, there is not one flag per rollout, or as `curiosity_formula`
            does.
    """
    formula = curiosity_formula(preset, **overrides)
    counts = [_count(n, f"n_operations[{index}]") for index, n in enumerate(n_operations)]
    flags = [False] * len(counts) if probed is None else [bool(flag) for flag in probed]
    if len(flags) != len(counts):
        raise ValueError(f"{len(flags)} flags in probed for {len(counts)} rollouts; expected one bool per rollout")
    own = [n > 0 for n, flag in zip(counts, flags, strict=True) if not flag]
    rate = sum(own) / len(own) if own else 0.0
    return [formula.probe_terms(n) if flag else formula.terms(n, rate) for n, flag in zip(counts, flags, strict=True)]


def settle_group(
    n_operations: Sequence[int],
    reward_terms: Sequence[Mapping[str, float]],
    *,
    unrepaired: Sequence[bool] | None = None,
    probed: Sequence[bool] | None = None,
    preset: str = "paper",
    **overrides: float | str,
) -> list[dict[str, float]]:
    """Returns the reward terms of the rollouts of one group, curiosity included. A rollout's reward is their sum.

    The other arguments are those of `curiosity_terms`.

    Args:
        reward_terms: the environment's terms of each rollout, summed over its turns; they are not changed.
        unrepaired: whether the last operation of each rollout failed. Needed where the preset takes the reward of
            such rollouts (`void_unrepaired`, as "released-code" does): their "correct" becomes 0.

    Raises:
        ValueError: lengths differ, the terms hold curiosity already, `unrepaired` is missing, or as
            `curiosity_terms` does.
    """
    void = curiosity_formula(preset, **overrides).void_unrepaired
    if void and unrepaired is None:
        raise ValueError(
            f"unrepaired is missing: preset {preset!r} voids correct answers after a failed operation; pass one "
            "bool per rollout, or void_unrepaired=False to let them count"
        )
    flags = [False] * len(n_operations) if unrepaired is None else list(unrepaired)
    if not len(n_operations) == len(reward_terms) == len(flags):
        raise ValueError(
            f"a group of {len(n_operations)} n_operations, {len(reward_terms)} reward_terms and {len(flags)} "
            "unrepaired; expected one of each per rollout"
        )
    bonuses = curiosity_terms(n_operations, probed=probed, preset=preset, **overrides)
    return [
        settle_episode(terms, bonus, void=void and flag)
        for terms, bonus, flag in zip(reward_terms, bonuses, flags, strict=True)
    ]


def settle_episode(terms: Mapping[str, float], bonus: CuriosityTerms, *, void: bool) -> dict[str, float]:
    """Returns the terms of one episode with its bonus added, and with `void` its correct answer taken.

    Raises:
        ValueError: the terms hold curiosity already.
    """
    taken = sorted(bonus.keys() & terms.keys())
    if taken:
        raise ValueError(f"the reward terms already hold {taken}; expected terms without curiosity: add it once")
    voided = {"correct": 0.0} if void and "correct" in terms else {}
    return {**terms, **voided, "curiosity": bonus["curiosity"], "penalty": bonus["penalty"]}


def _count(n: Any, where: str) -> int:
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"{where} is {n!r} ({type(n).__name__}); expected an int >= 0")
    if n < 0:
        raise ValueError(f"{where} is {n!r}; expected an int >= 0, the operations that were executed")
    return operator.index(n)
