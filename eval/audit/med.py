"""The MED decomposition: what operations give and cost, from paired runs with and without them.

Y. Ma et al., "What Does Vision Tool-Use Reinforcement Learning Really Learn?", arXiv 2602.01334. With w(x) and o(x)
whether question x is answered right with and without operations, c(x) whether the model called one (executed or
refused), the gap is split by cases::

    G = mean(w - o) = call gain + schema gain - call harm - schema harm
    call gain   = P(not o, w, c)        schema gain = P(not o, w, not c)
    call harm   = P(o, not w, c)        schema harm = P(o, not w, not c)

and each term into mass x policy x quality, such as P(not o) P(c | not o) P(w | c, not o). Here w, o and c may be shares
over repeats: the two runs are drawn independently, so all pairs of repeats count, and the identity stays exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.intervals import cluster_sums, share_interval
from eval.metrics import by_sample
from eval.records import RunRecord
from eval.significance import paired_test
from pxr_env.rules import MALFORMED

TERMS = ("call_gain", "schema_gain", "call_harm", "schema_harm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """Questions answered in both runs; n numbers each, shares over repeats.

    Args:
        sample_ids: n.
        clusters: what each of them belongs to.
        without: right without operations.
        called_right, called_wrong, offered_right, offered_wrong: with operations, by whether one was called or only
            offered; the four sum to 1.
        malformed, unanswered: without operations: a turn that could not be read (such as a call, where there is nothing
            to call), no answer in the end.
        n_unscored: questions that one of the runs could not score; they are left out.
        n_repeats: most episodes of a question in either run.
    """

    sample_ids: tuple[str, ...]
    clusters: tuple[str, ...]
    without: np.ndarray
    called_right: np.ndarray
    called_wrong: np.ndarray
    offered_right: np.ndarray
    offered_wrong: np.ndarray
    malformed: np.ndarray
    unanswered: np.ndarray
    n_unscored: int = 0
    n_repeats: int = 1


def pair(
    with_operations: Sequence[RunRecord], without: Sequence[RunRecord], is_correct: Callable[[RunRecord], bool]
) -> Paired:
    """Pair two runs by sample.

    Args:
        with_operations, without: their records; samples of one run only are ignored.
        is_correct: whether an answer counts as right, by the same rule for both.

    Raises:
        ValueError: no sample is scored in both, or a sample differs between them.
    """
    first, second = by_sample(with_operations), by_sample(without)
    shared = [sample_id for sample_id in first if sample_id in second]
    scored = [sample_id for sample_id in shared if first[sample_id] and second[sample_id]]
    if not scored:
        raise ValueError("no question was scored both with and without operations; expected at least one")
    changed = [name for name in scored if first[name][0].sample_sha256 != second[name][0].sample_sha256]
    if changed:
        raise ValueError(
            f"{len(changed)} samples are not the same with and without operations, such as {changed[0]!r}: the "
            "data changed in between. Delete audit/without and audit again, or evaluate again."
        )

    def share(groups: Mapping[str, list[RunRecord]], holds: Callable[[RunRecord], bool]) -> np.ndarray:
        return np.array([sum(map(holds, groups[name])) / len(groups[name]) for name in scored])

    return Paired(
        sample_ids=tuple(scored),
        clusters=tuple(first[name][0].belongs_to for name in scored),
        without=share(second, is_correct),
        called_right=share(first, lambda record: called(record) and is_correct(record)),
        called_wrong=share(first, lambda record: called(record) and not is_correct(record)),
        offered_right=share(first, lambda record: not called(record) and is_correct(record)),
        offered_wrong=share(first, lambda record: not called(record) and not is_correct(record)),
        malformed=share(second, lambda record: record.episode.failures.get(MALFORMED, 0) > 0),
        unanswered=share(second, lambda record: record.episode.answer is None),
        n_unscored=len(shared) - len(scored),
        n_repeats=max(len(group) for groups in (first, second) for group in groups.values()),
    )


def called(record: RunRecord) -> bool:
    """Whether the model called an operation, executed or refused. What could not be read as a call is none."""
    episode = record.episode
    refused = sum(count for name, count in episode.failures.items() if name != MALFORMED)
    return episode.n_operations + refused > 0


def decompose(paired: Paired, *, seed: int = 0) -> dict[str, Any]:
    """The numbers of one run.

    Returns:
        `n`, `n_unscored`, `n_repeats`; `values` by name: `accuracy_with`, `accuracy_without`, `gap`, `call_rate`,
        `malformed_without`, `unanswered_without`, the four `TERMS`, `gain` and `harm` (their sums), and the factors:
        for `DOMAIN` in "fail" and "succ" (wrong or right without operations) `mass/DOMAIN`, for every term
        `policy/TERM` and `quality/TERM`;
        `intervals` by name: 95%, see `eval.intervals`;
        `gap_test`: with - without, see `eval.significance.paired_test`.
        A factor over no question is absent.
    """
    measured = _measured(paired)
    values = {name: float(above.sum() / below.sum()) for name, (above, below) in measured.items() if below.sum() > 0}
    with_operations = (paired.called_right + paired.offered_right).tolist()
    test = paired_test(paired.without.tolist(), with_operations, paired.clusters, seed=seed)
    intervals = {"gap": (test.low, test.high)}
    for name in values.keys() - {"gap"}:
        above, below = (cluster_sums(numbers, paired.clusters)[0] for numbers in measured[name])
        intervals[name] = share_interval(above, below)
    return {
        "n": len(paired.sample_ids),
        "n_unscored": paired.n_unscored,
        "n_repeats": paired.n_repeats,
        "values": values,
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "gap_test": {"name": test.name, "p_value": test.p_value, "low": test.low, "high": test.high},
    }


def drift(first: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, float]:
    """How a checkpoint differs from the first one: f_w = f_wo + drift of the gap (section "Measure" of the paper).

    Args:
        first, now: what `decompose` returned.

    Returns:
        `total` (of the accuracy with operations), `intrinsic` (without them), `operations` (of the gap).
    """
    names = {"total": "accuracy_with", "intrinsic": "accuracy_without", "operations": "gap"}
    return {name: now["values"][key] - first["values"][key] for name, key in names.items()}


def _measured(paired: Paired) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Numerators and denominators, one number per question."""
    right, one = paired.without, np.ones(len(paired.sample_ids))
    wrong = one - right
    cases = {
        "call_gain": (wrong, paired.called_right, paired.called_right + paired.called_wrong),
        "schema_gain": (wrong, paired.offered_right, paired.offered_right + paired.offered_wrong),
        "call_harm": (right, paired.called_wrong, paired.called_right + paired.called_wrong),
        "schema_harm": (right, paired.offered_wrong, paired.offered_right + paired.offered_wrong),
    }
    terms = {name: domain * outcome for name, (domain, outcome, _) in cases.items()}
    accuracy = paired.called_right + paired.offered_right
    sums = {
        "accuracy_with": accuracy,
        "accuracy_without": right,
        "gap": accuracy - right,
        "call_rate": paired.called_right + paired.called_wrong,
        "malformed_without": paired.malformed,
        "unanswered_without": paired.unanswered,
        **terms,
        "gain": terms["call_gain"] + terms["schema_gain"],
        "harm": terms["call_harm"] + terms["schema_harm"],
        "mass/fail": wrong,
        "mass/succ": right,
    }
    measured = {name: (above, one) for name, above in sums.items()}
    for name, (domain, _, way) in cases.items():
        measured[f"policy/{name}"] = (domain * way, domain)
        measured[f"quality/{name}"] = (terms[name], domain * way)
    return measured
