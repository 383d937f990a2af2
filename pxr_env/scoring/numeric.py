"""Answers that are numbers, and answers that are boxes."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from pxr_env.decorations import AROUND_FORMULAS, layers
from pxr_env.errors import DataError, quote, show
from pxr_env.scoring.registry import register_scorer
from pxr_env.scoring.text import visible
from pxr_env.types import Sample

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"(?P<sign>[+-]?)(?P<digits>{_DIGITS})(?P<unit> ?%)?", re.ASCII)
_QUANTITY = re.compile(
    r"(?P<sign>[+-]?) ?(?P<currency>[$€£¥₹₩]?) ?"
    rf"(?P<digits>\d{{1,3}}(?P<mark>[, _'\u2019])\d{{3}}(?:(?P=mark)\d{{3}})*(?:\.\d+)?|{_DIGITS})(?P<unit>\D*)",
    re.ASCII,
)
# LaTeX's separators, and signs that it wants escaped.
_LATEX = {"{,}": ",", r"\!": "", r"\%": "%", r"\$": "$", r"^\circ": "°", r"^{\circ}": "°"}
_LATEX |= dict.fromkeys((r"\,", r"\;", r"\:", "\\ "), " ")
_LATEX_SIGN = re.compile("|".join(map(re.escape, _LATEX)) + r"|(?<=\w)~")
_OPENING = re.compile(r"(?:there (?:is|are)|i (?:can )?(?:see|count)|it is|it's) |= ?", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
# Longer "numbers" are no answers, and arithmetic on them is slow.
_LONGEST_NUMBER = 100
_MOST_UNIT_WORDS = 5

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {word: value for value, word in enumerate(_SMALL.split())} | {
    word: 20 + 10 * index for index, word in enumerate(_TENS.split())
}
# Units that may follow the digits without a blank, and those that may not: "5A" and "5K" may be something else.
_MEASURES = (
    "mm cm dm km in ft yd mi mg g kg oz lb lbs ml cl dl s sec min h hr hrs ms Hz kHz MHz GHz kW MW mW mV kV mA px mph "
    "Pa kPa cal kcal °C °F ° € $ £ mm² cm² m² km² cm³ m³ m/s km/h"
)
_LETTERS = "m W V A N J C F"
# What makes another number, or several, of the one before it.
_NEVER_UNITS = (
    "or nor not no never but to than more less fewer minus plus times over versus vs x if maybe perhaps except without "
    "point half halves squared cubed factorial k bn mn mio hundred hundreds thousand thousands million millions "
    "billion billions trillion trillions wrong incorrect instead actually"
)
# So do these, unless the question asks for them: "How many pairs of shoes?"
_ASKED_UNITS = (
    "and of per by dozen dozens score pair pairs couple couples third thirds quarter quarters fourth fourths fifth "
    "fifths sixth sixths eighth eighths tenth tenths hundredth hundredths other others another m"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, and its unit: "%", a unit, a currency or the words for what was counted; "" for nothing."""

    value: Decimal
    unit: str


def as_number(text: str) -> Quantity | None:
    """Returns the number that is all of the text, decorations apart, with its percent sign; None if it is none.

    Understood are digits with or without a sign, commas between thousands, decimals, a percent sign.
    """
    for layer in layers(text) if len(text) <= 3 * _LONGEST_NUMBER else ():
        found = _NUMBER.fullmatch(_plain(layer))
        if found is not None and len(layer) <= _LONGEST_NUMBER:
            return _quantity(found, found["unit"] or "")
    return None


def as_quantity(text: str, question: str = "") -> Quantity | None:
    """Returns what `as_number` understands, and numbers in words, with a currency, or before what is counted: words
    of the question may follow the number.
    """
    asked = frozenset(word.casefold() for word in _WORD.findall(question))
    for layer in layers(text) if len(text) <= 3 * _LONGEST_NUMBER else ():
        plain = _plain(layer)
        if opening := _OPENING.match(plain):
            plain = plain[opening.end() :]
        found = _QUANTITY.fullmatch(plain)
        if found is None:
            quantity = _in_words(plain, asked)
        else:
            unit = _unit(found["unit"] or "", asked)
            both = found["currency"] and unit
            quantity = None if unit is None or both else _quantity(found, found["currency"] or unit)
        if quantity is not None:
            return quantity
    return None


def _plain(text: str) -> str:
    text = visible(_LATEX_SIGN.sub(lambda found: _LATEX.get(found.group(), " "), text)).replace("\N{MINUS SIGN}", "-")
    return text.removesuffix(".").rstrip()


def _quantity(found: re.Match[str], unit: str) -> Quantity | None:
    digits = re.sub(r"[, _'\u2019]", "", found["digits"])
    return Quantity(Decimal(found["sign"] + digits), unit.strip()) if len(digits) <= _LONGEST_NUMBER else None


def _unit(written: str, asked: Collection[str]) -> str | None:
    """What is counted or measured; None if it is no unit."""
    text = written.strip()
    if text in ("", "%"):
        return text
    if text.casefold() in ("percent", "per cent"):
        return "%"
    if text in _MEASURES.split() or (text in _LETTERS.split() and text != written):
        return text
    words = text.casefold().split()
    if text == written or len(words) > _MOST_UNIT_WORDS:
        return None
    refused = {*_NEVER_UNITS.split(), *_VALUES, *(set(_ASKED_UNITS.split()) - set(asked))}
    if any(not _WORD.fullmatch(word) or not refused.isdisjoint(word.split("-")) for word in words):
        return None
    return words[-1].removesuffix("s")


def _in_words(text: str, asked: Collection[str]) -> Quantity | None:
    """The number that begins the text in words, below a thousand."""
    words = text.casefold().replace("-", " ").split()
    if words == ["none"]:
        return Quantity(Decimal(0), "")
    value, place = 0, 0
    if len(words) > 1 and words[1] == "hundred" and _VALUES.get(words[0], 0) in range(1, 10):
        value, place = 100 * _VALUES[words[0]], 2
        place += len(words) > 3 and words[2] == "and" and words[3] in _VALUES
    tens = _VALUES.get(words[place]) if place < len(words) else None
    if tens is not None:
        value, place = value + tens, place + 1
        ones = _VALUES.get(words[place], 0) if tens >= 20 and place < len(words) else 0
        if 0 < ones < 10:
            value, place = value + ones, place + 1
    if place == 0:
        return None
    rest = words[place:]
    # "three (3)"
    unit = "" if rest == [f"({value})"] else _unit(" " + " ".join(rest), asked)
    return None if unit is None else Quantity(Decimal(value), unit)


_SOURCE = "accuracy of counts as in Acharya et al., TallyQA, AAAI 2019 (arXiv:1810.12440); how numbers are read: "


@register_scorer("number", source=_SOURCE + 'docs/scoring.md, "number"')
def number(answer: str, sample: Sample) -> float:
    """The answer is a number equal to one of the accepted answers: "1,200" equals "1200.0", "three" and "3 dogs" 3.

    A percent sign is a part of the number: "5%" equals "5.0 %", neither "5" nor "0.05".
    """
    found = as_quantity(answer, sample.question)
    return float(found is not None and any(_equal(found, as_quantity(text)) for text in sample.answers))


def _equal(found: Quantity, accepted: Quantity | None) -> bool:
    if accepted is None or found.value != accepted.value or (found.unit == "%") != (accepted.unit == "%"):
        return False
    return not accepted.unit or found.unit in ("", accepted.unit)


@register_scorer("number_strict", source=_SOURCE + 'docs/scoring.md, "number_strict"')
def number_strict(answer: str, sample: Sample) -> float:
    """The answer is a number in digits, and nothing else, equal to one of the accepted ones. Words are no numbers."""
    value = as_number(answer)
    return float(value is not None and any(value == as_number(accepted) for accepted in sample.answers))


# Few digits and small exponents keep arithmetic on fractions cheap. No coordinate of an image needs more.
_COORDINATE = re.compile(r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_SEPARATOR = re.compile(r" ?[,;] ?| ")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
# What models are trained to write around a box, and what stands there for what is in it.
_LABEL = re.compile(r"<ref>[^<]*</ref>|<\|(?:object_ref_start|ref)\|>[^<]*<\|(?:object_ref_end|/ref)\|>")
_TAG = re.compile(
    r"</?(?:box|bbox|bbox_2d|det|bounding_box)>|<\|/?(?:box|box_start|box_end|det|bbox)\|>|\\(?:left|right)(?=\W)"
    r"|[xy][12] ?[:=]"
)
_LEAD = re.compile(
    r"\W{0,2}(?:the )?(?:bounding box|box|bbox|bbox_2d|coordinates)\b[\"']?(?: is| are)? ?[:=]? ?", re.IGNORECASE
)
_BETWEEN_CORNERS = re.compile(r"\) ?(?:-|to) ?\(")
#: Keys of a JSON object under which x1, y1, x2, y2 stand, and those under which each stands apart. "box_2d" is none:
#: Gemini writes y before x there.
_KEYS = ("bbox_2d", "bbox", "box", "bounding_box")
_CORNERS = ("x1", "y1", "x2", "y2")

#: x1, y1, x2, y2 with x1 < x2 and y1 < y2. Exact: equal boxes have an IoU of 1 and no product overflows.
ExactBox = tuple[Fraction, Fraction, Fraction, Fraction]


def read_box(text: str) -> ExactBox | None:
    """Returns the one box that is all of the text; None if it is none, or several that differ.

    Understood are "x1, y1, x2, y2" with or without brackets around all or around each corner, JSON as Qwen writes it
    ("bbox_2d", with a label or without), and tags such as <box> or <|box_start|> around them.
    """
    for layer in layers(text, AROUND_FORMULAS):
        found = _boxes(layer)
        if found is not None:
            return _corners(found[0]) if len(set(map(_corners, found))) == 1 else None
    return None


def _corners(coordinates: list[str]) -> ExactBox | None:
    if len(coordinates) != 4 or not all(map(_COORDINATE.fullmatch, coordinates)):
        return None
    x1, y1, x2, y2 = map(Fraction, coordinates)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _boxes(text: str) -> list[list[str]] | None:
    """The coordinates of all boxes that make up the text; None if there is something else in it."""
    for json_text in (text, text.replace("'", '"')):
        try:
            value = json.loads(json_text, parse_int=str, parse_float=str, parse_constant=str)
            return None if isinstance(value, str) else _from_json(value) or None
        except (ValueError, RecursionError):
            continue
    return _written(text)


def _from_json(value: Any) -> list[list[str]]:
    """All boxes in a JSON value; one without coordinates for what is none."""
    if isinstance(value, dict):
        if all(corner in value for corner in _CORNERS):
            return [[str(value[corner]) for corner in _CORNERS]]
        keys = [key for key in _KEYS if key in value]
        return _from_json(value[keys[0]]) if len(keys) == 1 else [[]]
    if isinstance(value, list) and len(value) == 2 and all(isinstance(item, list) and len(item) == 2 for item in value):
        value = [*value[0], *value[1]]
    if isinstance(value, list) and value and not any(isinstance(item, str) for item in value):
        return [box for item in value for box in _from_json(item)]
    return [value if isinstance(value, list) and all(isinstance(item, str) for item in value) else []]


def _written(text: str) -> list[list[str]] | None:
    text = visible(_TAG.sub(" ", _LABEL.sub(" ", text)))
    if lead := _LEAD.match(text):
        text = text[lead.end() :]
    text = _BETWEEN_CORNERS.sub("),(", text)
    opened: list[str] = []
    for character in text:
        if character in _BRACKETS:
            opened.append(_BRACKETS[character])
        elif character in _BRACKETS.values() and (not opened or opened.pop() != character):
            return None
    if opened:
        return None
    coordinates = _SEPARATOR.split(visible(re.sub(r"[\[\](){}]", " ", text)))
    if len(coordinates) % 4 or not all(map(_COORDINATE.fullmatch, coordinates)):
        return None
    return [coordinates[place : place + 4] for place in range(0, len(coordinates), 4)]


@register_scorer(
    "iou",
    source="Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 88:303, 2010, bounding box evaluation; "
    "correct from 0.5",
    correct_from=0.5,
)
def iou(answer: str, sample: Sample) -> float:
    """The area that the answer's box and the accepted one share, over the area that they cover together.

    Best over the accepted boxes; 0 where the answer is no box. Both have to mean the same pixels.

    Raises:
        DataError: an accepted answer is no box.
    """
    box = read_box(answer)
    targets = [_target(accepted, sample) for accepted in sample.answers]
    return max((_iou(box, target) for target in targets), default=0.0) if box is not None else 0.0


def _target(accepted: str, sample: Sample) -> ExactBox:
    box = read_box(accepted)
    if box is None:
        raise DataError(
            f'got the accepted answer {show(accepted)} of sample "{quote(sample.sample_id)}", expected a box '
            '"x1, y1, x2, y2" with x1 < x2 and y1 < y2. Mend it, or choose another scorer than "iou".'
        )
    return box


def _iou(first: ExactBox, second: ExactBox) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    first_area, second_area = ((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second))
    return float(shared / (first_area + second_area - shared))
