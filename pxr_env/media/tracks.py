"""What a video is made of: a video file, a list of images, or a function that draws frames."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.geometry import Size
from pxr_env.media.cache import decoded_cache
from pxr_env.media.decoder_pool import decoder_pool
from pxr_env.media.decoding import decoding
from pxr_env.media.frame_files import frame_paths
from pxr_env.media.images import file_key, open_image, probe, to_image
from pxr_env.media.video_index import video_index


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """When the frames of a track are shown.

    Args:
        times: presentation time of each frame in seconds, float64, increasing from 0.
        end: when the last frame is no longer shown, in seconds.
    """

    times: np.ndarray
    end: float

    @classmethod
    def regular(cls, n_frames: int, fps: float) -> Timeline:
        """Returns the timeline of frames at equal distances: frame i is shown from i / fps on."""
        return cls(times=np.arange(n_frames) / fps, end=n_frames / fps)


class Track(Protocol):
    """All frames of a video, before a clip is cut from it. What is read stays in the caches of the process."""

    def size(self) -> Size:
        """Width and height of every frame in pixels."""

    def timeline(self) -> Timeline:
        """When its frames are shown."""

    def read(self, index: int) -> Image.Image:
        """Returns frame `index` (from 0), RGB. It is shared: do not change it."""


class FileTrack:
    """A video file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def size(self) -> Size:
        """Width and height of the upright frames in pixels."""
        return video_index(file_key(self._path)).size

    def timeline(self) -> Timeline:
        """When its frames are shown, from the packets of the file."""
        index = video_index(file_key(self._path))
        return Timeline(times=index.times, end=index.end)

    def read(self, index: int) -> Image.Image:
        """Returns frame `index` in presentation order."""
        file = file_key(self._path)
        return decoded_cache.get(("video frame", *file, index), lambda: decoder_pool.read(file, index))


class ImageTrack:
    """A list of images, or the images in a folder, at `fps` frames per second."""

    def __init__(self, paths: Path | list[Path], fps: float) -> None:
        self._folder = paths if isinstance(paths, Path) else None
        self._paths = None if isinstance(paths, Path) else paths
        self._fps = fps
        self._size: Size | None = None

    def size(self) -> Size:
        """Width and height of the first frame; all others have to have it."""
        if self._size is None:
            self._size = probe(self._files()[0])
        return self._size

    def timeline(self) -> Timeline:
        """When its frames are shown: frame i from i / fps on."""
        return Timeline.regular(len(self._files()), self._fps)

    def read(self, index: int) -> Image.Image:
        """Returns the image in place `index`.

        Raises:
            MediaError: the file is missing or broken, or of another size than the first.
        """
        path = self._files()[index]
        image = open_image(path)
        if image.size != self.size():
            raise MediaError(
                f'frame {index}, file "{path}", is {image.width}x{image.height} and the first frame {self.size()[0]}x'
                f"{self.size()[1]}; expected frames of one size, for a box means the same in all of them. Convert them."
            )
        return image

    def __repr__(self) -> str:
        return f"frames={len(self._files())} from {str(self._files()[0])!r}"

    def _files(self) -> list[Path]:
        if self._paths is None:
            assert self._folder is not None
            self._paths = frame_paths(self._folder)
        return self._paths


class RenderedTrack:
    """A function that draws frames when they are needed, at `fps` frames per second."""

    def __init__(
        self,
        load_frame: Callable[[int], Image.Image | np.ndarray],
        *,
        key: Hashable,
        n_frames: int,
        fps: float,
        size: Size,
    ) -> None:
        self._load_frame, self._key = load_frame, key
        self._n_frames, self._fps, self._size = n_frames, fps, size

    def size(self) -> Size:
        """Width and height that the function promises."""
        return self._size

    def timeline(self) -> Timeline:
        """When its frames are shown: frame i from i / fps on."""
        return Timeline.regular(self._n_frames, self._fps)

    def read(self, index: int) -> Image.Image:
        """Returns what the function draws for `index`.

        Raises:
            MediaError: it draws something else than an image of that size.
        """
        return decoded_cache.get(("rendered frame", self._key, index), lambda: self._draw(index))

    def __repr__(self) -> str:
        return f"key={self._key!r}"

    def _draw(self, index: int) -> Image.Image:
        name = f"frame {index} of the video {self._key!r}"
        with decoding(name, "Expected a picture; correct load_frame=."):
            image = to_image(self._load_frame(index), name)
        if image.size != self._size:
            raise MediaError(
                f"{name} was drawn as {image.width}x{image.height}; expected "
                f"{self._size[0]}x{self._size[1]}, as it was declared. Correct load_frame= or size=."
            )
        return image
