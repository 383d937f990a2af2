"""From episodes to a score: the statistics of a run with confidence intervals, overall and by category."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from pxr_agents.statistics import Condition, episode_counts, episode_statistics, evidence_looks, rates, used
from pxr_agents.types import Episode
from pxr_env.scoring.text import normalize
from .intervals import cluster_sums, mean_interval, share_interval
from .records import RunRecord

#: What `metrics.json` says about its intervals.
INTERVAL_METHOD = (
    "95%: Wilson's score interval of shares and of scores from 0 to 1, with the effective number of episodes where "
    "samples share an image or a video, or have repeats; Student's, over such clusters, of other means"
)


def evaluation_metrics(records: Sequence[RunRecord], *, score_name: str = "score") -> dict[str, Any]:
    """What `metrics.json` holds.

    Args:
        records: the episodes of the run; those with an `error` have no score, count in `n_errors` and `errors` only.
        score_name: what the mean of the scores is called, such as "anls".

    Returns:
        `statistics`: those of `pxr_agents.statistics.episode_statistics`, and the others of docs/evaluation.md
        (`NAME_all` is over all episodes, with those without a score counted as wrong);
        `intervals`: [low, high] of every rate and mean (of means none with fewer than two clusters), and
        `interval_method`, how they are made; `n_clusters`: groups of samples that belong together;
        `counts`: for every rate [how many, out of how many];
        `by_category`: the same four for every category that the samples name;
        `errors`: why episodes have no score -> how many; `served`: what servers called their model -> how many.
    """
    metrics = _measure(records, score_name)
    by_category: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.episode.category is not None:
            by_category[record.episode.category].append(record)
    metrics["by_category"] = {name: _measure(by_category[name], score_name) for name in sorted(by_category)}
    metrics["interval_method"] = INTERVAL_METHOD
    metrics["errors"] = count_reasons(record.episode.error for record in records if record.episode.error is not None)
    metrics["served"] = dict(Counter(record.served for record in records if record.served))
    return metrics


def evidence_iou(episode: Episode) -> float:
    """The best intersection over union of the evidence box with a view of source 1 that an operation showed.

    In a video only frames within the evidence time count. 0 if no operation showed source 1.
    """
    assert episode.evidence_box is not None
    return max((box_iou(look["box"], episode.evidence_box) for look in evidence_looks(episode)), default=0.0)


def box_iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def by_sample(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Records with a score by their sample, in the order of the run; a sample without any has an empty list."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        group = groups.setdefault(record.episode.sample_id, [])
        if record.episode.error is None:
            group.append(record)
    return groups


def _measure(records: Sequence[RunRecord], score_name: str) -> dict[str, Any]:
    episodes = [record.episode for record in records]
    groups = [group for group in by_sample(records).values() if group]
    clusters = [group[0].belongs_to for group in groups]
    shares = _rates(groups) | _scores(groups, score_name)
    means = _means(groups)
    strict = _with_unscored(records, score_name if score_name in shares else None)
    everyone = [record.belongs_to for record in records]
    statistics = episode_statistics(episodes)
    intervals = {}
    for name, (above, below) in (shares | means | strict).items():
        if below.sum() > 0:
            statistics.setdefault(name, float(above.sum() / below.sum()))
            sums, sizes = (
                cluster_sums(values, everyone if name in strict else clusters)[0] for values in (above, below)
            )
            interval = mean_interval(sums, sizes) if name in means else share_interval(sums, sizes)
            if interval is not None:
                intervals[name] = list(interval)
    counts = {name: [count, total] for name, (count, total) in episode_counts(episodes).items()}
    if records:
        counts["accuracy_all"] = [int(strict["accuracy_all"][0].sum()), len(records)]
    return {"statistics": statistics, "intervals": intervals, "n_clusters": len(set(clusters)), "counts": counts}


#: Of every statistic, for each sample the sum over its episodes, and how many of them count.
_Measured = dict[str, tuple[np.ndarray, np.ndarray]]
_Groups = Sequence[Sequence[RunRecord]]
_Value = Callable[[RunRecord], float | None]


def _rates(groups: _Groups) -> _Measured:
    def value(applies: Condition, holds: Condition) -> _Value:
        return lambda record: float(holds(record.episode)) if applies(record.episode) else None

    found = rates(record.episode for group in groups for record in group)
    return {name: _sums(groups, value(*conditions)) for name, conditions in found.items()}


def _with_unscored(records: Sequence[RunRecord], score_name: str | None) -> _Measured:
    """`NAME_all` for the accuracy and the mean score, over all episodes: those without a score count as wrong."""
    singles = [[record] for record in records]
    measured = {"accuracy_all": _sums(singles, lambda record: record.episode.error is None and record.episode.correct)}
    if score_name is not None:
        measured[f"{score_name}_all"] = _sums(
            singles, lambda record: 0.0 if record.episode.error is not None else record.score or 0.0
        )
    return measured


def _scores(groups: _Groups, score_name: str) -> _Measured:
    """Means of values from 0 to 1."""
    measured = {"evidence_iou": _sums(groups, _iou_of_a_use)}
    # Where scores are 0 and 1 only, their mean is the accuracy.
    if score_name != "score" or any(record.score not in (None, 0, 1) for group in groups for record in group):
        measured[score_name] = _sums(groups, lambda record: record.score)
    if any(len(group) > 1 for group in groups):
        for name, scores in repeat_scores(groups).items():
            known = np.array([score is not None for score in scores], float)
            measured[name] = (np.array([score or 0.0 for score in scores]), known)
    return measured


def _iou_of_a_use(record: RunRecord) -> float | None:
    return evidence_iou(record.episode) if used(record.episode) and record.episode.evidence_box else None


def _means(groups: _Groups) -> _Measured:
    """All other means."""
    operations = sorted({name for group in groups for record in group for name in record.episode.usage})
    failures = sorted({name for group in groups for record in group for name in record.episode.failures})
    taken = ("duplicates", "clipped", "vision_tokens", "prompt_tokens", "completion_tokens", "seconds")
    values: dict[str, _Value] = {
        "operations_per_episode": lambda record: record.episode.n_operations,
        **{f"operations/{name}": _count_of("usage", name) for name in operations},
        **{f"failures/{name}": _count_of("failures", name) for name in failures},
        **{name: attrgetter(name) for name in taken},
    }
    return {name: _sums(groups, value) for name, value in values.items()}


def _sums(groups: _Groups, value: _Value) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the known values of each sample."""
    known = [[found for record in group if (found := value(record)) is not None] for group in groups]
    return np.array([sum(group) for group in known], float), np.array([len(group) for group in known], float)


def _count_of(field: str, name: str) -> _Value:
    return lambda record: getattr(record.episode, field).get(name, 0)


def pass_at_k(n: int, n_correct: int, k: int) -> float:
    """Probability that at least one of `k` answers is right, estimated without bias from `n` answers.

    1 - C(n - c, k) / C(n, k): Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374, eq. 1.

    Raises:
        ValueError: not 0 <= n_correct <= n, or not 1 <= k <= n.
    """
    if not (0 <= n_correct <= n and 1 <= k <= n):
        raise ValueError(f"got n={n}, {n_correct} correct and k={k}, expected 0 <= correct <= n and 1 <= k <= n")
    return 1.0 - math.comb(n - n_correct, k) / math.comb(n, k)


def majority(records: Sequence[RunRecord]) -> bool:
    """Whether the answer that most repeats of one sample gave is correct; without any answer it is not.

    Answers are the same if their normalized texts are (see docs/scoring.md). Of answers with as many votes the one that
    came first counts (Wang et al., "Self-Consistency Improves Chain of Thought Reasoning", arXiv 2203.11171).
    """
    episodes = [record.episode for record in sorted(records, key=lambda record: record.repeat)]
    answers = [(normalize(episode.answer), episode.correct) for episode in episodes if episode.answer is not None]
    # A Counter keeps the order in which answers came, and most_common is stable.
    votes = Counter(answer for answer, _ in answers).most_common(1)
    return bool(votes) and next(correct for answer, correct in answers if answer == votes[0][0])


def repeat_scores(groups: Sequence[Sequence[RunRecord]]) -> dict[str, list[float | None]]:
    """`pass@k` for k = 1, 2, 4, ... and the number of repeats, and `majority_accuracy`, one number per sample.

    Args:
        groups: the scored records of each sample, at least one. With fewer than k of them its pass@k is None.
    """
    most = max(map(len, groups))
    scores: dict[str, list[float | None]] = {}
    for k in sorted({2**power for power in range(most.bit_length())} | {most}):
        scores[f"pass@{k}"] = [
            pass_at_k(len(group), sum(record.episode.correct for record in group), k) if len(group) >= k else None
            for group in groups
        ]
    scores["majority_accuracy"] = [float(majority(group)) for group in groups]
    return scores


#: What differs from one question to the next: quoted text, and words that hold a digit (ids, paths, numbers). A status
#: tells kinds of failures apart.
_VARYING = re.compile(r"""("[^"]*"|(?<!status )(?<![\w./:-])[\w./:-]*\d[\w./:-]*)""")


def count_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """How often each reason came, the most frequent first.

    Reasons with equal words are counted together under the first of them, with "…" where they differ.
    """
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for reason in reasons:
        pieces = _VARYING.split(reason)
        groups.setdefault(tuple(pieces[::2]), []).append(pieces)
    counts: Counter[str] = Counter()
    for group in groups.values():
        columns = zip(*group, strict=True)
        counts["".join(column[0] if len(set(column)) == 1 else "…" for column in columns)] += len(group)
    return dict(counts.most_common())
