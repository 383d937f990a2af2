"""mark and grid: lines over a picture that help to count, to point and to read coordinates off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pxr_env.errors import OperationError
from pxr_env.geometry import Point
from pxr_env.operations.registry import OperationContext, register_operation
from pxr_env.operations.schema import TARGET_IMAGE
from pxr_env.views import Grid, Mark, Region

#: Marks that one call may draw, of each kind.
MAX_MARKS = 32


def _list_of(items: dict[str, Any], description: str) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_MARKS, "description": description}


def _numbers(least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "number"}, "minItems": least, "maxItems": most}


@register_operation(
    "mark",
    "Show an image again with boxes, points and lines drawn onto it.",
    {
        "target_image": TARGET_IMAGE,
        "boxes": _list_of(_numbers(4, 4), "Boxes [x1, y1, x2, y2]."),
        "points": _list_of(_numbers(2, 2), "Points [x, y]."),
        "lines": _list_of(_numbers(4, 4), "Lines [x1, y1, x2, y2] from one point to another."),
        "labels": {
            "type": "array",
            "items": {"type": "string", "maxLength": 40},
            "maxItems": 3 * MAX_MARKS,
            "description": "Short texts for the boxes, then the points, then the lines; may be fewer.",
        },
    },
)
def mark(
    context: OperationContext,
    target_image: int,
    boxes: Sequence[Sequence[float]] = (),
    points: Sequence[Sequence[float]] = (),
    lines: Sequence[Sequence[float]] = (),
    labels: Sequence[str] = (),
) -> Region:
    """Draws onto the source: marks stay where they are when a later call zooms, turns or mirrors."""
    view = context.view(target_image)
    region = view.only_region()
    frame = context.frame
    shapes: list[tuple[str, tuple[Point, ...]]] = []
    shapes += [("box", frame.region(box, view).quad.corners) for box in boxes]
    shapes += [("point", (frame.point(point, view),)) for point in points]
    shapes += [("line", (frame.point(line[:2], view), frame.point(line[2:], view))) for line in lines]
    if not shapes:
        raise OperationError("there is nothing to draw; expected boxes, points or lines.")
    if len(labels) > len(shapes):
        raise OperationError(f"{len(labels)} labels came for {len(shapes)} marks; expected at most one for each.")
    texts = [_printable(label) for label in labels] + [None] * (len(shapes) - len(labels))
    marks = tuple(Mark(kind=kind, points=ends, label=text) for (kind, ends), text in zip(shapes, texts, strict=True))
    return replace(region, marks=(*region.marks, *marks), overview=False)


@register_operation(
    "grid",
    "Show an image again under a grid of lines with their coordinates.",
    {
        "target_image": TARGET_IMAGE,
        "lines": {
            "type": "integer",
            "minimum": 1,
            "maximum": 19,
            "description": "The number of lines in each direction, 9 if left out.",
        },
    },
)
def grid(context: OperationContext, target_image: int, lines: int = 9) -> Region:
    """Draws lines at equal distances over the view; they are not part of what is cut from it later."""
    region = context.view(target_image).only_region()
    return replace(region, grid=Grid(lines=lines, frame=context.frame.name), overview=False)


def _printable(text: str) -> str | None:
    """One line of a label; nothing that a font draws as a box."""
    return "".join(character if character.isprintable() else " " for character in text).strip() or None
