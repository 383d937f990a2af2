"""Typed access to the fields of one row, with complaints that name the field.

Texts for a model are made harmless, and answers and options of any type become the texts that are accepted.
"""

from __future__ import annotations

import datetime
import math
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from pxr_env.errors import did_you_mean, quote, show

#: The longest sample id, in characters: ids become file names and table cells.
LONGEST_ID = 512
LETTERS = string.ascii_uppercase
#: Most digits of a decimal number that a float stores exactly as it was written.
FLOAT_DIGITS = 15
#: Shown in place of a character that must not be shown: the Unicode replacement character.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# The overrides and isolates that reorder what is read, and lone surrogates.
_DISGUISES = "\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[\x00-\x1f{_DISGUISES}]")
# Without tab and newline.
_CONTROLS = re.compile(f"[\x00-\x08\x0b-\x1f{_DISGUISES}]")
# Tokens by which chat templates and processors mark turns, images and videos: <|im_start|>, <image>, <start_of_turn>.
# U+FF5C is the full-width bar that some vocabularies use; U+2039 and U+203A are what the brackets become.
_TOKENS = re.compile(
    "<(?P<inside>"
    "[|\uff5c][^\\s<>|\uff5c\u2039\u203a]{1,64}[|\uff5c]"
    "|/?(?:image|images|img|video|videos|audio|vision|image_pad|video_pad|image_placeholder|image_soft_token"
    "|img_context|start_of_image|end_of_image|start_of_turn|end_of_turn|fake_token_around_image"
    "|s|bos|eos|pad|unk|mask)"
    ")>",
    re.IGNORECASE,
)
# Tokens of Qwen's vocabulary that are ordinary text in recorded conversations.
_TOOL_TOKENS = re.compile(r"<(?P<inside>/?(?:tool_call|tool_response|tools|think))>", re.IGNORECASE)
_QUOTED = "\u2039\\g<inside>\u203a"

_OPTION = re.compile(r"^[^\S\n]*\(([A-Z])\)[^\S\n]*(.*?)[^\S\n]*$", re.MULTILINE)
_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:]?")
_LETTER_AND_TEXT = re.compile(r"[(\[]?([A-Za-z])(?:[)\]][.:]?|[.:])\s+(.+)", re.DOTALL)
#: The largest power of ten of a number that is written out in digits.
_LARGEST_POWER = 40
_ANSWER = "text or a number, or a list of them"
_TEMPORAL = (datetime.date, datetime.time, datetime.timedelta)


def neutralize(text: str, *, keep_tool_tags: bool = False) -> tuple[str, int]:
    r"""Returns `text` with everything replaced that could act on a model, and the number of replacements.

    Control characters (all but newline and tab), bidirectional overrides and lone surrogates become U+FFFD. Special
    tokens such as `<|im_start|>`, `<image>` and `</tool_call>` get single angle quotation marks (U+2039, U+203A) for
    brackets. `\r\n` and `\r` become `\n`, which is not counted. Doing it twice changes nothing.

    Args:
        text: any text from a data file.
        keep_tool_tags: leave `<tool_call>`, `<tool_response>`, `<tools>` and `<think>`, which recorded conversations
            teach.
    """
    text, count = _CONTROLS.subn(REPLACEMENT, text.replace("\r\n", "\n").replace("\r", "\n"))
    for tokens in (_TOKENS,) if keep_tool_tags else (_TOKENS, _TOOL_TOKENS):
        text, n_tokens = tokens.subn(_QUOTED, text)
        count += n_tokens
    return text, count


def printable(text: str) -> str:
    """Returns `text` with control characters and the like replaced as `neutralize` does, for messages and reports."""
    return _CONTROLS.sub(REPLACEMENT, text)


class RowError(Exception):
    """Why a row is no sample. It becomes the `cause` of a `BadRow`."""


class TableRow(NamedTuple):
    """A row as a reader found it.

    Args:
        values: a mapping from names to values; or the `RowError` with which it could not be read.
        place: where a person finds it in the file, such as "line 3".
        key: by which its reader finds it again.
    """

    values: object
    place: str
    key: int


@dataclass(frozen=True, slots=True)
class NamedNumber:
    """A value of a column with declared names (`ClassLabel`): the stored number, and its name if it has one."""

    number: int
    name: str | None


class Fields:
    """The fields of row `number` (from 0). Every getter raises `RowError` if the value is not as expected.

    Texts that a model will read are neutralized; `n_neutralized` counts the replacements.
    """

    def __init__(self, number: int, row: TableRow) -> None:
        values = row.values
        self.row, self.place, self.key = number, row.place, row.key
        self.sample_id: str | None = None
        self.n_neutralized = 0
        self.keep_tool_tags = False
        if isinstance(values, RowError):
            raise values
        if not isinstance(values, Mapping):
            raise RowError(f"it is {show(values)}; expected an object with named fields")
        self.values = values

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def refuse_others(self, known: Sequence[str]) -> None:
        """Raises `RowError` for a field that is not among `known`."""
        for name in self.values:
            if name not in known:
                raise RowError(
                    f"it has an unknown field {show(name)}; expected {', '.join(known)}.{did_you_mean(name, known)}"
                )

    def identifier(self, name: str, prefix: str = "") -> str:
        """The row's id: text, or a whole number as text. It is remembered for messages."""
        self.sample_id = prefix + self._name(name)
        return self.sample_id

    def label(self, name: str) -> str | None:
        """A name like an id: text, or a whole number as text; None if the field is missing or null."""
        return self._name(name) if name in self else None

    def _name(self, name: str) -> str:
        value = self.values.get(name)
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            # Tables with a missing id elsewhere store whole numbers like this.
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 1000:
            value = str(value)
        if not _is_text(value):
            raise RowError(f"{name} is {show(value)}; expected text")
        if len(value) > LONGEST_ID or _UNPRINTABLE.search(value):
            raise RowError(f"{name} is {show(value)}; expected at most {LONGEST_ID} characters without control ones")
        return value

    def text(self, name: str) -> str:
        """A text for the model that is not blank, neutralized."""
        value = self.values.get(name)
        if isinstance(value, NamedNumber):
            value = value.name
        if not _is_text(value):
            raise RowError(f"{name} is {show(value)}; expected text")
        return self.neutralized(value)

    def optional_text(self, name: str) -> str | None:
        """Like `text`, but None if the field is missing or null."""
        return self.text(name) if name in self else None

    def texts(self, name: str, *, or_one: bool = False) -> tuple[str, ...]:
        """A list of texts for the model, none blank, at least one; with `or_one` also a single text."""
        value = self.values.get(name)
        texts = [value] if or_one and isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not texts or not all(map(_is_text, texts)):
            either = "text or a list of texts" if or_one else "a list of texts"
            raise RowError(f"{name} is {show(value)}; expected {either}")
        return tuple(map(self.neutralized, texts))

    def path(self, name: str) -> str:
        """One path as it is written."""
        value = self.values.get(name)
        if not _is_text(value):
            raise RowError(f"{name} is {show(value)}; expected a path")
        return value

    def flag(self, name: str) -> bool | None:
        """True, false, or None if the field is missing or null."""
        value = self.values.get(name)
        if not isinstance(value, bool | None):
            raise RowError(f"{name} is {show(value)}; expected true or false")
        return value

    def number(self, name: str) -> float | None:
        """A finite number, or None if the field is missing or null."""
        return _as_number(name, self.values[name]) if name in self else None

    def numbers(self, name: str, count: int) -> Any:
        """A tuple of `count` finite numbers, or None if the field is missing or null."""
        if name not in self:
            return None
        value = self.values[name]
        if not isinstance(value, list | tuple) or len(value) != count:
            raise RowError(f"{name} is {show(value)}; expected {count} numbers")
        return tuple(_as_number(name, item) for item in value)

    def span(self, start: str, end: str) -> tuple[float | None, float | None]:
        """Two times in seconds with 0 <= start < end; each may be missing."""
        first, last = self.number(start), self.number(end)
        if (first is not None and first < 0) or (last is not None and last <= (first or 0)):
            raise RowError(f"{start} and {end} are {show(first)} and {show(last)}; expected 0 <= {start} < {end} (s)")
        return first, last

    def answers(self, name: str, options: Sequence[str] = (), form: str = "any") -> tuple[str, ...]:
        """The accepted answers, each once: one value, or a list of them.

        Without options a text stays as it is (neutralized), a number is written in digits (3.0 as "3"), and a label is
        its name. With options every value becomes the letter of the option that it names: by a letter ("B", "b",
        "(B)", "B."), by the option's text, or by a number, counted from 0. If two of these name different options,
        `form` decides: "letter", "text", or "any", which refuses an answer with two meanings.
        """
        value = self.values.get(name)
        values = value.tolist() if isinstance(value, np.ndarray) else value
        if not isinstance(values, list | tuple):
            values = [values]
        if not values:
            raise RowError(f"{name} is []; expected {_ANSWER}")
        numbered = len(values) > 1
        read = [
            self._answer(item, f"entry {number} of {name}" if numbered else name, options, form)
            for number, item in enumerate(values, start=1)
        ]
        return tuple(dict.fromkeys(read))

    def _answer(self, value: Any, what: str, options: Sequence[str], form: str) -> str:
        if isinstance(value, np.number | np.bool_) and not isinstance(value, np.timedelta64):
            value = value.item()
        if _is_text(value):
            text = value = self.neutralized(value)
        elif isinstance(value, NamedNumber):
            if value.name is None and not options:
                raise RowError(f"{what} is {value.number}, a label without a name; expected the number of one")
            text = self.neutralized(value.name or "")
        elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            text = _digits(value, what)
        else:
            advice = '. Write what is to be answered, such as "yes"' if isinstance(value, bool) else ""
            if isinstance(value, _TEMPORAL):
                advice = ". Write it as text, as it is to be answered"
            raise RowError(f"{what} is {_came(value)}; expected {_ANSWER}{advice}")
        return _choose(value, text.strip(), what, options, form) if options else text

    def neutralized(self, text: str) -> str:
        """`text` as a model may read it; what had to be replaced is counted."""
        text, count = neutralize(text, keep_tool_tags=self.keep_tool_tags)
        self.n_neutralized += count
        return text


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
    found = _OPTION.findall(question)
    letters = "".join(letter for letter, _ in found)
    if not found or letters != LETTERS[: len(found)]:
        raise RowError(f'its options are "{quote(letters)}"; expected lines that begin with (A), (B), ... in order')
    return check_options([text for _, text in found])


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _as_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{name} is {show(value)}; expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RowError(f"{name} is {show(value)}; expected a finite number")
    return number


def _came(value: object) -> str:
    if isinstance(value, NamedNumber):
        return f"{value.number} ({show(value.name)})"
    return f"{quote(str(value))} ({type(value).__name__})" if isinstance(value, (*_TEMPORAL, Decimal)) else show(value)


def _digits(value: float | Decimal, what: str) -> str:
    """A number as a person writes it."""
    if isinstance(value, int):
        if value.bit_length() > 1000:
            raise RowError(f"{what} is {show(value)}; expected a number of at most 300 digits")
        return str(value)
    number = Decimal(repr(value)) if isinstance(value, float) else value
    if not number.is_finite():
        raise RowError(f"{what} is {quote(str(value))}; expected {_ANSWER}")
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
    by_letter = dict(zip(LETTERS, options, strict=False))
    number = value.number if isinstance(value, NamedNumber) else value
    exact = {letter for letter, option in by_letter.items() if option.strip() == text}
    counted = {letter for index, letter in enumerate(by_letter) if index == number}
    lettered = _lettered(text, by_letter)
    capital = lettered & {text}
    ranks = {
        "letter": (lettered, exact | counted),
        "text": (exact, capital | counted),
        "any": (exact | capital | counted,),
    }
    folded = {letter for letter, option in by_letter.items() if _fold(option) == _fold(text)}
    named = next((rank for rank in ranks[form] if rank), lettered | folded)
    if len(named) == 1:
        return min(named)
    if named:
        first, second = sorted(named)[:2]
        raise RowError(
            f"{what} is {_came(value)}, which names option {first} and option {second}, one by its letter or number "
            "and the other by its text; expected one of them. Write the letter, or options that are no letters or "
            "numbers themselves"
        )
    raise RowError(
        f"{what} is {_came(value)}; expected a letter from A to {max(by_letter)}, the text of one of the options "
        f"{show(list(options))}, or its number from 0 to {len(options) - 1}"
    )


def _lettered(text: str, by_letter: Mapping[str, str]) -> set[str]:
    """The letter that a text is, such as "B", "b", "(B)" and "B.", or begins with, such as "B. a dog"."""
    if found := _LETTER.fullmatch(text):
        return {found[1].upper()} & by_letter.keys()
    found = _LETTER_AND_TEXT.fullmatch(text)
    letter = found[1].upper() if found else ""
    return {letter} if found and _fold(by_letter.get(letter, "")) == _fold(found[2]) else set()


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
