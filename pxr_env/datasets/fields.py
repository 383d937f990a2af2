"""Typed access to the fields of one row, with complaints that name the field; texts for a model are made harmless."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pxr_env.errors import did_you_mean, show

#: The longest sample id, in characters: ids become file names and table cells.
LONGEST_ID = 512
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: Shown in place of a character that must not be shown: the Unicode replacement character.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# C0 and C1 controls except tab and newline, the overrides and isolates that reorder what is read, lone surrogates.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
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


def neutralize(text: str, *, keep_tool_tags: bool = False) -> tuple[str, int]:
    r"""Returns `text` with everything replaced that could act on a model, and the number of replacements.

    - Control characters (C0 and C1 except newline and tab, NUL included), bidirectional overrides and isolates and
      lone surrogates become U+FFFD, visibly.
    - Special tokens such as `<|im_start|>`, `<image>` and `</tool_call>` get single angle quotation marks (U+2039 and
      U+203A) for their brackets. They can still be read and are no tokens any more.
    - `\r\n` and `\r` become `\n`; this is not counted.

    A neutralized text stays as it is when it is neutralized again.

    Args:
        text: any text from a data file.
        keep_tool_tags: leave `<tool_call>`, `<tool_response>`, `<tools>` and `<think>` as they are, which are part of
            what a recorded conversation teaches.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text, count = _CONTROLS.subn(REPLACEMENT, text)
    if "<" not in text:
        return text, count
    text, n_tokens = _TOKENS.subn(_QUOTED, text)
    count += n_tokens
    if not keep_tool_tags:
        text, n_tokens = _TOOL_TOKENS.subn(_QUOTED, text)
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
    """The fields of one row. Every getter raises `RowError` if the value is not as expected.

    Texts that a model will read are neutralized (`pxr_env.datasets.text`); `n_neutralized` counts the replacements.

    Args:
        number: the number of the row, from 0.
        row: the row.
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

    def refuse_others(self, known: tuple[str, ...]) -> None:
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
        if not isinstance(value, str) or not value.strip():
            raise RowError(f"{name} is {show(value)}; expected text")
        if len(value) > LONGEST_ID or _UNPRINTABLE.search(value):
            raise RowError(f"{name} is {show(value)}; expected at most {LONGEST_ID} characters without control ones")
        return value

    def text(self, name: str) -> str:
        """A text for the model that is not blank, neutralized."""
        value = self.values.get(name)
        if isinstance(value, NamedNumber):
            value = value.name
        if not isinstance(value, str) or not value.strip():
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
        return str(value)

    def flag(self, name: str) -> bool | None:
        """True, false, or None if the field is missing or null."""
        value = self.values.get(name)
        if not isinstance(value, bool | None):
            raise RowError(f"{name} is {show(value)}; expected true or false")
        return value

    def number(self, name: str) -> float | None:
        """A finite number, or None if the field is missing or null."""
        if name not in self:
            return None
        return _as_number(name, self.values[name])

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

    def neutralized(self, text: str) -> str:
        """`text` as a model may read it; what had to be replaced is counted."""
        text, count = neutralize(text, keep_tool_tags=self.keep_tool_tags)
        self.n_neutralized += count
        return text


def _is_text(value: object) -> bool:
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
