"""What an operation is, how the arguments of a call are read and drawn, and the registry users add to.

An operation is declared once: a name, a description and the schemas of its arguments for the model, and a function that
answers a checked call with what to show::

    @register_operation("upper_half", "Show the upper half of an image again, larger.", {"target_image": TARGET_IMAGE})
    def upper_half(context, target_image):
        return context.view(target_image).only_region().part((0, 0, 1, 0.5), (1, 1))
"""

from __future__ import annotations

import inspect
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from pxr_env.coordinates import Frame
from pxr_env.errors import OperationError, choose, did_you_mean, quote, show
from pxr_env.media import ImageSource, VideoSource
from pxr_env.types import OperationCall
from pxr_env.views import Comparison, Region, View

_KEYWORDS = {
    "type", "properties", "required", "items", "minItems", "maxItems", "maxLength", "minimum", "maximum", "enum",
    "description",
}  # fmt: skip
#: How Python writes what JSON writes as true and false; some models write it so.
_PYTHON_WORDS = {"True": True, "False": False}
#: What strings are drawn from: every dialect has to carry each of them unchanged.
WORDS = (
    *("A", "", "left top", "naïve", "左上", "x < y", '"quoted"', "{brace}", "</tool_call>"),
    *("line\nbreak", "\\boxed{B}"),
)
#: Drawn floats have this many decimals: dialects write no more.
_DECIMALS = 4
_TYPES = ("object", "array", "string", "integer", "number", "boolean")

#: The argument that names a shown image.
TARGET_IMAGE: Mapping[str, Any] = {
    "type": "integer",
    "description": "The number of the image; images are numbered from 1 in the order shown.",
    "minimum": 1,
}

#: A box of a shown image, for `Frame.region`.
BOX: Mapping[str, Any] = {
    "type": "array",
    "items": {"type": "number"},
    "minItems": 4,
    "maxItems": 4,
    "description": "The box [x1, y1, x2, y2]: x1, y1 the upper left corner, x2, y2 the lower right one.",
}

#: What an operation answers with: one or several things to show.
Shown = Region | Comparison
#: Answers a call whose arguments satisfy the schemas, given as keywords. Raises OperationError where it cannot, with a
#: text for the model.
OperationFunction = Callable[..., "Shown | Sequence[Shown]"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationContext:
    """What an operation may look at: the images shown so far and the sources of the sample, in order.

    `frame` says what the numbers of a box mean, and `zoom_padding` what a zoom shows beyond its box on each side, as a
    share of the target image.
    """

    views: Sequence[View]
    frame: Frame
    sources: Sequence[ImageSource | VideoSource]
    zoom_padding: float = 0.0

    def view(self, target_image: int) -> View:
        """Returns the view of that number (from 1), or raises OperationError for the model."""
        if not 1 <= target_image <= len(self.views):
            shown = "only image 1 was shown" if len(self.views) == 1 else f"images 1 to {len(self.views)} were shown"
            raise OperationError(
                f"there is no image {show(target_image)}; {shown}. Give the number of one of them as target_image."
            )
        return self.views[target_image - 1]

    def video(self, target_video: int) -> tuple[int, VideoSource]:
        """Returns the video of that number (from 1, images not counted), and its number among all sources; or raises
        OperationError for the model.
        """
        videos = [
            (number, source) for number, source in enumerate(self.sources, start=1) if isinstance(source, VideoSource)
        ]
        if not 1 <= target_video <= len(videos):
            shown = {0: "no video was shown", 1: "only video 1 was shown"}
            raise OperationError(
                f"there is no video {show(target_video)}; "
                f"{shown.get(len(videos), f'videos 1 to {len(videos)} were shown')}. Work with what was shown."
            )
        return videos[target_video - 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """A registered operation: name and description for the model, JSON schema of the arguments, and what answers a
    call. Arguments that are not listed are refused.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: OperationFunction

    def tool(self, name: str | None = None) -> dict[str, Any]:
        """Returns the tool schema as chat templates want it, a new dict; `name` overrides the name."""
        parameters = deepcopy(dict(self.parameters))
        function = {"name": name or self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    def read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the arguments of a call as `parameters` want them, see `read_arguments`."""
        read: dict[str, Any] = read_arguments(arguments, self.parameters, "arguments")
        return read

    def run(self, context: OperationContext, arguments: Mapping[str, Any]) -> list[Shown]:
        """Reads the arguments and answers the call; raises OperationError for the model where they are wrong."""
        shown = self.function(context, **self.read(arguments))
        return [shown] if isinstance(shown, Region | Comparison) else list(shown)


_OPERATIONS: dict[str, Operation] = {}


def register_operation(
    name: str, description: str, parameters: Mapping[str, Mapping[str, Any]]
) -> Callable[[OperationFunction], OperationFunction]:
    """Returns the decorator that registers a function as an operation, with its name and description for the model.

    `parameters` is argument -> JSON schema. Understood: type, properties, required, items, minItems, maxItems,
    maxLength, minimum, maximum, enum, description. Arguments for which the function has no default are required.

    Raises:
        ValueError: the name is taken, a schema uses what is not understood, or the function's parameters are not
            `context` and those of the schema.
    """
    if name in _OPERATIONS:
        raise ValueError(f'got the operation "{name}" a second time; expected a new name. Choose another one.')

    def register(function: OperationFunction) -> OperationFunction:
        _context, *rest = inspect.signature(function).parameters.values()
        if {parameter.name for parameter in rest} != set(parameters):
            raise ValueError(
                f'the function of "{name}" takes {", ".join(parameter.name for parameter in rest) or "nothing"}; '
                f"expected context and {', '.join(parameters) or 'nothing'}. Give both the same names."
            )
        required = [parameter.name for parameter in rest if parameter.default is inspect.Parameter.empty]
        schema = {"type": "object", "properties": dict(parameters), "required": required}
        check_schema(schema, name)
        _OPERATIONS[name] = Operation(name=name, description=description, parameters=schema, function=function)
        return function

    return register


def get_operation(name: str) -> Operation:
    """Returns the registered operation of that name; raises ValueError if there is none."""
    advice = "Import the module that registers it first if it is your own."
    return choose(_OPERATIONS, name, "the operation ", advice)


def operation_names() -> list[str]:
    """Returns the names of all registered operations."""
    return list(_OPERATIONS)


def check_schema(schema: Mapping[str, Any], name: str) -> None:
    unknown = sorted(set(schema) - _KEYWORDS)
    if unknown:
        raise ValueError(
            f'the schema of "{name}" uses {", ".join(unknown)}; expected only {", ".join(sorted(_KEYWORDS))}. '
            "Check further conditions in the function and raise OperationError."
        )
    if schema.get("type") not in _TYPES:
        raise ValueError(
            f'the schema of "{name}" has type {schema.get("type")!r}; expected one of {", ".join(_TYPES)}.'
        )
    for part in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])):
        check_schema(part, name)


def read_arguments(value: object, schema: Mapping[str, Any], where: str) -> Any:
    """Returns `value` as `schema` wants it, where it is written otherwise and can only mean one thing.

    An integer may be written as a float (1.0, as JSON Schema counts it), and what is no text as its JSON inside a
    string ("1", "[0.1, 0.2, 0.4, 0.5]"). `where` names it in the message.

    Raises:
        OperationError: with the first thing that does not fit, readable for the model.
    """
    value = read_value(value, schema)
    if not _is_a(value, schema["type"]):
        raise OperationError(f"{where} is {show(value)}; expected {_describe(schema)}.")
    if "enum" in schema and value not in schema["enum"]:
        options = ", ".join(show(option) for option in schema["enum"])
        raise OperationError(
            f"{where} is {show(value)}; expected one of {options}.{did_you_mean(value, schema['enum'])}"
        )
    if isinstance(value, Mapping):
        return _read_object(value, schema, where)
    if isinstance(value, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not low <= len(value) <= high:
            raise OperationError(f"{where} has {len(value)} items; expected {_describe(schema)}.")
        if "items" in schema:
            return [read_arguments(item, schema["items"], f"{where}[{index}]") for index, item in enumerate(value)]
    elif isinstance(value, str):
        if len(value) > schema.get("maxLength", math.inf):
            raise OperationError(f"{where} has {len(value)} characters; expected at most {schema['maxLength']}.")
    elif isinstance(value, int | float):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        if not low <= value <= high:
            raise OperationError(f"{where} is {show(value)}; expected {_describe(schema)}.")
    return value


def read_value(value: object, schema: Mapping[str, Any]) -> object:
    """Returns a value as the type of `schema`, not looking into lists and objects; itself where it is not of it."""
    kind = schema["type"]
    if isinstance(value, str) and kind != "string":
        try:
            read = strict_json(value)
        except (ValueError, RecursionError):
            read = _PYTHON_WORDS.get(value.strip())
        if _is_a(_whole(read, kind), kind):
            value = read
    return _whole(value, kind)


def _whole(value: object, kind: str) -> object:
    is_whole = kind == "integer" and isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value  # type: ignore[call-overload]


def _read_object(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    properties: Mapping[str, Any] = schema.get("properties", {})
    for name in value:
        if name not in properties:
            raise OperationError(
                f'{where} has "{quote(name)}"; expected only {", ".join(properties) or "none"}.'
                f"{did_you_mean(name, properties)}"
            )
    for name in schema.get("required", ()):
        if name not in value:
            raise OperationError(f'{where} lacks "{name}"; expected {_describe(properties[name])}. Add it.')
    return {
        name: read_arguments(item, properties[name], name if where == "arguments" else f"{where}.{name}")
        for name, item in value.items()
    }


def _is_a(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int):
        # An integer too large for a float is no usable number either.
        return kind in ("integer", "number") and value.bit_length() < 1000
    if isinstance(value, float):
        return kind == "number" and math.isfinite(value)
    if isinstance(value, str):
        return kind == "string"
    return kind == ("object" if isinstance(value, Mapping) else "array" if isinstance(value, list) else "")


def _describe(schema: Mapping[str, Any]) -> str:
    """Says in words what a schema wants: "a list of 4 finite numbers", "an integer from 1"."""
    kind = schema["type"]
    if kind == "array":
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        count = f"{low} " if low == high else f"{low} or more " if high is None else f"{low} to {high} "
        items = schema.get("items", {}).get("type")
        return f"a list of {count}" + {"number": "finite numbers", None: "items"}.get(items, f"{items}s")
    if kind in ("integer", "number"):
        words = "an integer" if kind == "integer" else "a finite number"
        words += f" from {schema['minimum']}" if "minimum" in schema else ""
        return words + (f" to {schema['maximum']}" if "maximum" in schema else "")
    return {"object": "an object", "string": "a string", "boolean": "true or false"}[kind]


def strict_json(text: str) -> Any:
    """Reads JSON; raises ValueError if it is none, and RecursionError if it is nested too deeply."""
    return _DECODER.decode(text)


def strict_json_at(text: str, start: int) -> tuple[Any, int]:
    """Reads the JSON value that begins at `start`, and returns it with where it ends; raises as `strict_json` does."""
    return _DECODER.raw_decode(text, start)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f'the key "{quote(twice, 40)}" came twice')
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_key_twice, parse_constant=_no_constant)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """What numbers without bounds are drawn from, so that some of them mean something.

    `width` and `height` are the numbers at the edges of an image in the frame of the environment, `seconds` is the
    duration of a video, and `integers` says whether boxes are written in integers.
    """

    width: float
    height: float
    seconds: float
    integers: bool


def draw_call(operation: Operation, scale: Scale, rng: np.random.Generator) -> OperationCall:
    """Draws a call whose arguments satisfy the schema of an operation."""
    return OperationCall(name=operation.name, arguments=draw(operation.parameters, scale, rng))


def draw(schema: Mapping[str, Any], scale: Scale, rng: np.random.Generator) -> Any:
    """Draws a value that satisfies a schema of those that operations may use."""
    if "enum" in schema:
        return schema["enum"][int(rng.integers(len(schema["enum"])))]
    match schema["type"]:
        case "object":
            required = schema.get("required", ())
            return {
                name: draw(part, scale, rng)
                for name, part in schema.get("properties", {}).items()
                if name in required or rng.random() < 0.5
            }
        case "array":
            return _array(schema, scale, rng)
        case "string":
            return WORDS[int(rng.integers(len(WORDS)))][: schema.get("maxLength")]
        case "boolean":
            return bool(rng.random() < 0.5)
        case "integer":
            return _integer(schema, rng)
        case _:
            return _number(schema, scale, rng)


def _array(schema: Mapping[str, Any], scale: Scale, rng: np.random.Generator) -> list[Any]:
    least = schema.get("minItems", 0)
    most = min(schema.get("maxItems", least + 3), least + 3)
    count = int(rng.integers(least, most + 1))
    items = schema.get("items", {"type": "integer"})
    is_point_or_box = items.keys() <= {"type", "description"} and items["type"] == "number" and count in (2, 4)
    if not is_point_or_box or rng.random() >= 0.75:
        return [draw(items, scale, rng) for _ in range(count)]
    # Inside an image.
    low, high = rng.uniform(0.0, 0.45, 2), rng.uniform(0.55, 1.0, 2)
    numbers = [low[0] * scale.width, low[1] * scale.height, high[0] * scale.width, high[1] * scale.height]
    return [int(number) if scale.integers else round(float(number), _DECIMALS) for number in numbers[:count]]


def _integer(schema: Mapping[str, Any], rng: np.random.Generator) -> int:
    low = math.ceil(schema.get("minimum", min(-2, schema.get("maximum", 0))))
    # Small ones are numbers of images that exist; a large one shows how an operation says no.
    high = math.floor(schema.get("maximum", 10**6 if rng.random() < 0.1 else low + 3))
    return int(rng.integers(low, high + 1))


def _number(schema: Mapping[str, Any], scale: Scale, rng: np.random.Generator) -> float:
    low = schema.get("minimum", min(0, schema.get("maximum", 0)))
    # Nobody says whether it is a coordinate or a time, and some should be too large.
    extent = max(scale.width, scale.height)
    high = schema.get("maximum", low + (scale.seconds, scale.seconds, extent, 4 * extent)[int(rng.integers(4))])
    number = round(float(rng.uniform(low, high)), _DECIMALS)
    if rng.random() < 0.25:
        number = int(number)
    return min(max(number, low), high)
