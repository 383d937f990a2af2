"""Videos: what they are made of, when their frames are shown, and the part of them that counts."""

from __future__ import annotations

import bisect
import math
import operator
import os
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.media.decoders import decoder_pool
from pxr_env.media.images import decoded_cache, decoding, file_key, open_image, probe, to_image
from pxr_env.media.video_index import video_index
from pxr_env.views import Size

#: How frame files end, in small letters.
FRAME_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def frame_paths(folder: Path) -> list[Path]:
    """Returns the images in a folder in natural order: frame_2 before frame_10. Hidden files are no frames.

    Raises:
        MediaError: the folder cannot be read or holds no image.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _is_frame(entry.name) and entry.is_file()]
    except OSError as error:
        raise MediaError(
            f'folder of frames "{folder}" cannot be read ({error.strerror}). Expected a folder of images; check the '
            "path."
        ) from error
    if not names:
        raise MediaError(
            f'folder of frames "{folder}" holds no image; expected files that end in {", ".join(FRAME_SUFFIXES)}. '
            "Check the path, or unpack the frames there."
        )
    return [Path(folder) / name for name in sorted(names, key=natural_order)]


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Returns what names are sorted by: numbers by their value, the text between them by its characters."""
    # A number is compared by its length first: it may be longer than Python converts. Numbers come before text.
    parts = [part for part in re.split("([0-9]+)", name) if part]
    digits = [part.lstrip("0") if part[0] in "0123456789" else None for part in parts]
    order = [
        (1, 0, part) if value is None else (0, len(value), value) for part, value in zip(parts, digits, strict=True)
    ]
    return order, name


def _is_frame(name: str) -> bool:
    return name.lower().endswith(FRAME_SUFFIXES) and not name.startswith(".")


@dataclass(frozen=True, slots=True)
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
        return cls(np.arange(n_frames) / fps, n_frames / fps)


class Track(Protocol):
    """All frames of a video, before a clip is cut from it. What is read stays in the caches of the process."""

    def size(self) -> Size:
        """Width and height of every frame in pixels."""

    def timeline(self) -> Timeline:
        """When its frames are shown."""

    def read(self, index: int) -> Image.Image:
        """Returns frame `index` (from 0), RGB. It is shared: do not change it.

        Raises:
            MediaError: it is missing or broken, or not of the size of the track.
        """


class FileTrack:
    """A video file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def size(self) -> Size:
        return video_index(file_key(self._path)).size

    def timeline(self) -> Timeline:
        index = video_index(file_key(self._path))
        return Timeline(index.times, index.end)

    def read(self, index: int) -> Image.Image:
        file = file_key(self._path)
        return decoded_cache.get(("video frame", *file, index), lambda: decoder_pool.read(file, index))


class ImageTrack:
    """A list of images, or the images in a folder, at `fps` frames per second; all have the size of the first."""

    def __init__(self, paths: Path | list[Path], fps: float) -> None:
        self._given, self._fps = paths, fps
        self._paths = None if isinstance(paths, Path) else paths
        self._size: Size | None = None

    def size(self) -> Size:
        if self._size is None:
            self._size = probe(self._files()[0])
        return self._size

    def timeline(self) -> Timeline:
        return Timeline.regular(len(self._files()), self._fps)

    def read(self, index: int) -> Image.Image:
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
            assert isinstance(self._given, Path)
            self._paths = frame_paths(self._given)
        return self._paths


@dataclass(frozen=True, kw_only=True, repr=False)
class RenderedTrack:
    """A function that draws frames when they are needed, at `fps` frames per second; see `VideoSource`."""

    load_frame: Callable[[int], Image.Image | np.ndarray]
    key: Hashable
    n_frames: int
    fps: float
    declared_size: Size

    def size(self) -> Size:
        return self.declared_size

    def timeline(self) -> Timeline:
        return Timeline.regular(self.n_frames, self.fps)

    def read(self, index: int) -> Image.Image:
        return decoded_cache.get(("rendered frame", self.key, index), lambda: self._draw(index))

    def __repr__(self) -> str:
        return f"key={self.key!r}"

    def _draw(self, index: int) -> Image.Image:
        name = f"frame {index} of the video {self.key!r}"
        with decoding(name, "Expected a picture; correct load_frame=."):
            image = to_image(self.load_frame(index), name)
        if image.size != tuple(self.declared_size):
            raise MediaError(
                f"{name} was drawn as {image.width}x{image.height}; expected {self.declared_size[0]}x"
                f"{self.declared_size[1]}, as it was declared. Correct load_frame= or size=."
            )
        return image


#: Frames per second of lists and folders of frames that come without.
DEFAULT_FPS = 1.0
#: Times of a clip are rounded to nanoseconds, so that subtracting its start leaves no noise.
_TIME_DIGITS = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class _Clip:
    """The frames of a track that exist: from which one on, when they are shown, and for how long together."""

    first: int
    times: tuple[float, ...]
    duration: float


class VideoSource:
    """A video at its full resolution, or a clip of it. Making one opens nothing; frames are decoded when needed.

    Frame i is the i-th in presentation order, from 0, exactly. Times are seconds since the first frame. With `start`
    or `end` only the frames with start <= time < end exist, and numbers and times begin anew at the first of them.
    Frames are upright (a phone's display matrix is applied) and not stretched (pixels that are not square stay so).

    Args:
        path: a video file, or a folder of frame images, taken in natural order (frame_2 before frame_10).
        frames: image files, the frames in order.
        load_frame: draws frame i, from 0, when it is needed, as a PIL image or uint8 array HxWx3; picklable where
            environments are.
        key: what `load_frame` depends on, hashable and unique in the process.
        n_frames: how many frames `load_frame` draws.
        size: width and height of what `load_frame` draws.
        fps: frames per second of `frames`, a folder (default 1) or `load_frame` (required). A video file has its own.
        start: where the clip begins, in seconds of the whole video; None is its beginning.
        end: where it ends; None, and whatever is past it, is the end of the video.

    Raises:
        TypeError: not exactly one of path, frames, and load_frame with key, n_frames, fps and size.
        MediaError: a path that does not exist, no frames, or a start, end or fps that is no such number.
    """

    def __init__(
        self,
        *,
        path: str | Path | None = None,
        frames: Sequence[str | Path] | None = None,
        load_frame: Callable[[int], Image.Image | np.ndarray] | None = None,
        key: Hashable = None,
        n_frames: int | None = None,
        size: Size | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> None:
        drawn = (key, n_frames, size)
        if sum(given is not None for given in (path, frames, load_frame)) != 1 or (
            any(given is not None for given in drawn)
            if load_frame is None
            else any(given is None for given in (*drawn, fps))
        ):
            raise TypeError(
                "VideoSource expected exactly one of path=, frames=, and load_frame= with key=, n_frames=, size= and "
                "fps=; pass one."
            )
        _check_span(start, end)
        _check_fps(fps)
        self.path = None if path is None else Path(path)
        self.start, self.end = start, end
        self._clip: _Clip | None = None
        self._track: Track
        if load_frame is not None:
            assert n_frames is not None
            assert size is not None
            assert fps is not None
            _check_drawn(n_frames, size)
            self._track = RenderedTrack(load_frame=load_frame, key=key, n_frames=n_frames, fps=fps, declared_size=size)
        elif frames is not None:
            self._track = ImageTrack(_frame_list(frames), fps or DEFAULT_FPS)
        else:
            assert self.path is not None
            self._track = _open_path(self.path, fps)

    @property
    def size(self) -> Size:
        """Width and height of every frame in pixels.

        Raises:
            MediaError: the video cannot be read.
        """
        return self._track.size()

    @property
    def n_frames(self) -> int:
        """Number of frames, at least 1.

        Raises:
            MediaError: the video cannot be read, or no frame lies in the clip.
        """
        return len(self._frames.times)

    @property
    def times(self) -> Sequence[float]:
        """When each frame is shown, in seconds since the first one; strictly increasing."""
        return self._frames.times

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one, or to `end`."""
        return self._frames.duration

    def frame(self, index: int) -> Image.Image:
        """Returns frame `index` in presentation order, RGB. It is shared: do not change it.

        Raises:
            IndexError: not 0 <= index < n_frames.
            MediaError: the video cannot be read or this frame not be decoded.
        """
        index = operator.index(index)
        if not 0 <= index < self.n_frames:
            raise IndexError(
                f"got frame {index} of {self!r}, expected 0 to {self.n_frames - 1}. Count frames from 0, not from the "
                "end."
            )
        return self._track.read(self._frames.first + index)

    def frames_between(self, start: float, end: float) -> range:
        """Returns the indices of the frames with start <= time < end; none where start >= end.

        Raises:
            ValueError: a time is NaN.
        """
        if math.isnan(start) or math.isnan(end):
            raise ValueError(f"got the times {start} and {end}, expected seconds. Check how they were computed.")
        times = self._frames.times
        return range(bisect.bisect_left(times, start), bisect.bisect_left(times, end))

    def __repr__(self) -> str:
        what = f"path={str(self.path)!r}" if self.path is not None else repr(self._track)
        span = "".join(
            f", {name}={value:g}" for name, value in (("start", self.start), ("end", self.end)) if value is not None
        )
        return f"VideoSource({what}{span})"

    def __getstate__(self) -> dict[str, Any]:
        # Only paths and numbers travel to other processes; they read the index themselves.
        return {**self.__dict__, "_clip": None}

    @property
    def _frames(self) -> _Clip:
        if self._clip is None:
            self._clip = self._cut()
        return self._clip

    def _cut(self) -> _Clip:
        timeline = self._track.timeline()
        times: list[float] = timeline.times.tolist()
        if self.start is not None and self.start >= timeline.end:
            raise MediaError(
                f"{self!r} starts after the end of the video at {timeline.end:.3f} s. Expected a start before it; "
                "check whether it is in seconds."
            )
        first = 0 if self.start is None else bisect.bisect_left(times, self.start)
        last = len(times) if self.end is None else bisect.bisect_left(times, self.end)
        if first >= last:
            near = [f"{times[index]:.3f} s" for index in (last - 1, first) if 0 <= index < len(times)]
            raise MediaError(
                f"{self!r} has no frame; the nearest are at {' and '.join(near)}. Expected start <= time < end of one "
                "frame at least; choose a longer clip."
            )
        end = times[last] if last < len(times) else timeline.end
        if self.end is not None:
            end = min(end, self.end)
        if first == 0:
            return _Clip(first=0, times=tuple(times[:last]), duration=end)
        zero = times[first]
        shown = tuple(round(time - zero, _TIME_DIGITS) for time in times[first:last])
        return _Clip(first=first, times=shown, duration=round(end - zero, _TIME_DIGITS))


def uniform_frames(n_frames: int, count: int) -> list[int]:
    """Returns `count` frames at equal distances: of n frames, cut into `count` equal parts, those in the centres.

    Part k, from 0, reaches from k n / count to (k + 1) n / count, its centre is (2 k + 1) n / (2 count), and the frame
    in which that falls is the centre rounded down. If there are no more than `count` frames, all are returned.

    Args:
        n_frames: how many frames there are, at least 0.
        count: how many are wanted, at least 1.

    Returns:
        min(count, n_frames) indices from 0, strictly increasing.

    Raises:
        ValueError: a number is too small.
    """
    if n_frames < 0 or count < 1:
        raise ValueError(f"got n_frames={n_frames} and count={count}, expected n_frames >= 0 and count >= 1.")
    if count >= n_frames:
        return list(range(n_frames))
    return [(2 * part + 1) * n_frames // (2 * count) for part in range(count)]


def _open_path(path: Path, fps: float | None) -> Track:
    file_key(path)  # it exists
    if path.is_dir():
        return ImageTrack(path, fps or DEFAULT_FPS)
    if not path.is_file():
        raise MediaError(f'"{path}" is neither a file nor a folder. Expected a video; check the path.')
    if fps is not None:
        raise TypeError(f'got fps={fps:g} with the video file "{path}", which has its own times; leave it out.')
    return FileTrack(path)


def _frame_list(frames: Sequence[str | Path]) -> list[Path]:
    if isinstance(frames, str | bytes | Path):
        raise TypeError(f"got frames={str(frames)!r}, expected a list of paths. Pass a folder as path=.")
    paths = [Path(frame) for frame in frames]
    if not paths:
        raise MediaError("got a video of no frames, expected at least one frame. Check the list.")
    for index, path in enumerate(paths):
        if not path.is_file():
            raise MediaError(f'frame {index}, "{path}", is no file. Expected an image file; check the path.')
    return paths


def _check_drawn(n_frames: int, size: Size) -> None:
    if n_frames < 1 or min(size) < 1:
        raise MediaError(f"got n_frames={n_frames} and size={size}, expected at least one frame of at least 1x1.")


def _check_fps(fps: float | None) -> None:
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise MediaError(f"got fps={fps}, expected frames per second, a finite number above 0. Leave it out for 1.")


def _check_span(start: float | None, end: float | None) -> None:
    for name, value in (("start", start), ("end", end)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise MediaError(f"got {name}={value}, expected seconds, a finite number from 0 on, or None.")
    if end is not None and end <= (start or 0.0):
        raise MediaError(f"got start={start} and end={end}, expected start < end. Check their order and unit.")
