"""VQA accuracy: how many humans gave the answer."""

from __future__ import annotations

import re

from pxr_env.decorations import MARKUP, layers
from pxr_env.scoring.registry import register_scorer
from pxr_env.types import Sample

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
    matches = max(map(given.count, map(vqa_words, layers(answer, MARKUP))))
    if humans == 1:
        return float(matches)
    enough = min(_ENOUGH, humans - 1)
    # Leaving out one who gave the answer, and leaving out one who did not.
    total = matches * min(matches - 1, enough) + (humans - matches) * min(matches, enough)
    return total / (enough * humans)
