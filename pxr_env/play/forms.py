"""The form of an operation on the page, made from its fields, and what is drawn for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image, ImageDraw

from pxr_env.coordinates import Frame
from pxr_env.geometry import Size
from pxr_env.operations import Operation
from pxr_env.play.fields import DRAWN, SEVERAL, Field

_COLOUR, _HALO = (255, 157, 0), (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Form:
    """The inputs of one operation; what stands in them is what is sent.

    Args:
        operation: the operation.
        inputs: name of an argument -> what it is, and where it is filled in.
        draws: chooses the argument that clicks on the image draw, None where nothing is drawn.
    """

    operation: Operation
    inputs: Mapping[str, tuple[Field, Any]]
    draws: Any

    def texts(self, data: Mapping[Any, Any]) -> dict[str, str]:
        """What was filled in for each argument; an optional one that stands at its default is left out."""
        given = {}
        for name, (argument, place) in self.inputs.items():
            value = data[place]
            if value is not None and (argument.required or value != argument.default):
                given[name] = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        return given

    def of_kind(self, *kinds: str) -> list[tuple[Field, Any]]:
        return [(argument, place) for argument, place in self.inputs.values() if argument.kind in kinds]


def input_for(argument: Field, operation: str) -> Any:
    """Where an argument is filled in."""
    schema, required = argument.schema, argument.required
    facts: dict[str, Any] = {
        "label": argument.name if required else f"{argument.name} (optional)",
        "info": schema.get("description") or argument.expects,
        "elem_id": f"{operation}-{argument.name}",
    }
    match argument.kind:
        case "choice" | "flag":
            options = [str(option) for option in schema.get("enum", ("true", "false"))]
            return gr.Dropdown(options if required else ["", *options], value=options[0] if required else "", **facts)
        case "image":
            return gr.Number(1, precision=0, **facts)
        case "integer" | "number":
            whole = argument.kind == "integer"
            low, high = schema.get("minimum"), schema.get("maximum")
            if low is None or high is None or not (required or isinstance(argument.default, int | float)):
                return gr.Number(None, precision=0 if whole else None, **facts)
            step = 1 if whole or high - low > 100 else 0.1 if high - low > 2 else 0.01
            value = argument.default if isinstance(argument.default, int | float) else low
            return gr.Slider(low, high, value=value, step=step, **facts)
    lines = 2 if argument.kind in SEVERAL or argument.kind in ("texts", "json") else 1
    return gr.Textbox(lines=lines, placeholder=argument.expects, **facts)


def shapes_of(argument: Field, typed: str, extent: Size) -> list[list[float]]:
    """The shapes that were typed, in fractions of the image; none where they cannot be read yet."""
    try:
        value = argument.read(typed or "")
    except ValueError:
        return []
    shapes = value if argument.kind in SEVERAL else [value]
    return [
        [number / extent[axis % 2] for axis, number in enumerate(shape)]
        for shape in shapes
        if isinstance(shape, list)
        and len(shape) == DRAWN[argument.kind]
        and all(isinstance(number, int | float) and abs(number) < 1e9 for number in shape)
    ]


def write_shapes(shapes: Sequence[Sequence[float]], extent: Size, frame: Frame) -> str:
    """Writes shapes, in fractions of the image, as they would be typed."""
    written = []
    for shape in shapes:
        numbers = [round(number * extent[axis % 2], frame.decimals) for axis, number in enumerate(shape)]
        written.append(", ".join(str(int(number)) if number == int(number) else str(number) for number in numbers))
    return ";\n".join(written)


def draw_shape(image: Image.Image, numbers: Any, *, is_box: bool) -> None:
    """Draws a box, a line or a point, given in fractions of the image, with a dark edge that shows on any ground."""
    ends = [number * (image.size[axis % 2] - 1) for axis, number in enumerate(numbers)]
    draw = ImageDraw.Draw(image)
    for colour, width in ((_HALO, 5), (_COLOUR, 3)):
        if len(ends) == 2:
            draw.circle(ends, width + 2, fill=colour)
        elif is_box:
            x1, y1, x2, y2 = ends
            draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=width)
        else:
            draw.line(ends, fill=colour, width=width)
