"""What a person fills in to call an operation: one field per argument, made from the operation's JSON schema.

The same fields make the help of the terminal and the forms of the page, and read what was typed there::

    bbox_2d=0.1,0.2,0.4,0.5      numbers of one box, point or line: commas or blanks between them
    boxes=0,0,1,1;2,2,3,3        several of them: semicolons or line ends between them
    labels="a door;a window"     texts likewise
    [[0, 0, 1, 1]]               JSON does everywhere, too
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pxr_env.coordinates import Frame
from pxr_env.errors import did_you_mean, quote
from pxr_env.geometry import Size
from pxr_env.operations import Operation

#: Kind -> what is to be filled in.
KINDS = {
    "box": "x1,y1,x2,y2",
    "line": "x1,y1,x2,y2",
    "point": "x,y",
    "boxes": "x1,y1,x2,y2;...",
    "lines": "x1,y1,x2,y2;...",
    "points": "x,y;...",
    "image": "the number of an image",
    "images": "numbers of images: 1,3,5",
    "integer": "an integer",
    "number": "a number",
    "choice": "one of the options",
    "flag": "true or false",
    "text": "text",
    "texts": "text;text;...",
    "json": "JSON",
}
#: Kinds that are drawn onto an image -> how many numbers one shape has.
DRAWN = {"box": 4, "line": 4, "point": 2, "boxes": 4, "lines": 4, "points": 2}

#: Kinds of several shapes -> the kind of one.
SEVERAL = {"boxes": "box", "lines": "line", "points": "point"}
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One argument of an operation, as a person fills it in.

    Args:
        name: of the argument.
        kind: one of `KINDS`.
        schema: the JSON schema of the argument.
        required: whether the call needs it.
        default: what leaving it out means; None if nothing in particular.
    """

    name: str
    kind: str
    schema: Mapping[str, Any]
    required: bool
    default: Any = None

    @property
    def expects(self) -> str:
        """What to fill in, in a few words."""
        if self.kind == "choice":
            return " or ".join(map(str, self.schema["enum"]))
        words = KINDS[self.kind]
        if self.kind in ("integer", "number"):
            words += f" from {self.schema['minimum']}" if "minimum" in self.schema else ""
            words += f" to {self.schema['maximum']}" if "maximum" in self.schema else ""
        return words

    def read(self, text: str) -> Any:
        """Returns the value that was typed. Ranges and counts are left to the environment, whose text a model would
        read.

        Raises:
            ValueError: the text is nothing of this kind; the message is for the person.
        """
        text = text.strip()
        try:
            return self._value(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{self.name} is "{quote(text)}"; expected {self.expects}.') from error

    def example(self, frame: Frame, size: Size) -> str:
        """Returns something that could be typed for an image shown at `size`."""
        width, height = frame.extent(size)
        box = ",".join(
            f"{edge * share:g}" if frame.decimals else f"{edge * share:.0f}"
            for edge, share in ((width, 0.25), (height, 0.25), (width, 0.5), (height, 0.75))
        )
        point = ",".join(box.split(",")[:2])
        drawn = {4: box, 2: point}.get(DRAWN.get(self.kind, 0))
        low, high = self.schema.get("minimum", 0), self.schema.get("maximum", 1)
        others = {
            "image": "1",
            "images": "1,2",
            "integer": str(max(1, low)),
            "number": f"{low + (high - low) * 0.75:g}" if self.kind == "number" else "",
            "choice": str(next(iter(self.schema.get("enum", ())), "")),
            "flag": "true",
            "texts": '"one;two"',
            "json": "'{}'",
        }
        return drawn or others.get(self.kind, "word")

    def _value(self, text: str) -> Any:
        if text.startswith(("[", "{")) and self.kind not in ("text", "choice"):
            return json.loads(text, parse_constant=_no_constant)
        match self.kind:
            case "integer" | "image":
                return int(text)
            case "number":
                return _number(text)
            case "images":
                return [int(part) for part in _parts(text)]
            case "box" | "line" | "point":
                return [_number(part) for part in _parts(text)]
            case "boxes" | "lines" | "points":
                return [[_number(part) for part in _parts(item)] for item in _items(text)]
            case "texts":
                return _items(text)
            case "choice":
                return next((option for option in self.schema["enum"] if str(option) == text), text)
            case "flag":
                if text.lower() not in _FLAGS:
                    raise ValueError(text)
                return _FLAGS[text.lower()]
            case "json":
                return json.loads(text, parse_constant=_no_constant)
        return text


def fields_of(operation: Operation) -> list[Field]:
    """Returns the fields of an operation, in the order of its schema."""
    parameters = inspect.signature(operation.function).parameters
    required = operation.parameters.get("required", ())
    fields = []
    for name, schema in operation.parameters["properties"].items():
        default = parameters[name].default if name in parameters and name not in required else None
        fields.append(
            Field(name=name, kind=kind_of(name, schema), schema=schema, required=name in required, default=default)
        )
    return fields


def kind_of(name: str, schema: Mapping[str, Any]) -> str:
    """Returns the kind of an argument: what its schema says, and its name where the schema leaves it open.

    Lists of four numbers are boxes unless they are called lines; integers and lists of them count images where
    the name says image or frame.
    """
    if "enum" in schema:
        return "choice"
    if schema["type"] != "array":
        kinds = {"boolean": "flag", "string": "text", "object": "json", "number": "number"}
        return kinds.get(schema["type"], "image" if _speaks_of(name, "image", "frame") else "integer")
    items = schema.get("items", {})
    if items.get("type") == "string":
        return "texts"
    if items.get("type") == "integer" and _speaks_of(name, "image", "frame"):
        return "images"
    if items.get("type") == "array":
        several = _shape(name, items)
        return next((kind for kind, one in SEVERAL.items() if one == several), "json")
    return _shape(name, schema)


def read_arguments(operation: Operation, texts: Mapping[str, str]) -> dict[str, Any]:
    """Returns the arguments of a call from what was typed for each; blank texts count as left out.

    Raises:
        ValueError: an argument is unknown, lacks, or cannot be read; the message is for the person.
    """
    fields = {field.name: field for field in fields_of(operation)}
    for name in texts:
        if name not in fields:
            raise ValueError(
                f'{operation.name} got "{quote(name)}"; expected only {", ".join(fields) or "no arguments"}.'
                f"{did_you_mean(name, fields)}"
            )
    given = {name: text for name, text in texts.items() if text.strip()}
    for field in fields.values():
        if field.required and field.name not in given:
            raise ValueError(f"{operation.name} lacks {field.name}; expected {field.expects}.")
    return {name: fields[name].read(text) for name, text in given.items()}


def _shape(name: str, schema: Mapping[str, Any]) -> str:
    """The shape that a list of numbers describes."""
    counts = schema.get("minItems"), schema.get("maxItems")
    if schema.get("items", {}).get("type") not in ("number", "integer") or counts not in ((4, 4), (2, 2)):
        return "json"
    if counts == (2, 2):
        return "point"
    return "line" if _speaks_of(name, "line") else "box"


def _speaks_of(name: str, *things: str) -> bool:
    return any(word.removesuffix("s") in things for word in name.split("_"))


def _number(text: str) -> int | float:
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _parts(text: str) -> list[str]:
    return re.split(r"\s*,\s*|\s+", text)


def _items(text: str) -> Sequence[str]:
    return [item.strip() for item in re.split(r"[;\n]", text) if item.strip()]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
