"""Gymnasium wrappers: the curiosity reward of single episodes, and episodes that have to begin with an operation or an
answer, or to do without operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from pxr_env.curiosity.formulas import curiosity_formula, settle_episode
from pxr_env.curiosity.usage import UsageRates
from pxr_env.errors import did_you_mean, quote

ANSWER = "answer"
"""The probe that begins with an answer, beside those that begin with an operation."""
WITHDRAWN = "withdrawn"
"""The arm without operations, beside those that are made to begin with something."""


class ProbeInfo(TypedDict):
    """`info["probe"]`, there in the episodes whose first turn has to begin with the opening of an operation's call, or
    with that of an answer (`operation` is `ANSWER`).

    `followed`, from the first turn on: whether it did.
    """

    operation: str
    opening: str
    followed: NotRequired[bool]


def followed_probe(info: Mapping[str, Any]) -> str | None:
    """Returns the operation that the episode of this `info` was forced to begin with, or None.

    A first turn that does not begin as asked was the policy's own, and so is the episode.
    """
    probe: ProbeInfo | None = info.get("probe")
    return probe["operation"] if probe is not None and probe.get("followed", False) else None


class CuriosityReward(gymnasium.Wrapper, RecordConstructorArgs):
    """Adds curiosity to the reward of a pixel environment, for any Gymnasium learner.

    A single environment sees no group, so the terms of the step that ends an episode come from the rate counted
    before that episode: of its sample if the sample was seen, else of its task, else 0 (the bonus is paid in full).
    Both terms join `info["reward_terms"]` and the reward; then the episode is counted in `rates`, unless it was reset
    before its end. A followed probe (see `ProbeOperations`, which goes inside this wrapper) gets no bonus.

    Args:
        env: an environment whose `info` has "sample_id", "usage", "failures" and "reward_terms".
        preset: a name in `PRESETS`.
        overrides: constants of the preset, such as `alpha=1.0`.

    Attributes:
        rates: the `UsageRates`; replace them to count in a window or to go on with earlier counts.

    Raises:
        ValueError, TypeError: as `curiosity_formula` does.
        KeyError: `info` lacks a key that is needed.
    """

    def __init__(self, env: gymnasium.Env, *, preset: str = "paper", **overrides: float | str) -> None:
        recorded: dict[str, Any] = {"preset": preset, **overrides}
        RecordConstructorArgs.__init__(self, **recorded)
        gymnasium.Wrapper.__init__(self, env)
        self.formula = curiosity_formula(preset, **overrides)
        self.rates = UsageRates()
        self._sample_id, self._executed, self._failed, self._unrepaired = "", 0, 0, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._sample_id, self._executed, self._failed, self._unrepaired = _read(info, "sample_id"), 0, 0, False
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._watch_failures(info)
        if not (terminated or truncated):
            return observation, float(reward), terminated, truncated, info

        probe, before = followed_probe(info), _read(info, "reward_terms")
        if probe is None:
            rate = max(self._expected_rate(), self.formula.rate_floor)
            bonus = self.formula.terms(self._executed, rate)
        else:
            bonus = self.formula.probe_terms(self._executed)
        after = settle_episode(before, bonus, void=self.formula.void_unrepaired and self._unrepaired)
        self.rates.record(self.task, self._sample_id, info["usage"], probe=probe)
        voided = after.get("correct", 0.0) - before.get("correct", 0.0)
        reward = float(reward) + bonus["curiosity"] + bonus["penalty"] + voided
        return observation, reward, terminated, truncated, {**info, "reward_terms": after}

    @property
    def task(self) -> str:
        """Name under which `rates` counts this environment: its registered id, or the name of its class."""
        return self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__

    def _expected_rate(self) -> float:
        rates = (self.rates.rate(self.task, self._sample_id), self.rates.rate(self.task))
        return next((rate for rate in rates if rate is not None), 0.0)

    def _watch_failures(self, info: Mapping[str, Any]) -> None:
        executed, failed = (sum(_read(info, key).values()) for key in ("usage", "failures"))
        # A turn in which one operation failed and another did not counts as failed: their order is not known here.
        if failed > self._failed:
            self._unrepaired = True
        elif executed > self._executed:
            self._unrepaired = False
        self._executed, self._failed = executed, failed


def _read(info: Mapping[str, Any], key: str) -> Any:
    if key not in info:
        raise KeyError(
            f'info has {sorted(info)} but no "{key}"; CuriosityReward expects the info of a pixel environment: put it '
            f'directly around one, or add "{key}" in the wrapper below it.{did_you_mean(key, info)}'
        )
    return info[key]


class ProbeOperations(gymnasium.Wrapper, RecordConstructorArgs):
    """Lets whoever resets a pixel environment ask for probes: episodes whose first turn has to begin with a call, or
    with the answer.

    After `reset(options={"probe": name})`, name an operation or `ANSWER`, `info["probe"]` has the opening (see
    `ProbeInfo`). Whoever writes the turns begins the first one with exactly this text and goes on by itself. Blanks at
    the end of the opening are not asked for, so that a tokenizer may join them with what comes next. `{"probe": None}`,
    or no such option, is an episode like all others.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._probe: ProbeInfo | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment, with the option "probe".

        Raises:
            ValueError: the environment has no such operation.
        """
        remaining = dict(options or {})
        name = remaining.pop("probe", None)
        observation, info = self.env.reset(seed=seed, options=remaining or None)
        # Not before: without operations the environment is another one.
        pixel_env: Any = self.env.unwrapped
        if name not in (None, ANSWER, *pixel_env.operations):
            raise ValueError(
                f'got a probe of "{quote(str(name))}"; expected "{ANSWER}" or an operation of the environment: '
                f"{', '.join(pixel_env.operations)}.{did_you_mean(name, pixel_env.operations)}"
            )
        self._probe = None
        if name is not None:
            self._probe = {"operation": name, "opening": _opening(pixel_env, name)}
        return observation, self._with_probe(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._probe is not None and "followed" not in self._probe:
            self._probe["followed"] = str(action).startswith(self._probe["opening"].rstrip())
        return observation, reward, terminated, truncated, self._with_probe(info)

    def _with_probe(self, info: dict[str, Any]) -> dict[str, Any]:
        return info if self._probe is None else {**info, "probe": dict(self._probe)}


def _opening(pixel_env: Any, name: str) -> str:
    if name != ANSWER:
        return str(pixel_env.dialect.call_opening(name))
    return str(pixel_env.dialect.render_answer("0")).partition("0")[0]


class WithdrawOperations(gymnasium.Wrapper, RecordConstructorArgs):
    """Lets whoever resets a pixel environment ask for an episode in which operations are withdrawn.

    `reset(options={"withdrawn": True})` begins one with a single turn, whose system prompt mentions no operations (see
    `VisualReasoningEnv.without_operations`: wrappers below this one have no part in it); `info["withdrawn"]` is True
    in it. Any other episode is one of `env`.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._offered = env
        self._withdrawn: gymnasium.Env | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment, with the option "withdrawn"."""
        remaining = dict(options or {})
        if remaining.pop("withdrawn", False):
            pixel_env: Any = self._offered.unwrapped
            self._withdrawn = self._withdrawn or pixel_env.without_operations()
            self.env = self._withdrawn
        else:
            self.env = self._offered
        observation, info = self.env.reset(seed=seed, options=remaining or None)
        return observation, self._told(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, self._told(info)

    def close(self) -> None:
        self._offered.close()

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "withdrawn": True} if self.env is self._withdrawn else info
