"""How a view becomes pixels, cut from its sources, adjusted and drawn upon; and the picture of an episode."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from pxr_env.coordinates import get_frame
from pxr_env.errors import represent
from pxr_env.media import cut
from pxr_env.views import Grid, Mark, Point, Region, Size, View, regions

#: Marks and grid lines, with a dark rim so that they stand out on any picture.
MARK_COLOUR = (255, 64, 64)
GRID_COLOUR = (255, 255, 0)
RIM_COLOUR = (0, 0, 0)
#: Between the two pictures of a comparison.
SEPARATOR_COLOUR = (0, 0, 0)
#: Width and height of the picture of an episode, the same for all so that a recorder can join them.
OVERVIEW_SIZE: Size = (960, 720)
_BACKGROUND = (32, 32, 32)
#: One colour per view, told apart by those who see colours differently (Okabe and Ito).
VIEW_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
#: Pixels between the pictures of an episode, and height of a box's number.
_GAP, _NUMBER = 6, 20

_font = lru_cache(maxsize=16)(ImageFont.load_default)

#: The picture of a source (from 1), or of a frame of a video source (from 0).
Pictures = Callable[[int, int | None], Image.Image]


class RenderModes(list[str]):
    """The render modes of an environment. `gymnasium.make` asks it first, and takes for granted that it has a text:
    anything else is refused here, with a ValueError."""

    def __contains__(self, mode: object) -> bool:
        if not isinstance(mode, str):
            own = " or ".join(map(represent, self))
            raise ValueError(f'got render_mode={represent(mode)}; expected None, {own}, "human" or "rgb_array_list".')
        return super().__contains__(mode)


def render(view: View, pictures: Pictures) -> np.ndarray:
    """The pixels of a view as a new uint8 array HxWx3; what `pictures` returns is not changed."""
    if not view.is_comparison:
        return _render_region(view.region, view.size, pictures)
    canvas = np.full((view.size[1], view.size[0], 3), SEPARATOR_COLOUR, dtype=np.uint8)
    for panel in view.panels:
        x1, y1, x2, y2 = panel.place
        canvas[y1:y2, x1:x2] = _render_region(panel.region, panel.size, pictures)
    return canvas


def _render_region(region: Region, size: Size, pictures: Pictures) -> np.ndarray:
    pixels = cut(pictures(region.source, region.frame), region.quad, size)
    if not (region.adjustments or region.marks or region.grid):
        return pixels
    image = Image.fromarray(pixels)
    for adjustment in region.adjustments:
        for name, factor in adjustment.as_dict().items():
            image = getattr(ImageEnhance, name.capitalize())(image).enhance(factor)
    draw = ImageDraw.Draw(image)
    for mark in region.marks:
        _draw_mark(draw, mark, [region.quad.locate(point, size) for point in mark.points], size)
    if region.grid:
        _draw_grid(draw, region.grid, size)
    return np.array(image, dtype=np.uint8)


def _draw_mark(draw: ImageDraw.ImageDraw, mark: Mark, points: list[Point], size: Size) -> None:
    width = max(2, min(size) // 150)
    path = [*points, points[0]] if mark.kind == "box" else points
    for colour, rim in ((RIM_COLOUR, 1), (MARK_COLOUR, 0)):
        if mark.kind == "point":
            (x, y), radius = points[0], 2 * width + rim
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            draw.line(path, fill=colour, width=width + 2 * rim, joint="curve")
    if mark.label:
        _write(draw, mark.label, (min(x for x, _ in points), min(y for _, y in points)), size, MARK_COLOUR)


def _draw_grid(draw: ImageDraw.ImageDraw, grid: Grid, size: Size) -> None:
    frame = get_frame(grid.frame)
    for axis, (length, limit) in enumerate(zip(size, frame.extent(size), strict=True)):
        for number in range(1, grid.lines + 1):
            fraction = number / (grid.lines + 1)
            at = fraction * length
            ends = ((at, 0), (at, size[1])) if axis == 0 else ((0, at), (size[0], at))
            draw.line(ends, fill=RIM_COLOUR, width=3)
            draw.line(ends, fill=GRID_COLOUR, width=1)
            value = round(fraction * limit, 2 if frame.decimals else None)
            _write(draw, f"{value:g}", (at + 3, 2) if axis == 0 else (3, at + 2), size, GRID_COLOUR)


def _write(draw: ImageDraw.ImageDraw, text: str, corner: Point, size: Size, colour: tuple[int, int, int]) -> None:
    """Writes at a corner, moved so that the text lies inside the picture where it fits."""
    font = _font(max(10, min(size) // 32))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font, stroke_width=1)
    x = max(0, min(corner[0], size[0] - right)) - min(left, 0)
    y = max(0, min(corner[1], size[1] - bottom)) - min(top, 0)
    draw.text((x, y), text, fill=colour, font=font, stroke_width=1, stroke_fill=RIM_COLOUR)


def draw_overview(views: Sequence[View], pictures: Pictures) -> np.ndarray:
    """Every source image and every frame that was shown, with numbered boxes of the views, uint8 HxWx3."""
    width, height = OVERVIEW_SIZE
    canvas = Image.new("RGB", OVERVIEW_SIZE, _BACKGROUND)
    shown = list(dict.fromkeys((region.source, region.frame) for region in regions(views)))
    columns = math.ceil(math.sqrt(len(shown)))
    cell = width // columns - _GAP, height // math.ceil(len(shown) / columns) - _GAP
    for place, (source, frame) in enumerate(shown):
        row, column = divmod(place, columns)
        left, top = column * (cell[0] + _GAP) + _GAP // 2, row * (cell[1] + _GAP) + _GAP // 2
        picture = _with_boxes(pictures(source, frame), (source, frame), views, cell)
        canvas.paste(picture, (left + (cell[0] - picture.width) // 2, top + (cell[1] - picture.height) // 2))
    return np.array(canvas, dtype=np.uint8)


def _with_boxes(picture: Image.Image, key: tuple[int, int | None], views: Sequence[View], cell: Size) -> Image.Image:
    """A picture shrunk or grown into a cell, with the outlines and numbers of what was shown of it."""
    scale = min(cell[0] / picture.width, cell[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    small = picture.resize(size, Image.Resampling.BICUBIC)
    draw, font = ImageDraw.Draw(small), _font(_NUMBER)
    for index, region in ((view.index, panel.region) for view in views for panel in view.panels):
        is_whole = region.quad.is_upright and region.box == (0, 0, picture.width, picture.height)
        if (region.source, region.frame) != key or is_whole:
            continue
        corners = [(x * scale, y * scale) for x, y in region.quad.corners]
        colour = VIEW_COLOURS[index % len(VIEW_COLOURS)]
        draw.line([*corners, corners[0]], fill=colour, width=3, joint="curve")
        # The number stands in the upper left corner of the box, above it where the box is small.
        text = str(index)
        width, height = round(draw.textlength(text, font)) + 10, _NUMBER + 6
        (left, _), (top, bottom) = ((min(ends), max(ends)) for ends in zip(*corners, strict=True))
        above = height if bottom - top < 2 * height else 0
        x, y = (max(0, round(min(at, most))) for at, most in ((left, size[0] - width), (top - above, size[1] - height)))
        draw.rectangle((x, y, x + width, y + height), colour)
        draw.text((x + width / 2, y + height / 2), text, (0, 0, 0), font, "mm")
    return small
