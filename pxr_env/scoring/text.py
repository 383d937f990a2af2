r"""Texts as scorers compare them, and their scorers: equal, nearly equal (ANLS), given by how many humans (VQA)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from pxr_env.decorations import MARKUP, core, layers, unwrapped
from pxr_env.scoring.registry import register_scorer
from pxr_env.types import Sample

# Soft hyphens, zero-width blanks and marks of writing direction: nobody sees them. Zero-width joiners change letters.
_INVISIBLE = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
# Decompositions of one character in another width or shape. Raised, lowered, circled characters and fractions are
# characters of their own: ten squared is not 102.
_SAME_CHARACTER = frozenset(
    {"<wide>", "<narrow>", "<small>", "<vertical>", "<noBreak>", "<initial>", "<medial>", "<final>", "<isolated>"}
)


def visible(text: str) -> str:
    """Returns the text in NFC and plain widths, visible characters only, blanks joined: the same to a reader's eye."""
    text = _NOT_ASCII.sub(_plain_width, unicodedata.normalize("NFC", _INVISIBLE.sub("", text)))
    return " ".join(text.split())


def _plain_width(found: re.Match[str]) -> str:
    character = found.group()
    kind = unicodedata.decomposition(character).partition(" ")[0]
    plain = unicodedata.normalize("NFKC", character)
    is_ligature = kind == "<compat>" and unicodedata.category(character)[0] == "L" and plain.isalpha()
    return plain if kind in _SAME_CHARACTER or is_ligature else character


def _without_stop(text: str) -> str:
    return text[:-1].rstrip() if text.endswith(".") else text


def normalize(text: str) -> str:
    """Returns the text undecorated, as `visible` writes it, without one final full stop, and case folded."""
    return _folded(core(text))


def _folded(text: str) -> str:
    return _without_stop(visible(text)).casefold()


def meant(answer: str, texts: Sequence[str]) -> list[int]:
    """Returns which of the texts an answer says: their indexes, several where it does not tell them apart.

    The answer as it stands counts before the answer without its decorations, see `matches`.
    """
    several: list[int] = []
    for layer in layers(answer):
        found = matches(layer, texts)
        if len(found) == 1:
            return found
        several = several or found
    return several


def matches(written: str, texts: Sequence[str]) -> list[int]:
    """Returns which of the texts a text is: their indexes, several where it does not tell them apart.

    Texts that are equal letter by letter count before those that are equal without a final full stop, and those before
    texts that differ in case.
    """
    accepted = [visible(text) for text in texts]
    written = visible(written)
    bare = _without_stop(written)
    several: list[int] = []
    for key, known in (
        (written, accepted),
        (bare, [_without_stop(text) for text in accepted]),
        (bare.casefold(), [_without_stop(text).casefold() for text in accepted]),
        (bare.casefold(), [_folded(unwrapped(text)) for text in texts]),
    ):
        found = [index for index, other in enumerate(known) if other == key]
        if len(found) == 1:
            return found
        several = several or found
    return several


@register_scorer("exact", source="the texts are equal after the normalization in docs/scoring.md")
def exact(answer: str, sample: Sample) -> float:
    """The answer says one of the accepted answers, see `meant`."""
    return float(bool(meant(answer, sample.answers)))


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


#: So many other humans have to give an answer to make it fully right.
_ENOUGH = 3

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_ZERO_TO_TEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {"none": "0"} | {word: str(number) for number, word in enumerate(_ZERO_TO_TEN)}
_ARTICLES = {"a", "an", "the"}
# Ending of the contractions that are mended -> their beginnings. Not all that exist: "well" and "lets" are words.
_CONTRACTIONS = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "n't've": "could had might should would",
    "'d": "he how it somebody someone something there they where who you",
    "'d've": "he it she somebody someone something there they we who you y'all",
    "'ve": "could might must not should they we what where who would you",
    "'ll": "how it somebody someone something they what who why you y'all",
    "'re": "there they what why you",
    "'s": "he how somebody someone that there what when where who why",
    "": "ma'am o'clock 'ow's'at 'twas y'all",
}
# A word is mended where one of its apostrophes is missing: "couldn'tve" and "couldnt've" are, "couldntve" is not.
_MENDED = {
    word[:index] + word[index + 1 :]: word
    for ending, beginnings in _CONTRACTIONS.items()
    for word in (beginning + ending for beginning in beginnings.split())
    for index, character in enumerate(word)
    if character == "'"
}


def vqa_words(text: str) -> str:
    """Returns a text as VQA compares it: "Two, the dogs." and "2 dogs" are the same.

    Punctuation becomes a blank, or nothing where it stands beside a blank or the text has a comma between digits.
    Apostrophes and colons stay, and so does a full stop before a digit. Then lower case, number words up to ten as
    digits, no articles, contractions with their apostrophe.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    joins = _DIGITS_WITH_COMMA.search(text) is not None
    replacements = {
        ord(mark): "" if joins or f"{mark} " in text or f" {mark}" in text else " "
        for mark in _PUNCTUATION
        if mark in text
    }
    text = _FULL_STOP.sub("", text.translate(replacements))
    words = (_NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)


@register_scorer(
    "vqa_accuracy",
    source="Antol et al., VQA, ICCV 2015 (arXiv:1505.00468); formula and normalization: "
    "https://visualqa.org/evaluation, its details: https://github.com/GT-Vision-Lab/VQA, vqaEval.py",
    correct_from=0.9,
)
def vqa_accuracy(answer: str, sample: Sample) -> float:
    """min(humans among the others who gave the answer / 3, 1), averaged over leaving out each of the humans.

    `sample.answers` holds one answer per human, the same ones repeated. With fewer than four of them, all others have
    to agree instead of three; a single one is simply compared. Correct from 0.9: three of ten humans.
    """
    humans = len(sample.answers)
    if humans == 0:
        return 0.0
    given = [vqa_words(accepted) for accepted in sample.answers]
    # With or without markup around it, whatever more humans gave.
    agreeing = max(map(given.count, map(vqa_words, layers(answer, MARKUP))))
    if humans == 1:
        return float(agreeing)
    enough = min(_ENOUGH, humans - 1)
    # Leaving out one who gave the answer, and leaving out one who did not.
    total = agreeing * min(agreeing - 1, enough) + (humans - agreeing) * min(agreeing, enough)
    return total / (enough * humans)
