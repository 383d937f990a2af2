"""compare: two shown images in one picture."""

from __future__ import annotations

from pxr_env.errors import OperationError
from pxr_env.operations.registry import OperationContext, register_operation
from pxr_env.operations.schema import TARGET_IMAGE
from pxr_env.views import Comparison


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
