"""Videos: what they are made of, when their frames are shown, and the part of them that counts."""

from __future__ import annotations

import bisect
import ctypes
import math
import operator
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.media.decoders import Decoder, open_decoder
from pxr_env.media.images import FileKey, Picture, decoded_cache, decoding, file_key, made, open_image, probe
from pxr_env.media.video_index import ADVICE, video_index
from pxr_env.views import Size

#: How frame files end, in small letters.
FRAME_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
#: Times of a clip are rounded to nanoseconds, so that subtracting its start leaves no noise.
_TIME_DIGITS = 9


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
    order = []
    for part in filter(None, re.split("([0-9]+)", name)):
        # A number is compared by its length first: it may be longer than Python converts. Numbers come before text.
        digits = part.lstrip("0")
        order.append((0, len(digits), digits) if part[0] in "0123456789" else (1, 0, part))
    return order, name


def _is_frame(name: str) -> bool:
    return name.lower().endswith(FRAME_SUFFIXES) and not name.startswith(".")


class _OpenVideo:
    """One video file, opened by the first read, closed with the last reference to it."""

    def __init__(self, file: FileKey) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.decoder: Decoder | None = None

    def read(self, index: int) -> Image.Image:
        name = f'frame {index} of video file "{self._file[0]}"'
        with self._lock, decoding(name, ADVICE):
            video = video_index(self._file)
            if self.decoder is None:
                self.decoder = open_decoder(self._file[0], video)
            image = self.decoder.read(index)
        if image.size != video.size:
            raise MediaError(
                f"{name} is {image.width}x{image.height} and the first one {video.size[0]}x{video.size[1]}; expected "
                "frames of one size. Convert it."
            )
        return image


class DecoderPool:
    """Open video files, least recently used closed first. Threads may share it; a forked process starts an empty one.

    Args:
        max_open: bound of the files open at a time, apart from files that are being read at that moment. Each holds a
            file handle or two, and as many pictures as its codec refers to.
    """

    def __init__(self, max_open: int = 16) -> None:
        self.max_open = max_open
        self._videos: OrderedDict[FileKey, _OpenVideo] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._videos)

    def read(self, file: FileKey, index: int) -> Image.Image:
        """Returns frame `index` of a video file as a new RGB image.

        Raises:
            MediaError: the file cannot be opened or the frame not be decoded.
            ImportError: PyAV is not installed.
        """
        with self._lock:
            video = self._videos.setdefault(file, _OpenVideo(file))
            self._videos.move_to_end(file)
            closed = self._videos.popitem(last=False) if len(self._videos) > self.max_open else None
        del closed  # outside of the lock: closing takes long
        return video.read(index)

    def abandon(self) -> None:
        """Forgets all files without closing them, for a process that was forked off.

        It shares their positions with its parent, and closing a decoder would wait for a thread that only runs there.
        The lock may have been held by such a thread, too.
        """
        for video in self._videos.values():
            # Immortal: not even the end of this process may call its destructor.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(video.decoder))
        self._videos = OrderedDict()
        self._lock = threading.Lock()


#: The pool of this process.
decoder_pool = DecoderPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=decoder_pool.abandon)


# Tracks: all frames of a video, before a clip is cut from it. `timeline` says when each is shown, in seconds from 0,
# and when the last no longer is; `read` returns one, from 0, RGB and shared, and raises a MediaError where it is
# missing or broken, or not of the size of the track.


@dataclass(frozen=True)
class _FileTrack:
    """A video file."""

    path: Path

    def size(self) -> Size:
        return video_index(file_key(self.path)).size

    def timeline(self) -> tuple[list[float], float]:
        index = video_index(file_key(self.path))
        return index.times.tolist(), index.end

    def read(self, index: int) -> Image.Image:
        file = file_key(self.path)
        return decoded_cache.get(("video frame", *file, index), lambda: decoder_pool.read(file, index))


class _ImageTrack:
    """A list of images, or the images in a folder; all have the size of the first."""

    def __init__(self, paths: Path | list[Path], fps: float) -> None:
        self._paths, self._fps = paths, fps
        self._size: Size | None = None

    def size(self) -> Size:
        if self._size is None:
            self._size = probe(self._files()[0])
        return self._size

    def timeline(self) -> tuple[list[float], float]:
        return _regular(len(self._files()), self._fps)

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
        if isinstance(self._paths, Path):
            self._paths = frame_paths(self._paths)
        return self._paths


@dataclass(frozen=True, kw_only=True, repr=False)
class _RenderedTrack:
    """A function that draws frames when they are needed; see `VideoSource`."""

    load_frame: Callable[[int], Picture]
    key: Hashable
    n_frames: int
    fps: float
    declared_size: Size

    def size(self) -> Size:
        return self.declared_size

    def timeline(self) -> tuple[list[float], float]:
        return _regular(self.n_frames, self.fps)

    def read(self, index: int) -> Image.Image:
        name = f"frame {index} of the video {self.key!r}"
        return decoded_cache.get(
            ("rendered frame", self.key, index),
            lambda: made(lambda: self.load_frame(index), name, self.declared_size, "load_frame="),
        )

    def __repr__(self) -> str:
        return f"key={self.key!r}"


def _regular(n_frames: int, fps: float) -> tuple[list[float], float]:
    """The timeline of frames at equal distances."""
    return [index / fps for index in range(n_frames)], n_frames / fps


class _Clip(NamedTuple):
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
        load_frame: Callable[[int], Picture] | None = None,
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
        for name, value in (("start", start), ("end", end)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise MediaError(f"got {name}={value}, expected seconds, a finite number from 0 on, or None.")
        if end is not None and end <= (start or 0.0):
            raise MediaError(f"got start={start} and end={end}, expected start < end. Check their order and unit.")
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise MediaError(f"got fps={fps}, expected frames per second, a finite number above 0. Leave it out for 1.")
        self.path = None if path is None else Path(path)
        self.start, self.end = start, end
        self._clip: _Clip | None = None
        self._track: _FileTrack | _ImageTrack | _RenderedTrack
        if load_frame is not None and n_frames is not None and size is not None and fps is not None:
            if n_frames < 1 or min(size) < 1:
                raise MediaError(
                    f"got n_frames={n_frames} and size={size}, expected at least one frame of at least 1x1."
                )
            self._track = _RenderedTrack(load_frame=load_frame, key=key, n_frames=n_frames, fps=fps, declared_size=size)
        elif self.path is not None:
            self._track = _open_path(self.path, fps)
        else:
            self._track = _ImageTrack(_frame_list(frames or ()), fps or 1.0)

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
        times, video_end = self._track.timeline()
        if self.start is not None and self.start >= video_end:
            raise MediaError(
                f"{self!r} starts after the end of the video at {video_end:.3f} s. Expected a start before it; "
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
        end = times[last] if last < len(times) else video_end
        if self.end is not None:
            end = min(end, self.end)
        if first == 0:
            return _Clip(0, tuple(times[:last]), end)
        zero = times[first]
        shown = tuple(round(time - zero, _TIME_DIGITS) for time in times[first:last])
        return _Clip(first, shown, round(end - zero, _TIME_DIGITS))


def uniform_frames(n_frames: int, count: int) -> list[int]:
    """Returns `count` frames at equal distances: of n frames, cut into `count` equal parts, those in the centres.

    Part k, from 0, reaches from k n / count to (k + 1) n / count, its centre is (2 k + 1) n / (2 count), and the frame
    in which that falls is the centre rounded down. If there are no more than `count` frames, all are returned.

    Raises:
        ValueError: n_frames < 0 or count < 1.
    """
    if n_frames < 0 or count < 1:
        raise ValueError(f"got n_frames={n_frames} and count={count}, expected n_frames >= 0 and count >= 1.")
    if count >= n_frames:
        return list(range(n_frames))
    return [(2 * part + 1) * n_frames // (2 * count) for part in range(count)]


def _open_path(path: Path, fps: float | None) -> _FileTrack | _ImageTrack:
    file_key(path)  # it exists
    if path.is_dir():
        return _ImageTrack(path, fps or 1.0)
    if not path.is_file():
        raise MediaError(f'"{path}" is neither a file nor a folder. Expected a video; check the path.')
    if fps is not None:
        raise TypeError(f'got fps={fps:g} with the video file "{path}", which has its own times; leave it out.')
    return _FileTrack(path)


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
