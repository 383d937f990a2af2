"""What an audit measures: what operations give and cost (MED), and whether answers depend on what they showed.

MED is Y. Ma et al., "What Does Vision Tool-Use Reinforcement Learning Really Learn?", arXiv 2602.01334. With w(x) and
o(x) whether question x is answered right with and without operations, c(x) whether the model called one (executed or
refused), the gap is split by cases::

    G = mean(w - o) = call gain + schema gain - call harm - schema harm
    call gain   = P(not o, w, c)        schema gain = P(not o, w, not c)
    call harm   = P(o, not w, c)        schema harm = P(o, not w, not c)

and each term into mass x policy x quality, such as P(not o) P(c | not o) P(w | c, not o). Here w, o and c may be shares
over repeats: the two runs are drawn independently, so all pairs of repeats count, and the identity stays exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product, starmap
from typing import Any

import numpy as np

from pxr_agents.statistics import evidence_shown
from pxr_agents.types import Episode
from pxr_env.rules import MALFORMED
from pxr_env.scoring.text import normalize
from ..intervals import PairedTest, cluster_sums, paired_test, share_interval
from ..metrics import by_sample
from ..records import RunRecord

TERMS = ("call_gain", "schema_gain", "call_harm", "schema_harm")
#: Kinds of use, in the order they are reported.
USES = ("causal", "decorative", "unstable")
#: Below this the effect of an intervention is called one.
ALPHA = 0.05

IsCorrect = Callable[[RunRecord], bool]
_Key = tuple[str, int]
#: An episode of the run, and the same in the control.
_Pair = tuple[RunRecord, RunRecord]


def decompose(
    with_operations: Sequence[RunRecord], without: Sequence[RunRecord], is_correct: IsCorrect, *, seed: int = 0
) -> dict[str, Any]:
    """The MED numbers of a run with operations and one without, over the samples that both scored.

    Returns:
        `n`, `n_unscored`, `n_repeats`; `values` by name: `accuracy_with`, `accuracy_without`, `gap`, `call_rate`,
        `malformed_without`, `unanswered_without`, the four `TERMS`, `gain` and `harm` (their sums), and the factors:
        for `DOMAIN` in "fail" and "succ" (wrong or right without operations) `mass/DOMAIN`, for every term
        `policy/TERM` and `quality/TERM`; `intervals` by name: 95%, see `eval.intervals`; `gap_test`: with - without,
        see `eval.intervals.paired_test`. A factor over no question is absent.

    Raises:
        ValueError: no sample is scored in both, or a sample differs between them.
    """
    first, second = by_sample(with_operations), by_sample(without)
    shared, scored = in_both(first, second)

    def shares(groups: Mapping[str, list[RunRecord]], holds: IsCorrect) -> np.ndarray:
        return shares_of([groups[name] for name in scored], holds)

    def ends(calls: bool, right: bool) -> np.ndarray:
        return shares(first, lambda record: called(record) == calls and is_correct(record) == right)

    clusters = [first[name][0].belongs_to for name in scored]
    right_without, every = shares(second, is_correct), np.ones(len(scored))
    fail = every - right_without
    called_right, called_wrong, offered_right, offered_wrong = starmap(ends, product((True, False), repeat=2))
    right_with = called_right + offered_right
    calls, only_offered = called_right + called_wrong, offered_right + offered_wrong
    # Of which questions, how often that way was taken, and turned the outcome.
    cases = {
        "call_gain": (fail, calls, called_right),
        "schema_gain": (fail, only_offered, offered_right),
        "call_harm": (right_without, calls, called_wrong),
        "schema_harm": (right_without, only_offered, offered_wrong),
    }
    terms = {name: domain * outcome for name, (domain, _, outcome) in cases.items()}
    sums = {
        "accuracy_with": right_with,
        "accuracy_without": right_without,
        "call_rate": calls,
        "malformed_without": shares(second, lambda record: record.episode.failures.get(MALFORMED, 0) > 0),
        "unanswered_without": shares(second, lambda record: record.episode.answer is None),
        **terms,
        "gain": terms["call_gain"] + terms["schema_gain"],
        "harm": terms["call_harm"] + terms["schema_harm"],
        "mass/fail": fail,
        "mass/succ": right_without,
    }
    measured = {name: (above, every) for name, above in sums.items()}
    for name, (domain, way, _) in cases.items():
        measured |= {f"policy/{name}": (domain * way, domain), f"quality/{name}": (terms[name], domain * way)}
    test = paired_test(right_without.tolist(), right_with.tolist(), clusters, seed=seed)
    values, intervals = ratios(measured, clusters)
    return {
        "n": len(scored),
        "n_unscored": len(shared) - len(scored),
        "n_repeats": max(len(group) for groups in (first, second) for group in groups.values()),
        "values": values | {"gap": test.difference},
        "intervals": intervals | {"gap": [test.low, test.high]},
        "gap_test": {"name": test.name, "p_value": test.p_value, "low": test.low, "high": test.high},
    }


def shares_of(groups: Sequence[Sequence[RunRecord]], holds: IsCorrect) -> np.ndarray:
    """Of every group the share of its records for which something holds, (n,)."""
    return np.array([sum(map(holds, group)) / len(group) for group in groups])


def ratios(
    measured: Mapping[str, tuple[np.ndarray, np.ndarray]], clusters: Sequence[str]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """By name the sum of the first numbers over that of the second, and its interval (see `eval.intervals`); both are
    (n,), one for each question. What is over no question is absent."""
    known = {name: (above, below) for name, (above, below) in measured.items() if below.sum() > 0}
    sums = {name: [cluster_sums(numbers, clusters)[0] for numbers in both] for name, both in known.items()}
    values = {name: float(above.sum() / below.sum()) for name, (above, below) in known.items()}
    return values, {name: list(share_interval(above, below)) for name, (above, below) in sums.items()}


def in_both(first: Mapping[str, list[RunRecord]], second: Mapping[str, list[RunRecord]]) -> tuple[list[str], list[str]]:
    """The samples that both runs have, and of these the ones that both scored."""
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
    return shared, scored


def called(record: RunRecord) -> bool:
    """Whether the model called an operation, executed or refused. What could not be read as a call is none."""
    episode = record.episode
    refused = sum(count for name, count in episode.failures.items() if name != MALFORMED)
    return episode.n_operations + refused > 0


def drift(first: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, float]:
    """How a checkpoint differs from the first one, both as `decompose` returned them: `total` (of the accuracy with
    operations) is `intrinsic` (without them) plus `operations` (of the gap); section "Measure" of the MED paper."""
    names = {"total": "accuracy_with", "intrinsic": "accuracy_without", "operations": "gap"}
    return {name: now["values"][key] - first["values"][key] for name, key in names.items()}


def analyse(
    recorded: Sequence[RunRecord],
    control: Sequence[RunRecord],
    arms: Mapping[str, Sequence[RunRecord]],
    is_correct: IsCorrect,
    *,
    unsolvable: Collection[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """What the re-run ends of episodes say of one operation, or of all together.

    Every arm is compared with the control, in which the same turns were forced and the true pixels shown, and the
    control with the record: how often an answer changes although nothing did.

    Args:
        recorded, control: the episodes of the run that used it, and the same in the control.
        arms: intervention -> the same, played again with other pixels.
        unsolvable: samples that are not answered without operations.

    Returns:
        `n` (episodes whose control has a score), `n_lost` (those whose control has none), and unless `n` is 0
        `reproduced` [share, low, high] (the control's answer is the one on record), `accuracy_recorded`,
        `accuracy_control`, `arms` (see `_arm`), `uses` (kind -> `n`, `share`), `need` ("needed" and "not needed" ->
        kind of use -> episodes, None where no sample knows), `causal_needed` and `causal_unsolvable` [share, low, high]
        (causal ones of the uses on such samples, None without any), `faithfulness` (see `_faithfulness`), `verdict` in
        words.
    """
    by_key = _scored(control)
    pairs = [(record, by_key[record.key]) for record in recorded if record.key in by_key]
    result: dict[str, Any] = {"n": len(pairs), "n_lost": len(recorded) - len(pairs)}
    if not pairs:
        return result
    played = [before for before, _ in pairs]
    clusters = {record.key: record.belongs_to for record in played}
    every = list(clusters.values())
    scored = {name: _scored(records) for name, records in arms.items()}
    uses = _uses(pairs, scored)
    needs = [(record, record.episode.needs_operation) for record in played]

    def causal(holds: IsCorrect) -> list[float] | None:
        kept = [record for record in played if record.key in uses and holds(record)]
        return share([uses[one.key] == "causal" for one in kept], [one.belongs_to for one in kept]) if kept else None

    any_need = any(need is not None for _, need in needs)
    of_uses = {use: [of == use for of in uses.values()] for use in USES if uses}
    result |= {
        "reproduced": share([same_answer(before.episode, now.episode) for before, now in pairs], every),
        "accuracy_recorded": share([is_correct(before) for before in played], every),
        "accuracy_control": share([is_correct(now) for _, now in pairs], every),
        "arms": {name: _arm(pairs, records, is_correct, seed) for name, records in scored.items()},
        "uses": {
            use: {"n": sum(holds), "share": share(holds, [clusters[key] for key in uses])}
            for use, holds in of_uses.items()
        },
        "need": _counted(needs, uses, {"needed": True, "not needed": False}) if any_need else None,
        "causal_needed": causal(lambda record: record.episode.needs_operation is True),
        "causal_unsolvable": causal(lambda record: record.episode.sample_id in unsolvable),
        "faithfulness": _faithfulness(played, uses, is_correct),
    }
    return result | {"verdict": verdict(result)}


def _scored(records: Sequence[RunRecord]) -> dict[_Key, RunRecord]:
    return {record.key: record for record in records if record.episode.error is None}


def same_answer(first: Episode, second: Episode) -> bool:
    """Whether two episodes end with the same answer, as `docs/scoring.md` normalizes texts; or both with none."""
    if first.answer is None or second.answer is None:
        return first.answer is second.answer
    return normalize(first.answer) == normalize(second.answer)


def share(holds: Sequence[bool], clusters: Sequence[str]) -> list[float]:
    """[share, low, high], see `eval.intervals.share_interval`; each episode with what its sample belongs to."""
    return [sum(holds) / len(holds), *share_interval(*cluster_sums(holds, clusters))]


def verdict(result: Mapping[str, Any]) -> str:
    """What the numbers of one operation say, in a few words.

    "causal": in some arm more answers changed than without any change, by a paired test after Bonferroni; "helps" or
    "harms" where the accuracy lost, or gained, is significant in the same way; "decorative": none did.
    """
    arms = [arm for arm in result["arms"].values() if arm["n"]]
    if not arms:
        return "unknown: no intervention could be made"
    level = ALPHA / len(arms)
    if not any(arm["excess"][0] > 0 and arm["excess_p"] < level for arm in arms):
        return "decorative: no change beyond the control's was found"
    lost = [arm["accuracy_lost"][0] for arm in arms if arm["accuracy_p"] < level]
    if lost and min(lost) > 0:
        return "causal, helps"
    if lost and max(lost) < 0:
        return "causal, harms"
    return "causal"


def _arm(pairs: Sequence[_Pair], scored: Mapping[_Key, RunRecord], is_correct: IsCorrect, seed: int) -> dict[str, Any]:
    """One intervention against the control.

    Returns:
        `n`, `n_impossible` (could not be made, or has no score);
        `changed` (answers unlike the control's), `noise` (the control's unlike those on record, of the same episodes),
        `excess` (changed - noise) with `excess_p`; `accuracy`, `accuracy_lost` (control - intervention) with
        `accuracy_p`; `n_lost`, `n_gained` (right only in the control, only in the intervention); `asked_again`
        (episodes that called more operations after it than the control did). Shares as [value, low, high].
    """
    triples = [(before, now, scored[before.key]) for before, now in pairs if before.key in scored]
    result: dict[str, Any] = {"n": len(triples), "n_impossible": len(pairs) - len(triples)}
    if not triples:
        return result
    clusters = [before.belongs_to for before, _, _ in triples]
    noise = [not same_answer(before.episode, now.episode) for before, now, _ in triples]
    changed = [not same_answer(now.episode, then.episode) for _, now, then in triples]
    right = [is_correct(then) for _, _, then in triples]
    again = [then.episode.n_operations > now.episode.n_operations for _, now, then in triples]

    def compared(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
        return paired_test(list(map(float, first)), list(map(float, second)), clusters, seed=seed)

    excess, lost = compared(noise, changed), compared(right, [is_correct(now) for _, now, _ in triples])
    return result | {
        "changed": share(changed, clusters),
        "noise": share(noise, clusters),
        "excess": [excess.difference, excess.low, excess.high],
        "excess_p": excess.p_value,
        "accuracy": share(right, clusters),
        "accuracy_lost": [lost.difference, lost.low, lost.high],
        "accuracy_p": lost.p_value,
        "n_lost": lost.n_second,
        "n_gained": lost.n_first,
        "asked_again": share(again, clusters),
    }


def use_of(recorded: RunRecord, control: RunRecord, others: Sequence[RunRecord]) -> str:
    """The kind of a use.

    "unstable": the control did not reproduce the answer on record, so nothing can be said; "causal": it did, and some
    intervention changed it; "decorative": it did, and none changed it.
    """
    if not same_answer(recorded.episode, control.episode):
        return "unstable"
    stays = all(same_answer(control.episode, other.episode) for other in others)
    return "decorative" if stays else "causal"


def _uses(pairs: Sequence[_Pair], scored: Mapping[str, Mapping[_Key, RunRecord]]) -> dict[_Key, str]:
    """The kind of every use that some intervention was made on."""
    uses = {}
    for before, now in pairs:
        if others := [records[before.key] for records in scored.values() if before.key in records]:
            uses[before.key] = use_of(before, now, others)
    return uses


def _counted(
    known: Sequence[tuple[RunRecord, bool | None]], uses: Mapping[_Key, str], rows: Mapping[str, bool]
) -> dict[str, dict[str, int]]:
    """For every row, in which something is true or false, kinds of use and how many they are."""
    return {
        name: dict(Counter(uses[record.key] for record, holds in known if holds is wanted and record.key in uses))
        for name, wanted in rows.items()
    }


def _faithfulness(
    recorded: Sequence[RunRecord], uses: Mapping[_Key, str], is_correct: IsCorrect
) -> dict[str, Any] | None:
    """How often operations showed the evidence, and how that goes with the kind of use; None if no evidence is known.

    Returns:
        `n`; `faithful` [share, low, high]; `faithful_correct`, the same of the right answers (None without any);
        `coverage`, mean share of the evidence box in the best view (None without boxes); `table`: "faithful" and
        "unfaithful" -> kind of use -> episodes.
    """
    known = [(record, faithful) for record in recorded if (faithful := is_faithful(record.episode)) is not None]
    if not known:
        return None
    clusters = [record.belongs_to for record, _ in known]
    right = [(record.belongs_to, faithful) for record, faithful in known if is_correct(record)]
    shares = [part for record, _ in known if (part := coverage(record.episode)) is not None]
    return {
        "n": len(known),
        "faithful": share([faithful for _, faithful in known], clusters),
        "faithful_correct": share([f for _, f in right], [cluster for cluster, _ in right]) if right else None,
        "coverage": float(np.mean(shares)) if shares else None,
        "table": _counted(known, uses, {"faithful": True, "unfaithful": False}),
    }


def is_faithful(episode: Episode) -> bool | None:
    """Whether some view of an operation contains the whole evidence, in its time; None if no evidence is known.

    X. Hou et al., "CodeV", arXiv 2511.19661, call the use of an operation faithful if its output contains what the
    question asks about; there a model judges it, here the evidence box says so.
    """
    shown = evidence_shown(episode)
    return None if shown is None else any(look.shows for look in shown)


def coverage(episode: Episode) -> float | None:
    """The largest share of the evidence box that one view of an operation contains; None if no box is known."""
    if episode.evidence_box is None:
        return None
    return max((look.share for look in evidence_shown(episode) or ()), default=0.0)
