"""The options of multiple-choice questions: checked, written into a question, read from one."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from pxr_env.datasets.fields import RowError
from pxr_env.errors import quote

LETTERS = string.ascii_uppercase
_LINE = re.compile(r"^[^\S\n]*\(([A-Z])\)[^\S\n]*(.*?)[^\S\n]*$", re.MULTILINE)


def check_options(options: Sequence[str]) -> tuple[str, ...]:
    """Returns the options; raises `RowError` for fewer than two, more than 26, empty or equal ones."""
    if not 2 <= len(options) <= len(LETTERS):
        raise RowError(f"it has {len(options)} options; expected 2 to {len(LETTERS)}")
    seen: dict[str, str] = {}
    for letter, option in zip(LETTERS, options, strict=False):
        if not option.strip():
            raise RowError(f"option {letter} is empty; expected text")
        first = seen.setdefault(option.strip(), letter)
        if first != letter:
            raise RowError(f'options {first} and {letter} are both "{quote(option)}"; expected different ones')
    return tuple(options)


def with_options(question: str, options: Sequence[str]) -> str:
    """Returns the question as a model reads it: the options below it, a line "(A) ..." each."""
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question.rstrip(), *lines])


def read_options(question: str) -> tuple[str, ...]:
    """Returns the texts of the lines "(A) ...", "(B) ..." of a question.

    Raises:
        RowError: there are none, or their letters are not A, B, C, ... in order.
    """
    found = _LINE.findall(question)
    letters = "".join(letter for letter, _ in found)
    if not found or letters != LETTERS[: len(found)]:
        raise RowError(f'its options are "{quote(letters)}"; expected lines that begin with (A), (B), ... in order')
    return check_options([text for _, text in found])
