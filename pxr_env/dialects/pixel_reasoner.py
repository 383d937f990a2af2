"""`pixel-reasoner`: hermes with the names and the replies that the released Pixel-Reasoner checkpoints know.

Source: arXiv 2505.15966 and the code of TIGER-AI-Lab/Pixel-Reasoner: `crop_image_normalized` in fractions, the older
`crop_image` in pixels, the newer `zoom_in` in fractions, `select_frames` with `target_frames`. Their code pads crops by
0.1 of each side (here `zoom_padding=0.1` of the environment) and guesses the frame of a box (here it is declared).
"""

from __future__ import annotations

from collections.abc import Sequence

from pxr_env.coordinates import Frame
from pxr_env.dialects.base import Dialect, check_frame
from pxr_env.dialects.hermes import Hermes
from pxr_env.dialects.wording import Wording, describe_views
from pxr_env.types import OperationCall
from pxr_env.views import View

#: Coordinate frame -> what `zoom_in` is called there.
_NAMES = {"unit": "crop_image_normalized", "pixel": "crop_image"}


def pixel_reasoner(frame: Frame, *, zoom_name: str | None = None) -> Dialect:
    """Builds "pixel-reasoner".

    Args:
        frame: the coordinate frame.
        zoom_name: what `zoom_in` is advertised as; by default the name of most released checkpoints in this frame.

    Raises:
        ValueError: a frame without a released name.
    """
    check_frame("pixel-reasoner", frame, _NAMES)
    names = {"zoom_in": zoom_name or _NAMES[frame.name]}
    return Hermes(frame=frame, released_names=names, wording=Wording(views=_result, error=_error, place=_place))


def _result(views: Sequence[View], call: OperationCall | None) -> str:
    name = None if call is None else call.name
    width, height = views[0].size
    if name == "zoom_in":
        return f"Here is the cropped image (Image Size: {width}x{height}):"
    if name == "select_frames":
        first, last = views[0].index, views[-1].index
        return f"Here are the selected frames (Frame Size: {width}x{height}, Numbered {first} to {last}):"
    return describe_views(views, call)


def _place(text: str, call: OperationCall) -> int:
    """Their images follow the words."""
    return len(text) if call.name in ("zoom_in", "select_frames") else 0


def _error(message: str, call_number: int | None) -> str:
    where = "" if call_number is None else f" in call {call_number}"
    return f"Execution error{where}:\n{message}"
