"""zoom_in: the part of an image inside a box, at higher resolution."""

from __future__ import annotations

from collections.abc import Sequence

from pxr_env.operations.registry import OperationContext, register_operation
from pxr_env.operations.schema import BOX
from pxr_env.views import Region


@register_operation(
    "zoom_in",
    "Show the part of an image inside a box again, at higher resolution.",
    {
        "bbox_2d": BOX,
        "target_image": {
            "type": "integer",
            "description": "The number of the image the box refers to; images are numbered from 1 in the order shown.",
            "minimum": 1,
        },
    },
)
def zoom_in(context: OperationContext, bbox_2d: Sequence[float], target_image: int) -> Region:
    """Shows the box of a shown image or frame, cut from the source at its full resolution."""
    return context.frame.region(bbox_2d, context.view(target_image), padding=context.zoom_padding)
