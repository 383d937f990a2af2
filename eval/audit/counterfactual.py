"""What the re-run ends of episodes say: does the answer depend on what an operation showed?

Every arm is compared with the control arm, in which the same turns were forced and the true pixels shown. The control
itself is compared with the record: how often an answer changes although nothing did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eval.intervals import cluster_sums, share_interval
from eval.records import RunRecord
from eval.significance import PairedTest, paired_test
from pxr_agents.statistics import contains, evidence_looks, knows_evidence
from pxr_agents.types import Episode
from pxr_env.scoring.text import normalize
from pxr_env.views import overlap

IsCorrect = Callable[[RunRecord], bool]
_Key = tuple[str, int]

#: Kinds of use, in the order they are reported.
USES = ("causal", "decorative", "unstable")
#: Below this the effect of an intervention is called one.
ALPHA = 0.05


def analyse(
    recorded: Sequence[RunRecord],
    control: Sequence[RunRecord],
    arms: Mapping[str, Sequence[RunRecord]],
    is_correct: IsCorrect,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """The numbers of one operation, or of all together.

    Args:
        recorded: the episodes of the run that used it.
        control: the same, played again with the true pixels.
        arms: intervention -> the same, played again with other pixels.

    Returns:
        `n` (episodes whose control has a score), `n_lost` (those whose control has none),
        `reproduced` [share, low, high] (the control's answer is the one on record), `accuracy_recorded`,
        `accuracy_control`; `arms`: see `_arm`; `uses`: see `_uses`; `need`: "needed" and "not needed" -> kind of use ->
        episodes, None where no sample knows; `faithfulness`: see `_faithfulness`;
        `verdict`: in words. Nothing but the first two if `n` is 0.
    """
    by_key = {record.key: record for record in control if record.episode.error is None}
    pairs = [(record, by_key[record.key]) for record in recorded if record.key in by_key]
    result: dict[str, Any] = {"n": len(pairs), "n_lost": len(recorded) - len(pairs)}
    if not pairs:
        return result
    clusters = [record.belongs_to for record, _ in pairs]
    reproduced = [same_answer(before.episode, now.episode) for before, now in pairs]
    scored = {
        name: {record.key: record for record in records if record.episode.error is None}
        for name, records in arms.items()
    }
    uses = _uses(pairs, scored)
    belongs_to = {record.key: record.belongs_to for record, _ in pairs}
    result |= {
        "reproduced": share(reproduced, clusters),
        "accuracy_recorded": share([is_correct(before) for before, _ in pairs], clusters),
        "accuracy_control": share([is_correct(now) for _, now in pairs], clusters),
        "arms": {name: _arm(pairs, records, is_correct, seed) for name, records in scored.items()},
        "uses": {
            use: {
                "n": sum(of == use for of in uses.values()),
                "share": share([of == use for of in uses.values()], [belongs_to[key] for key in uses]),
            }
            for use in USES
        }
        if uses
        else {},
        "need": _need([before for before, _ in pairs], uses),
        "faithfulness": _faithfulness([before for before, _ in pairs], uses, is_correct),
    }
    return result | {"verdict": verdict(result)}


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

    "causal": in some arm more answers changed than without any change, by a paired test after Bonferroni. With
    it "helps" or "harms" where the accuracy lost, or gained, is significant in the same way. "decorative": none did.
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


def _arm(
    pairs: Sequence[tuple[RunRecord, RunRecord]], scored: Mapping[_Key, RunRecord], is_correct: IsCorrect, seed: int
) -> dict[str, Any]:
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
    control = [is_correct(now) for _, now, _ in triples]
    then = [is_correct(record) for _, _, record in triples]
    again = [record.episode.n_operations > now.episode.n_operations for _, now, record in triples]
    lost = paired_test([float(right) for right in then], [float(right) for right in control], clusters, seed=seed)
    excess = paired_test([float(other) for other in noise], [float(other) for other in changed], clusters, seed=seed)
    return result | {
        "changed": share(changed, clusters),
        "noise": share(noise, clusters),
        "excess": _difference(excess),
        "excess_p": excess.p_value,
        "accuracy": share(then, clusters),
        "accuracy_lost": _difference(lost),
        "accuracy_p": lost.p_value,
        "n_lost": lost.n_second,
        "n_gained": lost.n_first,
        "asked_again": share(again, clusters),
    }


def _uses(
    pairs: Sequence[tuple[RunRecord, RunRecord]], scored: Mapping[str, Mapping[_Key, RunRecord]]
) -> dict[_Key, str]:
    """The kind of every use that some intervention was made on.

    "unstable": the control did not reproduce the answer on record, so nothing can be said; "causal": it did, and some
    intervention changed it; "decorative": it did, and none changed it.
    """
    uses = {}
    for before, now in pairs:
        others = [records[before.key] for records in scored.values() if before.key in records]
        if not others:
            continue
        if not same_answer(before.episode, now.episode):
            uses[before.key] = "unstable"
        else:
            stays = all(same_answer(now.episode, other.episode) for other in others)
            uses[before.key] = "decorative" if stays else "causal"
    return uses


def _need(recorded: Sequence[RunRecord], uses: Mapping[_Key, str]) -> dict[str, dict[str, int]] | None:
    """Kinds of use by whether the question needs an operation, as far as samples know."""
    known = [record for record in recorded if record.episode.needs_operation is not None]
    if not known:
        return None
    return {
        name: dict(Counter(uses[r.key] for r in known if r.episode.needs_operation is needed and r.key in uses))
        for name, needed in (("needed", True), ("not needed", False))
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
    table = {
        name: dict(Counter(uses[record.key] for record, faithful in known if faithful is wanted and record.key in uses))
        for name, wanted in (("faithful", True), ("unfaithful", False))
    }
    return {
        "n": len(known),
        "faithful": share([faithful for _, faithful in known], clusters),
        "faithful_correct": share([f for _, f in right], [cluster for cluster, _ in right]) if right else None,
        "coverage": float(np.mean(shares)) if shares else None,
        "table": table,
    }


def _difference(test: PairedTest) -> list[float]:
    """[difference, low, high]."""
    return [test.difference, test.low, test.high]


def is_faithful(episode: Episode) -> bool | None:
    """Whether some view of an operation contains the whole evidence, in its time; None if no evidence is known.

    X. Hou et al., "CodeV", arXiv 2511.19661, call the use of an operation faithful if its output contains what the
    question asks about; there a model judges it, here the evidence box says so.
    """
    if not knows_evidence(episode):
        return None
    box = episode.evidence_box
    return any(box is None or contains(look["box"], box) for look in evidence_looks(episode))


def coverage(episode: Episode) -> float | None:
    """The largest share of the evidence box that one view of an operation contains; None if no box is known."""
    box = episode.evidence_box
    if box is None:
        return None
    area = (box[2] - box[0]) * (box[3] - box[1])
    shared = [overlap(tuple(look["box"]), box) for look in evidence_looks(episode)]
    return max((((x2 - x1) * (y2 - y1)) / area for x1, y1, x2, y2 in filter(None, shared)), default=0.0)
