"""Does evidence lie where it is said to, in the units it is declared in?"""

from __future__ import annotations

from pxr_env.errors import show
from pxr_env.media.video import VideoSource
from pxr_env.views import Box, Size

#: A picture of more pixels than this along a side has no evidence of one pixel in its corner.
_A_FEW_PIXELS = 4
#: Fractions that were rounded may be a little above 1.
_LARGEST_FRACTION = 1.01
#: Seconds by which sums of times may be off.
_NOISE = 1e-6


def box_problem(box: Box, size: Size | None) -> str | None:
    """Why `evidence_box` cannot be x1, y1, x2, y2 in pixels of a picture of that size, or None.

    Thousandths and percentages inside the picture, and x, y, width, height that could be corners, cannot be told.

    Args:
        box: what is given.
        size: width and height of the picture; None if they are not known yet.
    """
    x1, y1, x2, y2 = box
    if size is not None and max(size) > _A_FEW_PIXELS and min(box) >= 0 and max(box) <= _LARGEST_FRACTION:
        problem = (
            f", which are fractions; expected x1, y1, x2, y2 in pixels of its picture of {size[0]}x{size[1]}. Multiply "
            "x by the width and y by the height, in every row"
        )
    elif not (0 <= x1 < x2 and 0 <= y1 < y2):
        problem = (
            "; expected x1, y1, x2, y2 with 0 <= x1 < x2, 0 <= y1 < y2. If it is x, y, width, height, write x, y, "
            "x + width, y + height in every row"
        )
    elif size is not None and (x2 > size[0] or y2 > size[1]):
        problem = (
            f"; expected it inside its picture of {size[0]}x{size[1]} pixels. If they are thousandths, or pixels of a "
            "resized picture, scale every row to the pixels of the file"
        )
    else:
        return None
    return f"evidence_box is {show(list(box))}{problem}"


def time_problem(time: tuple[float, float], video: VideoSource | None, end: float | None = None) -> str | None:
    """Why `evidence_time` cannot be seconds of a clip, or None.

    Args:
        time: from, to.
        video: the clip; None if it is not opened yet.
        end: where the clip ends, if that is known without opening it, in seconds since its first frame.
    """
    first, last = time
    duration = video.duration if video is not None else end
    if not 0 <= first < last:
        problem = "; expected 0 <= from < to, inside the clip, in seconds since its first frame"
    elif duration is not None and last > duration + _NOISE:
        problem = (
            f"; expected seconds inside the clip of {duration:g} s, from its first frame on. If they are milliseconds, "
            "divide by 1000; if they count from the start of the whole video, subtract that of the clip"
        )
    elif video is not None and not video.frames_between(first, last):
        problem = f", between two of the {video.n_frames} frames; expected at least one frame in it"
    else:
        return None
    return f"evidence_time is {show(list(time))}{problem}"
