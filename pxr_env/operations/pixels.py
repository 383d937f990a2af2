"""The operations of this package: zooming, frames of videos, turning, adjusting, drawing and comparing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pxr_env.errors import OperationError, show
from pxr_env.media import uniform_frames
from pxr_env.operations.registry import BOX, TARGET_IMAGE, OperationContext, register_operation
from pxr_env.views import Adjustment, Comparison, Grid, Mark, Point, Quad, Region

#: Frames that one call may show.
MAX_FRAMES = 8
#: Marks that one call may draw, of each kind.
MAX_MARKS = 32
_FACTOR = {"type": "number", "minimum": 0, "maximum": 10}


@register_operation(
    "zoom_in",
    "Show the part of an image inside a box again, at higher resolution.",
    {
        "bbox_2d": BOX,
        "target_image": {
            **TARGET_IMAGE,
            "description": "The number of the image the box refers to; images are numbered from 1 in the order shown.",
        },
    },
)
def zoom_in(context: OperationContext, bbox_2d: Sequence[float], target_image: int) -> Region:
    """Shows the box of a shown image or frame, cut from the source at its full resolution."""
    return context.frame.region(bbox_2d, context.view(target_image), padding=context.zoom_padding)


@register_operation(
    "select_frames",
    f"Show up to {MAX_FRAMES} frames of a video again, at higher resolution.",
    {
        "target_frames": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "minItems": 1,
            "maxItems": MAX_FRAMES,
            "description": "The numbers of the images that show the frames; images are numbered from 1.",
        },
    },
)
def select_frames(context: OperationContext, target_frames: Sequence[int]) -> list[Region]:
    """Shows whole frames, all of them within the pixel budget of one image (`max_call_pixels`); parts and changes of a
    frame stay as they are shown."""
    if len(set(target_frames)) < len(target_frames):
        raise OperationError(f"target_frames {show(list(target_frames))} has a number twice; expected each once.")
    selected = []
    for number in target_frames:
        view = context.view(number)
        if view.frame is None:
            raise OperationError(
                f"image {number} is no frame of a video; expected numbers of frames. Use zoom_in for images."
            )
        selected.append(replace(view.only_region(), overview=False))
    return selected


@register_operation(
    "seek",
    f"Show the frames of a video from one time to another: every one of them where there are at most {MAX_FRAMES}, "
    f"else {MAX_FRAMES} at equal distances.",
    {
        "start": {"type": "number", "minimum": 0, "description": "The first time, in seconds."},
        "end": {"type": "number", "minimum": 0, "description": "The time before which to stop, in seconds."},
        "target_video": {"type": "integer", "minimum": 1, "description": "The number of the video, 1 if left out."},
    },
)
def seek(context: OperationContext, start: float, end: float, target_video: int = 1) -> list[Region]:
    """Shows original frames with start <= time < end, each within the pixel budget of a frame, all within that of an
    image."""
    number, video = context.video(target_video)
    if start >= end or start >= video.duration:
        raise OperationError(
            f"from {start:g} s to {end:g} s came; expected 0 <= start < end and start before the end of the video at "
            f"{video.duration:.2f} s."
        )
    found = video.frames_between(start, end)
    if not found:
        times = video.times
        nearest = min(range(video.n_frames), key=lambda index: abs(times[index] - start))
        raise OperationError(
            f"no frame lies from {start:g} s to {end:g} s; the nearest one is at {times[nearest]:.3f} s. "
            "Choose a longer range."
        )
    chosen = [found[index] for index in uniform_frames(len(found), MAX_FRAMES)]
    quad = Quad.from_box((0, 0, *video.size))
    return [Region(source=number, quad=quad, frame=index, time=video.times[index], overview=True) for index in chosen]


@register_operation(
    "rotate",
    "Show an image again, turned clockwise.",
    {
        "target_image": TARGET_IMAGE,
        "degrees": {
            "type": "number",
            "minimum": -360,
            "maximum": 360,
            "description": "How far to turn it clockwise; negative numbers turn it the other way.",
        },
    },
)
def rotate(context: OperationContext, target_image: int, degrees: float) -> Region:
    """Turns the picture about its centre and shows all of it; multiples of 90 degrees are exact."""
    region = context.view(target_image).only_region()
    if degrees % 360 == 0:
        raise OperationError(f"degrees is {degrees:g}, which changes nothing; expected another angle, such as 90.")
    return replace(region, quad=region.quad.rotated(degrees), grid=None, overview=False)


@register_operation(
    "flip",
    "Show an image again, mirrored.",
    {
        "target_image": TARGET_IMAGE,
        "direction": {
            "type": "string",
            "enum": ["horizontal", "vertical"],
            "description": "horizontal exchanges left and right, vertical exchanges top and bottom.",
        },
    },
)
def flip(context: OperationContext, target_image: int, direction: str) -> Region:
    """Mirrors the picture, exactly."""
    region = context.view(target_image).only_region()
    quad = region.quad.mirrored(horizontally=direction == "horizontal")
    return replace(region, quad=quad, grid=None, overview=False)


@register_operation(
    "enhance",
    "Show an image again with another contrast, brightness or sharpness. 1 changes nothing, 2 doubles it, 0 is none.",
    {
        "target_image": TARGET_IMAGE,
        "contrast": _FACTOR,
        "brightness": _FACTOR,
        "sharpness": _FACTOR,
    },
)
def enhance(
    context: OperationContext,
    target_image: int,
    contrast: float = 1.0,
    brightness: float = 1.0,
    sharpness: float = 1.0,
) -> Region:
    """Adjusts the picture after it was cut, in the order contrast, brightness, sharpness; later calls add to it."""
    region = context.view(target_image).only_region()
    adjustment = Adjustment(contrast=float(contrast), brightness=float(brightness), sharpness=float(sharpness))
    if not adjustment.as_dict():
        raise OperationError(
            "all factors are 1, which changes nothing; expected another contrast, brightness or sharpness."
        )
    return replace(region, adjustments=(*region.adjustments, adjustment), overview=False)


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


@register_operation(
    "compare",
    "Show two images side by side in one.",
    {"first_image": TARGET_IMAGE, "second_image": TARGET_IMAGE},
)
def compare(context: OperationContext, first_image: int, second_image: int) -> Comparison:
    """Shows both pictures at the same height; a box in the result refers to the one it lies in."""
    if first_image == second_image:
        raise OperationError(f"first_image and second_image are both {first_image}; expected two different images.")
    left, right = (context.view(number).only_region() for number in (first_image, second_image))
    return Comparison(left=left, right=right)
