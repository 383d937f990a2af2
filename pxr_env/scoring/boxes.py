"""Answers that are boxes."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any

from pxr_env.decorations import AROUND_FORMULAS, layers
from pxr_env.errors import DataError, quote, show
from pxr_env.scoring.registry import register_scorer
from pxr_env.scoring.text import visible
from pxr_env.types import Sample

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
    return float(shared / (_area(first) + _area(second) - shared))


def _area(box: ExactBox) -> Fraction:
    return (box[2] - box[0]) * (box[3] - box[1])
