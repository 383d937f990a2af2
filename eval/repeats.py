"""What several answers to the same question amount to: pass@k and the majority's vote."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from eval.records import Record
from pxr_env.scoring.text import normalize


def pass_at_k(n: int, n_correct: int, k: int) -> float:
    """Probability that at least one of `k` answers is right, estimated without bias from `n` answers.

    1 - C(n - c, k) / C(n, k): Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374, eq. 1.

    Raises:
        ValueError: not 0 <= n_correct <= n, or not 1 <= k <= n.
    """
    if not (0 <= n_correct <= n and 1 <= k <= n):
        raise ValueError(f"n={n}, {n_correct} correct and k={k} came; expected 0 <= correct <= n and 1 <= k <= n")
    return 1.0 - math.comb(n - n_correct, k) / math.comb(n, k)


def majority(records: Sequence[Record]) -> bool:
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


def repeat_scores(groups: Sequence[Sequence[Record]]) -> dict[str, list[float | None]]:
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
