"""From episodes to a score: the statistics of a run with confidence intervals, overall and by category."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from eval.intervals import cluster_sums, mean_interval, share_interval
from eval.records import RunRecord
from pxr_agents.statistics import episode_counts, episode_statistics, evidence_looks, rates, used
from pxr_agents.types import Episode
from pxr_env.scoring.text import normalize

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
        `statistics`: those of `pxr_agents.statistics.episode_statistics`; `accuracy_all`, the accuracy over all
        episodes with those without a score counted as wrong; and means per episode: `score_name` (and
        `SCORE_NAME_all`, likewise),
        `operations/NAME` (executed), `failures/NAME` (refused), `duplicates`, `clipped`, `evidence_iou` (see there;
        over episodes that used an operation and know an evidence box), `vision_tokens`, `prompt_tokens`,
        `completion_tokens`, `seconds`; with several repeats of a sample also `pass@k` and `majority_accuracy`;
        `intervals`: [low, high] of every rate and mean (of means none with fewer than two clusters), and
        `interval_method`, how they are made; `n_clusters`: groups of samples that belong together;
        `counts`: for every rate [how many, out of how many];
        `by_category`: the same four for every category that the samples name (empty if they name none);
        `errors`: why episodes have no score -> how many, see `eval.metrics`;
        `served`: what servers called their model -> how many.
    """
    metrics = _measure(records, score_name)
    categories = sorted({record.episode.category for record in records if record.episode.category is not None})
    metrics["by_category"] = {
        category: _measure([record for record in records if record.episode.category == category], score_name)
        for category in categories
    }
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


_Measured = dict[str, tuple[np.ndarray, np.ndarray]]


def _rates(groups: Sequence[Sequence[RunRecord]]) -> _Measured:
    """For every rate and sample: how many of its episodes, out of how many."""
    measured = {}
    for name, (applies, holds) in rates(record.episode for group in groups for record in group).items():
        among = [[record.episode for record in group if applies(record.episode)] for group in groups]
        above = np.array([sum(map(holds, episodes)) for episodes in among], dtype=float)
        measured[name] = (above, np.array([len(episodes) for episodes in among], dtype=float))
    return measured


def _with_unscored(records: Sequence[RunRecord], score_name: str | None) -> _Measured:
    """`NAME_all` for the accuracy and the mean score, over all episodes: those without a score count as wrong."""
    scored = np.array([record.episode.error is None for record in records], dtype=float)
    values = {"accuracy_all": [float(record.episode.correct) for record in records]}
    if score_name is not None:
        values[f"{score_name}_all"] = [record.score or 0.0 for record in records]
    return {name: (np.array(of_name) * scored, np.ones(len(records))) for name, of_name in values.items()}


def _scores(groups: Sequence[Sequence[RunRecord]], score_name: str) -> _Measured:
    """For every mean of values from 0 to 1 and sample: the sum over its episodes, and their number."""
    values: dict[str, Callable[[RunRecord], float | None]] = {
        "evidence_iou": lambda record: (
            evidence_iou(record.episode) if used(record.episode) and record.episode.evidence_box else None
        ),
    }
    # Where scores are 0 and 1 only, their mean is the accuracy.
    if score_name != "score" or any(record.score not in (None, 0, 1) for group in groups for record in group):
        values[score_name] = lambda record: record.score
    measured = {name: _sums([[value(r) for r in group] for group in groups]) for name, value in values.items()}
    if any(len(group) > 1 for group in groups):
        measured |= {name: _sums([[score] for score in scores]) for name, scores in repeat_scores(groups).items()}
    return measured


def _means(groups: Sequence[Sequence[RunRecord]]) -> _Measured:
    """For every other mean and sample: the sum over its episodes, and their number."""
    operations = sorted({name for group in groups for record in group for name in record.episode.usage})
    failures = sorted({name for group in groups for record in group for name in record.episode.failures})
    values: dict[str, Callable[[RunRecord], float | None]] = {
        "operations_per_episode": lambda record: record.episode.n_operations,
        **{f"operations/{name}": _count_of("usage", name) for name in operations},
        **{f"failures/{name}": _count_of("failures", name) for name in failures},
        "duplicates": lambda record: record.duplicates,
        "clipped": lambda record: record.clipped,
        "vision_tokens": lambda record: record.vision_tokens,
        "prompt_tokens": lambda record: record.prompt_tokens,
        "completion_tokens": lambda record: record.completion_tokens,
        "seconds": lambda record: record.seconds,
    }
    return {name: _sums([[value(r) for r in group] for group in groups]) for name, value in values.items()}


def _sums(values: Sequence[Sequence[float | None]]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the known values of each sample."""
    known = [[value for value in group if value is not None] for group in values]
    return np.array([sum(group) for group in known], float), np.array([len(group) for group in known], float)


def _count_of(field: str, name: str) -> Callable[[RunRecord], float]:
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
    answered = [record.episode for record in sorted(records, key=lambda record: record.repeat)]
    answered = [episode for episode in answered if episode.answer is not None]
    votes = Counter(normalize(episode.answer or "") for episode in answered)
    if not votes:
        return False
    # A Counter keeps the order in which answers came, and most_common is stable.
    winner = votes.most_common(1)[0][0]
    return next(episode.correct for episode in answered if normalize(episode.answer or "") == winner)


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
