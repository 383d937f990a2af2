"""What is shown of a source at first, and the picture of an episode: its sources with the boxes of all views."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pxr_env.geometry import Point, Quad, Size
from pxr_env.media import ImageSource, VideoSource, uniform_frames
from pxr_env.rendering import Pictures
from pxr_env.views import Region, View, regions

#: Width and height of the picture of an episode, the same for all so that a recorder can join them.
OVERVIEW_SIZE: Size = (960, 720)
_BACKGROUND = (32, 32, 32)
#: One colour per view, told apart by those who see colours differently (Okabe and Ito).
VIEW_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
_GAP = 6
#: Height of a box's number in pixels.
_NUMBER = 20


def first_regions(number: int, source: ImageSource | VideoSource, video_frames: int) -> list[Region]:
    """Returns what is shown of a source at first: an image as a whole, or frames of a video at equal distances.

    Args:
        number: number of the source, from 1.
        source: the image or video.
        video_frames: how many frames of a video; a shorter one is shown as a whole.
    """
    quad = Quad.from_box((0, 0, *source.size))
    if isinstance(source, ImageSource):
        return [Region(source=number, quad=quad)]
    times = source.times
    return [
        Region(source=number, quad=quad, frame=frame, time=times[frame], overview=True)
        for frame in uniform_frames(source.n_frames, video_frames)
    ]


def draw_overview(views: Sequence[View], pictures: Pictures) -> np.ndarray:
    """Returns every source image and every frame that was shown, with numbered boxes of the views, uint8 HxWx3.

    Args:
        views: the images shown so far.
        pictures: where the sources' pixels come from.
    """
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


def _draw_number(
    draw: ImageDraw.ImageDraw, text: str, corners: Sequence[Point], colour: tuple[int, int, int], size: Size
) -> None:
    """The number of a box, dark on a plate of its colour: in its upper left corner, above it where it is small."""
    font = ImageFont.load_default(_NUMBER)
    width, height = round(draw.textlength(text, font)) + 10, _NUMBER + 6
    left, top, bottom = min(x for x, _ in corners), min(y for _, y in corners), max(y for _, y in corners)
    above = height if bottom - top < 2 * height else 0
    x, y = (max(0, round(min(at, most))) for at, most in ((left, size[0] - width), (top - above, size[1] - height)))
    draw.rectangle((x, y, x + width, y + height), colour)
    draw.text((x + width / 2, y + height / 2), text, (0, 0, 0), font, "mm")


def _with_boxes(picture: Image.Image, key: tuple[int, int | None], views: Sequence[View], cell: Size) -> Image.Image:
    """A picture shrunk or grown into a cell, with the outlines of what was shown of it."""
    scale = min(cell[0] / picture.width, cell[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    small = picture.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(small)
    for view in views:
        for region in regions([view]):
            is_whole = region.quad.is_upright and region.box == (0, 0, picture.width, picture.height)
            if (region.source, region.frame) != key or is_whole:
                continue
            corners = [(x * scale, y * scale) for x, y in region.quad.corners]
            colour = VIEW_COLOURS[view.index % len(VIEW_COLOURS)]
            draw.line([*corners, corners[0]], fill=colour, width=3, joint="curve")
            _draw_number(draw, str(view.index), corners, colour, size)
    return small
