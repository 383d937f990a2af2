"""select_frames and seek: more of a video than its overview shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pxr_env.errors import OperationError, show
from pxr_env.geometry import Quad
from pxr_env.media import uniform_frames
from pxr_env.operations.registry import OperationContext, register_operation
from pxr_env.views import Region

#: Frames that one call may show.
MAX_FRAMES = 8


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
    """Shows whole frames within the pixel budget of an image; parts and changes of a frame stay as they are shown."""
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
    """Shows original frames with start <= time < end, each within the pixel budget of a frame."""
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
