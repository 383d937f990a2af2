"""Whether an agent uses operations where they pay, and answers at once where it can.

Mode accuracy, tool gain and tool harm follow Beacon (arXiv 2607.28595), of which only notes were read. A question is
*solvable* if the model answers it without operations, and then should be answered without one::

    MA_text = P(answered, no operation executed | solvable)       tool gain = P(not solvable, right with operations)
    MA_tool = P(an operation was executed | not solvable)         tool harm = P(solvable, wrong with operations)
    MA      = (MA_text + MA_tool) / 2

Always calling and never calling have an MA of 1/2. Two definitions are guesses: that a question is solvable if at least
half of its answers without operations are right, and that gain and harm are shares of all questions, so that gain
minus harm is the change of accuracy where one answer decides (k = 1).

No call is executed where every call is broken, so MA_text cannot tell an agent that answers at once from one that
breaks a call off first: the share of solvable questions that were *answered in the first turn* is reported beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pxr_agents.statistics import answered_at_once, used
from ..metrics import by_sample
from ..records import RunRecord
from .measures import IsCorrect, in_both, ratios, shares_of

#: The least share of right answers without operations that makes a question solvable.
SOLVABLE = 0.5


def solvable_samples(
    recorded: Sequence[RunRecord], without: Sequence[RunRecord], is_correct: IsCorrect
) -> dict[str, bool]:
    """Of every sample that both have a score of, whether it is solvable: right in at least `SOLVABLE` of `without`."""
    answers = by_sample(without)
    _, scored = in_both(by_sample(recorded), answers)
    right = shares_of([answers[name] for name in scored], is_correct)
    return dict(zip(scored, (right >= SOLVABLE).tolist(), strict=True))


def adaptive_use(
    recorded: Sequence[RunRecord],
    solvable: Mapping[str, bool],
    counterfactual: Mapping[str, Any] | None,
    is_correct: IsCorrect,
) -> dict[str, Any]:
    """The section "adaptive" of an audit.

    Args:
        recorded: the episodes of the run.
        solvable: see `solvable_samples`; empty where that is not known.
        counterfactual: see `eval.audit.audit.audit_run`.

    Returns:
        `solvability` (see `mode_accuracy`) and `need`, the same with what samples say of themselves
        (`needs_operation`) in place of solvability; `faithful` and `causal`, the shares [share, low, high] of the uses,
        `causal_needed` and `causal_unsolvable` of the uses on such samples. None where it is not known.
    """
    groups = by_sample(recorded)
    easy = {
        name: not group[0].episode.needs_operation
        for name, group in groups.items()
        if group and group[0].episode.needs_operation is not None
    }
    uses = {} if counterfactual is None else counterfactual["operations"]["all"]
    faithfulness, causal = uses.get("faithfulness"), uses.get("uses", {}).get("causal")
    return {
        "solvability": mode_accuracy(groups, solvable, is_correct) if solvable else None,
        "need": mode_accuracy(groups, easy, is_correct) if easy else None,
        "faithful": faithfulness and faithfulness["faithful"],
        "causal": causal and causal["share"],
        "causal_needed": uses.get("causal_needed"),
        "causal_unsolvable": uses.get("causal_unsolvable"),
    }


def mode_accuracy(
    groups: Mapping[str, Sequence[RunRecord]], easy: Mapping[str, bool], is_correct: IsCorrect
) -> dict[str, Any]:
    """Mode accuracy of the run's episodes by sample, where `easy` says which samples need no operation.

    Returns:
        `n` samples, `n_easy` of them easy; `values` and `intervals` by name: `mode_accuracy`, `ma_text`, `ma_tool`,
        `first_turn` (the share of easy samples that were answered in the first turn), `tool_gain`, `tool_harm`.
        Repeats count as shares; what is over no sample is absent, and so is the `mode_accuracy` of easy samples alone,
        or of others alone.
    """
    records = [groups[name] for name in easy]
    no_need, every = np.array(list(easy.values()), float), np.ones(len(easy))
    need, right = every - no_need, shares_of(records, is_correct)
    direct = shares_of(records, lambda record: record.episode.answer is not None and not used(record.episode))
    measured = {
        "ma_text": (no_need * direct, no_need),
        "ma_tool": (need * shares_of(records, lambda record: used(record.episode)), need),
        "first_turn": (no_need * shares_of(records, lambda record: answered_at_once(record.episode)), no_need),
        "tool_gain": (need * right, every),
        "tool_harm": (no_need * (every - right), every),
    }
    values, intervals = ratios(measured, [group[0].belongs_to for group in records])
    if "ma_text" in values and "ma_tool" in values:
        both = [(values[name], *intervals[name]) for name in ("ma_text", "ma_tool")]
        values["mode_accuracy"], *intervals["mode_accuracy"] = _mean_of_shares(both)
    return {"n": len(easy), "n_easy": int(no_need.sum()), "values": values, "intervals": intervals}


def _mean_of_shares(shares: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The mean of independent shares, each given as (share, low, high), with its interval.

    How far each bound is from its share is added in squares: R. G. Newcombe, Statistics in Medicine 17:873 (1998),
    method 10, there for a difference; G. Y. Zou and A. Donner, 27:1693 (2008), for sums. Questions of both kinds in one
    cluster would make the shares depend on each other a little.
    """
    mean = sum(value for value, _, _ in shares) / len(shares)
    below = math.hypot(*(value - low for value, low, _ in shares)) / len(shares)
    above = math.hypot(*(high - value for value, _, high in shares)) / len(shares)
    return mean, mean - below, mean + above
