"""rotate, flip and enhance: the same picture, easier to read."""

from __future__ import annotations

from dataclasses import replace

from pxr_env.errors import OperationError
from pxr_env.operations.registry import OperationContext, register_operation
from pxr_env.operations.schema import TARGET_IMAGE
from pxr_env.views import Adjustment, Region

_FACTOR = {"type": "number", "minimum": 0, "maximum": 10}


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
