"""Answers that choose an option of the question, and the scorer that finds out which one fits a sample."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from pxr_env.decorations import ALL, layers
from pxr_env.scoring.numeric import as_number, number
from pxr_env.scoring.registry import register_scorer
from pxr_env.scoring.text import exact, matches, meant, visible
from pxr_env.types import Sample

# "(B)" anywhere, "B." or "B)" or "B:" where a line begins.
_MARK = re.compile(r"\(([A-Z])\)|^[^\S\n]*([A-Z])[.):](?=\s)", re.MULTILINE)
# "B:", "b)" or "[B]" anywhere.
_LOOSE_MARK = re.compile(r"(?<!\S)[(\[]?([A-Za-z])[.):\]](?=\s)")
_LONE_LETTER = re.compile(r"[(\[]?([A-Za-z])[.):\];,!]?")
_LETTER_AND_TEXT = re.compile(
    r"[(\[{\"'\u201c\u2018]?(?P<letter>[A-Za-z])"
    r"(?P<mark>[)\]}\"'\u201d\u2019]?(?: ?[.:),=\u2013\u2014-]+(?!\S)| ?[.:])?)"
    r"(?: |(?<=\W))(?P<text>\S.*)",
    re.DOTALL,
)
_LEADS = re.compile(
    r"(?:so|thus|therefore|hence)\b,? |[->\u2022*] "
    r"|(?:based on|according to|looking at|in|from) the (?:image|picture|photo|video|figure|question|options), "
    r"|i(?: would|'d| will|'ll)? (?:choose|pick|select|say|think|believe|go with|answer)(?: that)? "
    r"|(?:it|this|that)(?:'s| is| would be| must be| should be) "
    r"|(?:the )?(?:correct|right|best)(?: one)? (?:is|would be) "
    r"|(?:(?:the|my|our) )?(?:(?:final|correct|right|best|chosen|most \w+) ){0,2}(?:answer|option|choice|letter)\b"
    r"(?: (?:answer|option|choice|letter)\b)?(?: (?:is|would be|should be|must be)\b)? ?[:=]? ?",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(.+) (?:is|would be) (?:the )?"
    r"(?:(?:most )?(?:correct|right|best|final|accurate|appropriate)(?: (?:answer|option|choice|one))?|answer)",
    re.IGNORECASE,
)
_REASON = re.compile(r"(.{1,200}?),? (?:because|since) (.+)", re.IGNORECASE | re.DOTALL)
# What, behind a letter, may name another option.
_ANOTHER = re.compile(r"\b(?:[B-HJ-Z]|[AI](?=[^\w\s]|$))\b(?!')|\([a-z]\)|\b(?:answer|option|choice|or|not|actually)\b")
_WORD = re.compile(r"\w+")


def read_options(question: str, marks: re.Pattern[str] = _MARK) -> tuple[str, ...]:
    """Returns the texts of the options that a question lists, without those of fewer than two.

    They are written "(A) ... (B) ...", in one line or several, or in lines that begin with "A.", "A)" or "A:". Letters
    have to come in order from A; of several such lists the longest counts, then the one with more of them at the
    beginning of a line, then the first.
    """
    lists: list[list[re.Match[str]]] = []
    alphabet = string.ascii_uppercase
    for mark in marks.finditer(question):
        letter = mark[mark.lastindex or 0]
        if letter in ("A", "a"):
            alphabet = string.ascii_uppercase if letter == "A" else string.ascii_lowercase
            lists.append([mark])
        elif lists and letter == alphabet[len(lists[-1]) % 26]:
            lists[-1].append(mark)
    found = max(lists, key=lambda marks: (len(marks), sum(_begins_line(mark) for mark in marks)), default=[])
    if len(found) < 2:
        return ()
    ends = [mark.start() for mark in found[1:]] + [len(question)]
    return tuple(
        question[mark.end() : end].lstrip(" \t").partition("\n")[0].strip()
        for mark, end in zip(found, ends, strict=True)
    )


def _begins_line(mark: re.Match[str]) -> bool:
    return not mark.string[mark.string.rfind("\n", 0, mark.start()) + 1 : mark.start()].strip()


def lone_letter(text: str) -> str | None:
    """Returns the letter, as a capital, that is all of a text of data: "B", "(b)", "B."; None if it is more."""
    found = _LONE_LETTER.fullmatch(text.strip())
    return found.group(1).upper() if found else None


def sample_options(sample: Sample) -> tuple[str, ...]:
    """Returns the texts of a sample's options in order: those it gives, else those its question lists.

    Where the accepted answers are letters, "A: ..., B: ..." within a line and "(a) ... (b) ..." are lists, too.
    """
    options = sample.options or read_options(sample.question)
    letters = [lone_letter(accepted) for accepted in sample.answers]
    if options or not letters or None in letters:
        return options
    options = tuple(text.rstrip(" ,;") for text in read_options(sample.question, _LOOSE_MARK))
    return options if set(letters) <= set(string.ascii_uppercase[: len(options)]) else ()


@register_scorer(
    "multiple_choice",
    source="accuracy over options as in Wu and Xie, V*, CVPR 2024 (arXiv:2312.14135), and Li et al., MVBench, CVPR "
    "2024 (arXiv:2311.17005); how choices are read: docs/scoring.md",
)
def multiple_choice(answer: str, sample: Sample) -> float:
    """The answer names the right option, by letter or by text: "B", "(b)", "Option B", "B. a dog", "a dog".

    A letter with a text that is not that option's is wrong, and so is an answer that names two. Without options an
    accepted letter may be named as an option is; other answers are compared as by `exact`.
    """
    options = sample_options(sample)
    if not options and all(map(lone_letter, sample.answers)):
        return float(_letter_alone(answer) in {lone_letter(accepted) for accepted in sample.answers})
    chosen = _option(answer, options) if options else None
    if chosen is None:
        # Data may accept what is no option.
        others = tuple(accepted for accepted in sample.answers if not options or _option(accepted, options) is None)
        return float(bool(meant(answer, others)))
    return float(chosen in {_option(accepted, options) for accepted in sample.answers})


def _lead(text: str) -> str | None:
    found = _LEADS.match(text)
    return text[found.end() :] if found else None


def _tail(text: str) -> str | None:
    """The text before "is the correct answer"."""
    found = _TAIL.fullmatch(text)
    return found[1] if found else None


def _without_reason(text: str) -> str | None:
    """The text before "because", unless the reason may name another option."""
    found = _REASON.fullmatch(text)
    return found[1] if found and not _ANOTHER.search(found[2]) else None


_PEELERS = (*ALL, _lead, _tail, _without_reason)


def _option(answer: str, options: Sequence[str]) -> int | None:
    """The option an answer names, from 0; None where it names none or contradicts itself."""
    letters = string.ascii_uppercase[: len(options)]
    texts = [visible(option) for option in options]
    for layer in map(visible, layers(answer, _PEELERS)):
        lone = _LONE_LETTER.fullmatch(layer)
        # Options may themselves be letters: a small one is then meant as it is written, a capital is an option's name.
        for text in (layer, lone[1] if lone else layer):
            if text in texts and not (len(text) == 1 and text.isupper()):
                return texts.index(text)
        if lone and lone[1].upper() in letters:
            return letters.index(lone[1].upper())
        found = matches(layer, options)
        if len(found) == 1:
            return found[0]
        named = _LETTER_AND_TEXT.fullmatch(layer)
        if named and named["letter"].upper() in letters:
            index = letters.index(named["letter"].upper())
            behind = meant(named["text"], options)
            if behind == [index] or (not behind and named["mark"] and _is_part(named["text"], index, options)):
                return index
    return None


def _is_part(text: str, index: int, options: Sequence[str]) -> bool:
    """Whether a text is some words on end of that option and of no other."""
    words, *others = (f" {' '.join(_WORD.findall(each.casefold()))} " for each in (text, *options))
    return bool(words.strip()) and [place for place, other in enumerate(others) if words in other] == [index]


def _letter_alone(answer: str) -> str | None:
    """The letter an answer names where nobody knows the options; None where it names none, or may name two."""
    for layer in map(visible, layers(answer, _PEELERS)):
        if letter := lone_letter(layer):
            return letter
        named = _LETTER_AND_TEXT.fullmatch(layer)
        if named and named["mark"] and "," not in named["mark"] and not _ANOTHER.search(named["text"]):
            return named["letter"].upper()
    return None


@register_scorer("auto", source="the scorer that fits the sample: multiple_choice, number or exact")
def auto(answer: str, sample: Sample) -> float:
    """`multiple_choice` if the sample has options or accepts letters only, `number` if it accepts numbers only, else
    `exact`.
    """
    if sample_options(sample) or all(map(lone_letter, sample.answers)):
        return multiple_choice(answer, sample)
    if all(as_number(accepted) is not None for accepted in sample.answers):
        return number(answer, sample)
    return exact(answer, sample)
