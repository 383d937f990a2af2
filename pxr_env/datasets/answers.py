"""The one reader of answers, and of the options they choose from.

Whatever type a data file gives an answer, it becomes the texts that are accepted.
"""

from __future__ import annotations

import datetime
import re
import string
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from pxr_env.datasets.fields import Fields, NamedNumber, RowError
from pxr_env.errors import quote, show

LETTERS = string.ascii_uppercase
_LINE = re.compile(r"^[^\S\n]*\(([A-Z])\)[^\S\n]*(.*?)[^\S\n]*$", re.MULTILINE)

#: Most digits of a decimal number that a float stores exactly as it was written.
FLOAT_DIGITS = 15
#: The largest power of ten of a number that is written out in digits.
_LARGEST_POWER = 40
_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:]?")
_LETTER_AND_TEXT = re.compile(r"[(\[]?([A-Za-z])(?:[)\]][.:]?|[.:])\s+(.+)", re.DOTALL)
_EXPECTED = "text or a number, or a list of them"
_TEMPORAL = (datetime.date, datetime.time, datetime.timedelta)


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


def read_answers(fields: Fields, name: str, options: Sequence[str] = (), form: str = "any") -> tuple[str, ...]:
    """Returns the accepted answers of a row, each once: one value, or a list of them.

    Without options a text stays as it is (neutralized), a number is written in digits (3.0 as "3"), and a label is its
    name. With options every value becomes the letter of the option that it names: by a letter ("B", "b", "(B)", "B."),
    by the option's text, or by a number, counted from 0. If two of these name different options, `form` decides.

    Args:
        fields: the row.
        name: the field with the answers.
        options: the texts of the options.
        form: what the format declares: "letter", "text", or "any", which refuses an answer with two meanings.

    Raises:
        RowError: a value is missing or blank, of another type, or names no option.
    """
    value = fields.values.get(name)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return (_read(fields, value, name, options, form),)
    if len(value) == 1:
        return (_read(fields, value[0], name, options, form),)
    if not value:
        raise RowError(f"{name} is []; expected {_EXPECTED}")
    read = [_read(fields, item, f"entry {k} of {name}", options, form) for k, item in enumerate(value, start=1)]
    return tuple(dict.fromkeys(read))


def _read(fields: Fields, value: object, what: str, options: Sequence[str], form: str) -> str:
    if isinstance(value, str) and value.strip():
        text = fields.neutralized(value)
        return _choose(text, text, what, options, form) if options else text
    if isinstance(value, np.number | np.bool_) and not isinstance(value, np.timedelta64):
        value = value.item()
    if isinstance(value, NamedNumber):
        if value.name is None and not options:
            raise RowError(f"{what} is {value.number}, a label without a name; expected the number of one")
        named = "" if value.name is None else fields.neutralized(value.name)
        return _choose(value, named, what, options, form) if options else named
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        text = _digits(value, what)
        return _choose(value, text, what, options, form) if options else text
    raise RowError(f"{what} is {_came(value)}; expected {_EXPECTED}{_advice(value)}")


def _came(value: object) -> str:
    if isinstance(value, NamedNumber):
        return f"{value.number} ({show(value.name)})"
    return f"{quote(str(value))} ({type(value).__name__})" if isinstance(value, (*_TEMPORAL, Decimal)) else show(value)


def _advice(value: object) -> str:
    if isinstance(value, bool):
        return '. Write what is to be answered, such as "yes"'
    return ". Write it as text, as it is to be answered" if isinstance(value, _TEMPORAL) else ""


def _digits(value: float | Decimal, what: str) -> str:
    """A number as a person writes it."""
    if isinstance(value, int):
        if value.bit_length() > 1000:
            raise RowError(f"{what} is {show(value)}; expected a number of at most 300 digits")
        return str(value)
    number = Decimal(repr(value)) if isinstance(value, float) else value
    if not number.is_finite():
        raise RowError(f"{what} is {quote(str(value))}; expected {_EXPECTED}")
    n_digits = len("".join(map(str, number.as_tuple().digits)).strip("0"))
    if (isinstance(value, float) and n_digits > FLOAT_DIGITS) or abs(number.adjusted()) > _LARGEST_POWER:
        raise RowError(
            f"{what} is {quote(str(value))}, which is no number as it was written; expected at most {FLOAT_DIGITS} "
            "digits. Write it as text, as it is to be answered"
        )
    text = format(abs(number), "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"-{text}" if number < 0 else text


def _choose(value: object, text: str, what: str, options: Sequence[str], form: str) -> str:
    """The letter of the option that an answer names; `text` is what it is in words."""
    text = text.strip()
    letters = LETTERS[: len(options)]
    number = value.number if isinstance(value, NamedNumber) else value
    exact = {letter for letter, option in zip(letters, options, strict=True) if option.strip() == text}
    counted = {letter for index, letter in enumerate(letters) if index == number}
    lettered = _lettered(text, letters, options)
    capital = lettered & {text}
    ranks = {
        "letter": (lettered, exact | counted),
        "text": (exact, capital | counted),
        "any": (exact | capital | counted,),
    }
    named = next((rank for rank in ranks[form] if rank), set())
    if not named:
        folded = _fold(text)
        named = lettered | {name for name, option in zip(letters, options, strict=True) if _fold(option) == folded}
    if len(named) == 1:
        return named.pop()
    if named:
        first, second = sorted(named)[:2]
        raise RowError(
            f"{what} is {_came(value)}, which names option {first} and option {second}, one by its letter or number "
            "and the other by its text; expected one of them. Write the letter, or options that are no letters or "
            "numbers themselves"
        )
    raise RowError(
        f"{what} is {_came(value)}; expected a letter from A to {letters[-1]}, the text of one of the options "
        f"{show(list(options))}, or its number from 0 to {len(options) - 1}"
    )


def _lettered(text: str, letters: str, options: Sequence[str]) -> set[str]:
    """The letter that a text is, such as "B", "b", "(B)" and "B.", or begins with, such as "B. a dog"."""
    found = _LETTER.fullmatch(text)
    if found:
        return {found[1].upper()} & set(letters)
    found = _LETTER_AND_TEXT.fullmatch(text)
    letter = found[1].upper() if found else ""
    if found and letter in letters and _fold(options[letters.index(letter)]) == _fold(found[2]):
        return {letter}
    return set()


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
