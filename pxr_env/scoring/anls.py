"""ANLS: how much of a text was read right."""

from __future__ import annotations

from pxr_env.decorations import MARKUP, layers
from pxr_env.scoring.registry import register_scorer
from pxr_env.types import Sample


def levenshtein(first: str, second: str, limit: int) -> int:
    """Returns the least number of characters to insert, delete or replace, or `limit + 1` where that is more.

    A column of the table of distances is kept as two integers, of the bits where its neighbours differ by +1 and by
    -1, so that a column costs a dozen operations on integers (Myers, J. ACM 46:395, 1999, as simplified by Hyyrö,
    "A bit-vector algorithm for computing Levenshtein and Damerau edit distances", Nordic J. Computing 10:29, 2003).
    """
    if not first or abs(len(first) - len(second)) > limit:
        return min(max(len(first), len(second)), limit + 1)
    places: dict[str, int] = {}
    for index, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << index
    last, everywhere = 1 << (len(first) - 1), (1 << len(first)) - 1
    rises, falls, distance = everywhere, 0, len(first)
    for remaining, character in zip(range(len(second) - 1, -1, -1), second, strict=True):
        equal = places.get(character, 0)
        # Where the distance is that of the upper left neighbour.
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        right_rises, right_falls = falls | (everywhere & ~(diagonal | rises)), diagonal & rises
        distance += bool(right_rises & last) - bool(right_falls & last)
        # Each further character lowers the last row by one at most.
        if distance - remaining > limit:
            return limit + 1
        right_rises, right_falls = right_rises << 1 | 1, right_falls << 1
        rises, falls = everywhere & (right_falls | ~(diagonal | right_rises)), everywhere & right_rises & diagonal
    return distance


@register_scorer(
    "anls",
    source="formula: Biten et al., Scene Text Visual Question Answering, ICCV 2019 (arXiv:1905.13648), eq. 1; "
    "normalization and the case of exactly 0.5: the evaluation script of DocVQA and InfographicVQA, "
    "https://rrc.cvc.uab.es/?ch=17&com=tasks",
)
def anls(answer: str, sample: Sample) -> float:
    """1 - distance / length of the longer text, best over the accepted answers, 0 where that is below 0.5.

    Both sides are lower-cased, stripped, blanks joined. Best, too, over the answer with and without markup around it.
    """
    answers = list(map(_words, layers(answer, MARKUP)))
    accepted = list(map(_words, sample.answers))
    return max((_similarity(first, second) for first in answers for second in accepted), default=0.0)


def _similarity(first: str, second: str) -> float:
    length = max(len(first), len(second))
    if length == 0:
        return 1.0
    limit = length // 2
    distance = levenshtein(first, second, limit)
    return 1 - distance / length if distance <= limit else 0.0


def _words(text: str) -> str:
    return " ".join(text.lower().split())
