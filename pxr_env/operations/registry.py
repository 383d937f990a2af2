"""What an operation is, and the registry users add to.

An operation is declared once: a name, a description and the schemas of its arguments for the model, and a function that
answers a checked call with what to show::

    @register_operation("upper_half", "Show the upper half of an image again, larger.", {"target_image": TARGET_IMAGE})
    def upper_half(context, target_image):
        return context.view(target_image).only_region().part((0, 0, 1, 0.5), (1, 1))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pxr_env.arguments import choose
from pxr_env.coordinates import Frame
from pxr_env.errors import OperationError, show
from pxr_env.media import ImageSource, VideoSource
from pxr_env.operations.schema import check_schema, read_arguments
from pxr_env.views import Comparison, Region, View

#: What an operation answers with: one or several things to show.
Shown = Region | Comparison
#: Answers a call whose arguments satisfy the schemas, given as keywords. Raises OperationError where it cannot, with a
#: text for the model.
OperationFunction = Callable[..., "Shown | Sequence[Shown]"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationContext:
    """What an operation may look at.

    Args:
        views: the images shown so far, in order.
        frame: what the numbers of a box mean.
        sources: the images and videos of the sample, in order.
        zoom_padding: what a zoom shows beyond its box on each side, as a share of the target image.
    """

    views: Sequence[View]
    frame: Frame
    sources: Sequence[ImageSource | VideoSource]
    zoom_padding: float = 0.0

    def view(self, target_image: int) -> View:
        """Returns the view of that number (from 1).

        Raises:
            OperationError: there is none. The text is for the model.
        """
        if not 1 <= target_image <= len(self.views):
            shown = "only image 1 was shown" if len(self.views) == 1 else f"images 1 to {len(self.views)} were shown"
            raise OperationError(
                f"there is no image {show(target_image)}; {shown}. Give the number of one of them as target_image."
            )
        return self.views[target_image - 1]

    def video(self, target_video: int) -> tuple[int, VideoSource]:
        """Returns the video of that number (from 1, images not counted), and its number among all sources.

        Raises:
            OperationError: there is none. The text is for the model.
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
    """A registered operation.

    Args:
        name: how the model calls it.
        description: what it does, for the model.
        parameters: JSON schema of the arguments. Arguments that are not listed are refused.
        function: answers a call.
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
        """Returns the arguments of a call as `parameters` want them, see `read_arguments`.

        Raises:
            OperationError: they are wrong. The text is for the model.
        """
        read: dict[str, Any] = read_arguments(arguments, self.parameters, "arguments")
        return read

    def run(self, context: OperationContext, arguments: Mapping[str, Any]) -> list[Shown]:
        """Reads the arguments and answers the call.

        Raises:
            OperationError: the arguments are wrong. The text is for the model.
        """
        shown = self.function(context, **self.read(arguments))
        return [shown] if isinstance(shown, Region | Comparison) else list(shown)


_OPERATIONS: dict[str, Operation] = {}


def register_operation(
    name: str, description: str, parameters: Mapping[str, Mapping[str, Any]]
) -> Callable[[OperationFunction], OperationFunction]:
    """Returns the decorator that registers a function as an operation.

    Args:
        name: how the model calls it.
        description: what it does, for the model.
        parameters: argument -> JSON schema. Understood: type, properties, required, items, minItems, maxItems,
            maxLength, minimum, maximum, enum, description. Arguments for which the function has no default are
            required.

    Raises:
        ValueError: the name is taken, a schema uses what is not understood, or the function's parameters are not
            `context` and those of the schema.
    """
    if name in _OPERATIONS:
        raise ValueError(f'the operation "{name}" came twice; expected a new name. Choose another one.')

    def register(function: OperationFunction) -> OperationFunction:
        schema = _schema(name, parameters, function)
        _OPERATIONS[name] = Operation(name=name, description=description, parameters=schema, function=function)
        return function

    return register


def _schema(name: str, parameters: Mapping[str, Mapping[str, Any]], function: OperationFunction) -> dict[str, Any]:
    _context, *rest = inspect.signature(function).parameters.values()
    if {parameter.name for parameter in rest} != set(parameters):
        raise ValueError(
            f'the function of "{name}" takes {", ".join(parameter.name for parameter in rest) or "nothing"}; expected '
            f"context and {', '.join(parameters) or 'nothing'}. Give both the same names."
        )
    required = [parameter.name for parameter in rest if parameter.default is inspect.Parameter.empty]
    schema = {"type": "object", "properties": dict(parameters), "required": required}
    check_schema(schema, name)
    return schema


def get_operation(name: str) -> Operation:
    """Returns the registered operation of that name.

    Raises:
        ValueError: there is none.
    """
    advice = "Import the module that registers it first if it is your own."
    return choose(_OPERATIONS, name, "the operation ", advice)


def operation_names() -> list[str]:
    """Returns the names of all registered operations."""
    return list(_OPERATIONS)
