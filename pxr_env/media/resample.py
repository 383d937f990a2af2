"""At which size a picture is shown, and the one way a part of it becomes pixels: resampled once, from the source."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from pxr_env.media.images import MAX_ASPECT_RATIO, ImageSource
from pxr_env.views import Box, Quad, Size, overlap

#: What lies outside the source, where a tilted rectangle reaches beyond it.
OUTSIDE = (128, 128, 128)
#: Pixels around a tilted rectangle that its edges are interpolated from.
_MARGIN = 4


def fit_size(width: int, height: int, *, min_pixels: int, max_pixels: int, size_multiple: int) -> Size:
    """Returns the size at which a picture is shown: `smart_resize` of Qwen2-VL, in exact integer arithmetic.

    Each side is rounded to the nearest multiple; if the area then leaves the budget, both sides are scaled to it
    keeping the aspect ratio, rounded towards the inside. Where no multiple lies between the limits, `max_pixels`
    wins. No side is shorter than one multiple; a side that would then break `max_pixels`, or be more than 200 times the
    other, is cut.

    Args:
        width: width of the picture in pixels, at least 1.
        height: height of the picture in pixels, at least 1.
        min_pixels: least area of the result in pixels.
        max_pixels: largest area of the result in pixels, at least `size_multiple**2`.
        size_multiple: both sides of the result are multiples of this.

    Raises:
        ValueError: the ratio of the sides is above 200, or the budget is impossible.
    """
    check_budget(min_pixels=min_pixels, max_pixels=max_pixels, size_multiple=size_multiple)
    if width < 1 or height < 1:
        raise ValueError(f"got a picture of {width}x{height} pixels, expected at least 1x1.")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(
            f"got a picture of {width}x{height} pixels, expected a ratio of its sides of at most {MAX_ASPECT_RATIO}. "
            "Choose a less narrow part."
        )
    # In units of the multiple. round() is Python's, half to even, as in the reference.
    cells = max_pixels // size_multiple**2
    columns, rows = max(1, round(width / size_multiple)), max(1, round(height / size_multiple))
    if columns * rows * size_multiple**2 < min_pixels:
        columns = _ceil_sqrt(width * min_pixels, height * size_multiple**2)
        rows = _ceil_sqrt(height * min_pixels, width * size_multiple**2)
    if columns * rows > cells:
        columns = max(1, math.isqrt(width * max_pixels // (height * size_multiple**2)))
        rows = max(1, math.isqrt(height * max_pixels // (width * size_multiple**2)))
    # Only a side that was raised to one multiple can still break the budget: the other one pays for it.
    columns = min(columns, max(1, cells // rows))
    rows = min(rows, cells // columns)
    # Rounding may have stretched the picture past what a processor accepts.
    columns, rows = min(columns, MAX_ASPECT_RATIO * rows), min(rows, MAX_ASPECT_RATIO * columns)
    return columns * size_multiple, rows * size_multiple


def check_budget(*, min_pixels: int, max_pixels: int, size_multiple: int) -> None:
    """Raises ValueError if no picture can be shown within the budget."""
    if not 1 <= size_multiple**2 <= max_pixels or size_multiple < 1:
        raise ValueError(
            f"got max_pixels={max_pixels} with size_multiple={size_multiple}, expected size_multiple >= 1 and "
            f"max_pixels >= size_multiple**2 = {size_multiple**2}, or not a single patch fits. Raise max_pixels."
        )
    if not 0 <= min_pixels <= max_pixels:
        raise ValueError(
            f"got min_pixels={min_pixels} and max_pixels={max_pixels}, expected 0 <= min_pixels <= max_pixels. "
            "Lower min_pixels or raise max_pixels."
        )


def _ceil_sqrt(numerator: int, denominator: int) -> int:
    """The least integer whose square is at least numerator / denominator."""
    whole = -(-numerator // denominator)
    root = math.isqrt(whole)
    return root if root * root == whole else root + 1


def cut(source: ImageSource | Image.Image, part: Box | Quad, size: Size) -> np.ndarray:
    """Returns a part of a picture at `size` as a new uint8 array HxWx3.

    The pixels are resampled once, from the source. Where the part lies on whole pixels and both its sides are whole
    multiples of the size, every pixel is the rounded mean of its block (exact where the block has 2**n pixels; at the
    border of rounding one level lower may come out of others); otherwise bicubic, the filter of Qwen's processors.
    A turned or mirrored part has the pixels of the upright one, exchanged.

    Args:
        source: where the pixels come from.
        part: a box in source pixels, or a rectangle that may be turned, mirrored or tilted.
        size: width and height of the result.

    Raises:
        ValueError: a part that is not tilted leaves the source.
    """
    image = source.image if isinstance(source, ImageSource) else source
    quad = part if isinstance(part, Quad) else Quad.from_box(part)
    if quad.is_tilted:
        return _cut_tilted(image, quad, size)
    if quad.is_upright:
        return _cut_box(image, quad.box, size)
    # Sideways: the upper side of the picture runs along the source's columns.
    sideways = quad.top_left[0] == quad.top_right[0]
    upright = _cut_box(image, quad.box, (size[1], size[0]) if sideways else size)
    if sideways:
        upright = upright.transpose(1, 0, 2)
    left_to_right = (quad.top_left[1] < quad.top_right[1]) if sideways else (quad.top_left[0] < quad.top_right[0])
    top_to_bottom = (quad.top_left[0] < quad.bottom_left[0]) if sideways else (quad.top_left[1] < quad.bottom_left[1])
    return np.ascontiguousarray(upright[:: 1 if top_to_bottom else -1, :: 1 if left_to_right else -1])


def _cut_box(image: Image.Image, box: Box, size: Size) -> np.ndarray:
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= image.width and 0 <= y1 < y2 <= image.height):
        raise ValueError(
            f"got the box {box}, expected 0 <= x1 < x2 <= {image.width} and 0 <= y1 < y2 <= {image.height}. "
            "Clip the box to the source."
        )
    left, top, right, bottom = (round(value) for value in box)
    across, rest_x = divmod(right - left, size[0])
    down, rest_y = divmod(bottom - top, size[1])
    if (left, top, right, bottom) == tuple(box) and rest_x == rest_y == 0:
        if across == down == 1:
            return np.array(image.crop((left, top, right, bottom)), dtype=np.uint8)
        return np.array(image.reduce((across, down), box=(left, top, right, bottom)), dtype=np.uint8)
    return np.array(image.resize(size, Image.Resampling.BICUBIC, box=box), dtype=np.uint8)


def _cut_tilted(image: Image.Image, quad: Quad, size: Size) -> np.ndarray:
    """Shrinks the surroundings to the scale of the result first, or the transform would alias, and turns them."""
    x1, y1, x2, y2 = quad.box
    whole = (0, 0, image.width, image.height)
    around = overlap((x1 - _MARGIN, y1 - _MARGIN, x2 + _MARGIN, y2 + _MARGIN), whole)
    if around is None:
        return np.full((size[1], size[0], 3), OUTSIDE, dtype=np.uint8)
    left, top, right, bottom = (int(around[0]), int(around[1]), round(around[2] + 0.5), round(around[3] + 0.5))
    right, bottom = min(right, image.width), min(bottom, image.height)
    scale_x, scale_y = (min(1.0, shown / length) for shown, length in zip(size, (quad.width, quad.height), strict=True))
    scale = min(scale_x, scale_y)
    near = image.crop((left, top, right, bottom))
    if scale < 1:
        small = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
        near = near.resize(small, Image.Resampling.BICUBIC)
    to_near_x, to_near_y = near.width / (right - left), near.height / (bottom - top)

    def in_near(x: float, y: float) -> tuple[float, float]:
        return (x - left) * to_near_x, (y - top) * to_near_y

    origin, across, down = in_near(*quad.top_left), in_near(*quad.top_right), in_near(*quad.bottom_left)
    coefficients = [
        value
        for axis in (0, 1)
        for value in (
            (across[axis] - origin[axis]) / size[0],
            (down[axis] - origin[axis]) / size[1],
            origin[axis],
        )
    ]
    turned = near.transform(
        size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BICUBIC, fillcolor=OUTSIDE
    )
    return np.array(turned, dtype=np.uint8)
