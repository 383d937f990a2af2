"""Image and video sources, the pixel budget, and how a part of a source becomes the pixels of a view."""

from pxr_env.media.images import MAX_ASPECT_RATIO, ImageSource, check_budget, cut, fit_size
from pxr_env.media.video import VideoSource, uniform_frames
from pxr_env.views import Box, Size

__all__ = [
    "MAX_ASPECT_RATIO",
    "Box",
    "ImageSource",
    "Size",
    "VideoSource",
    "check_budget",
    "cut",
    "fit_size",
    "uniform_frames",
]
