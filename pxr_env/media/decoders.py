"""Decoders of video files: exactly frame i, in presentation order, whatever was read before; and a pool.

decord comes first, but only for the files of which it is exact (`video_index` says which). Compared with decoding
every file from its beginning, decord 0.6.0 returns wrong frames, without an error, for: edit lists (it counts the
frames before the start), periodic intra refresh in H.264 (frames are lost after a seek), MPEG-4 part 2 with B-frames,
WMV, AVI and MPEG program streams with B-frames, every MPEG transport stream, and mirrored videos; it opens neither AV1
nor GIF. All of these are read with PyAV, and so is everything where decord is not installed. For the others the pixels
of both are equal.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.media.images import decoding
from pxr_env.media.upright import orientation, to_rgb, turn
from pxr_env.media.video_index import (
    BROKEN_VIDEO,
    FileKey,
    VideoIndex,
    import_av,
    open_animation,
    open_stream,
    video_index,
)

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

#: Seconds by which decord's times (32-bit floats) may differ from those of the index, and the share of the time itself.
_TIME_TOLERANCE, _RELATIVE_TOLERANCE = 1e-3, 1e-6


class Decoder(Protocol):
    """An open video file; used by one thread at a time. Its index says size, number and times of its frames."""

    def read(self, index: int) -> Image.Image:
        """Returns frame `index` in presentation order, upright, as a new RGB image.

        Raises:
            MediaError: the frame cannot be decoded.
        """

    def close(self) -> None:
        """Closes the file."""


def open_decoder(path: str, index: VideoIndex) -> Decoder:
    """Opens a video file with the decoder that its index names, or with PyAV where that is not possible.

    Raises:
        MediaError: the file cannot be opened.
        ImportError: PyAV is not installed.
    """
    if index.decoder == "pillow":
        return AnimationDecoder(path)
    if index.decoder == "decord":
        try:
            return DecordDecoder(path, index)
        except Exception:  # of any kind, and PyAV decides
            pass  # not installed, or it does not understand this file
    return PyAVDecoder(path, index)


class AnimationDecoder:
    """The frames of an animation; transparent parts are white, and going back decodes from the beginning.

    It and `read` raise whatever Pillow raises.
    """

    def __init__(self, path: str) -> None:
        self._image = open_animation(path)
        self._size = self._image.size

    def read(self, index: int) -> Image.Image:
        self._image.seek(index)
        # A frame may reach beyond the first one, which is the canvas.
        shown = to_rgb(self._image).crop((0, 0, *self._size))
        return turn(shown, orientation(self._image))

    def close(self) -> None:
        self._image.close()


class PyAVDecoder:
    """Decodes with PyAV: from the nearest keyframe, or on from the last frame, to the presentation time of the frame.

    Attributes:
        n_decoded: frames that were decoded so far.
    """

    def __init__(self, path: str, index: VideoIndex) -> None:
        self._path, self._index = path, index
        self._av = import_av(path)
        self._container, self._stream = open_stream(path)
        self._frames: Iterator[VideoFrame] = self._container.decode(self._stream)
        # Index of the frame that was decoded last; None where decoding has ended.
        self._last: int | None = -1
        self.n_decoded = 0

    def read(self, index: int) -> Image.Image:
        for begin in self._beginnings(index):
            frame = self._find(index, begin)
            if frame is not None:
                return _checked(turn(_rgb(frame), self._index.orientation), self._path, self._index, index)
        raise _missing_frame(self._path, index)

    def close(self) -> None:
        self._container.close()

    def _beginnings(self, index: int) -> Iterator[int | None]:
        """Where decoding may begin to reach a frame, the nearest first; None is to go on from where it stands.

        Frames right behind a keyframe may be lost (periodic intra refresh): the one before it is tried, then the
        beginning of the file.
        """
        starts = self._index.starts
        nearest = bisect.bisect_right(starts, index) - 1
        if self._last is not None and self._last < index and (nearest < 0 or starts[nearest] <= self._last + 1):
            yield None
        if not self._index.by_count:
            yield from (int(starts[number]) for number in (nearest, nearest - 1) if number >= 0 and starts[number] > 0)
        yield 0

    def _find(self, index: int, begin: int | None) -> VideoFrame | None:
        try:
            if begin is not None:
                self._seek(begin)
            for frame in self._frames:
                self.n_decoded += 1
                position = self._position(frame)
                if position is None:
                    continue
                self._last = position
                if position >= index:
                    return frame if position == index and not frame.is_corrupt else None
        except self._av.FFmpegError:
            pass
        # Ended or failed: the next frame is looked for from a keyframe on.
        self._last = None
        return None

    def _seek(self, begin: int) -> None:
        self._last = begin - 1
        if begin == 0:
            # Some containers cannot seek back to their very beginning, for instance before an edit list.
            self._container.close()
            self._container, self._stream = open_stream(self._path)
        else:
            self._container.seek(int(self._index.pts[begin]), stream=self._stream)
        self._frames = self._container.decode(self._stream)

    def _position(self, frame: VideoFrame) -> int | None:
        """Index of a decoded frame; None for one that is not shown."""
        if self._index.by_count:
            return None if self._last is None else self._last + 1
        pts = self._index.pts
        if frame.pts is None:
            return None
        position = int(np.searchsorted(pts, frame.pts))
        return position if position < len(pts) and pts[position] == frame.pts else None


class _DecordMismatchError(Exception):
    """decord and PyAV see different frames in a file, and PyAV is believed."""


class DecordDecoder:
    """Decodes with decord. Where it fails on a frame, PyAV goes on.

    Raises:
        _DecordMismatchError: decord counts or times the frames otherwise than the index. Whatever decord raises: it is
            not installed, or does not open the file.
    """

    def __init__(self, path: str, index: VideoIndex) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._path, self._index = path, index
        self._fallback: PyAVDecoder | None = None
        # fault_tol: an error for a frame that cannot be decoded, not the nearest frame.
        self._reader: Any = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1, fault_tol=1)
        times = self._reader.get_frame_timestamp(range(len(self._reader)))[:, 0].astype(np.float64)
        if len(times) != index.n_frames or not np.allclose(
            times - times[0], index.times, rtol=_RELATIVE_TOLERANCE, atol=_TIME_TOLERANCE
        ):
            raise _DecordMismatchError

    def read(self, index: int) -> Image.Image:
        if self._fallback is None:
            try:
                frame = self._reader[index]
                # A program may have set decord's bridge to the tensors of a framework.
                pixels = frame.asnumpy() if hasattr(frame, "asnumpy") else np.asarray(frame)
                return _checked(Image.fromarray(pixels), self._path, self._index, index)
            except Exception:  # of any kind, and PyAV decides
                self._fallback = PyAVDecoder(self._path, self._index)
        return self._fallback.read(index)

    def close(self) -> None:
        self._reader = None
        if self._fallback is not None:
            self._fallback.close()


def _rgb(frame: VideoFrame) -> Image.Image:
    """A decoded frame as RGB; what is transparent is shown over white, as in pictures."""
    if any(component.is_alpha for component in frame.format.components):
        return to_rgb(Image.fromarray(frame.to_ndarray(format="rgba")))
    return Image.fromarray(frame.to_ndarray(format="rgb24"))


def _checked(image: Image.Image, path: str, video: VideoIndex, index: int) -> Image.Image:
    if image.size != video.size:
        raise MediaError(
            f'frame {index} of video file "{path}" is {image.width}x{image.height} and the first one {video.size[0]}x'
            f"{video.size[1]}; expected frames of one size. Convert it."
        )
    return image


def _missing_frame(path: str, index: int) -> MediaError:
    return MediaError(
        f'frame {index} of video file "{path}" cannot be decoded; expected a file that is not broken there. '
        "Download or convert it again."
    )


#: Video files open at a time. Each holds a file handle or two, and as many pictures as its codec refers to.
MAX_OPEN_VIDEOS = 16


class _OpenVideo:
    """One video file, opened by the first read."""

    def __init__(self, file: FileKey) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.decoder: Decoder | None = None

    def read(self, index: int) -> Image.Image:
        name = f'frame {index} of video file "{self._file[0]}"'
        with self._lock, decoding(name, BROKEN_VIDEO):
            if self.decoder is None:
                self.decoder = open_decoder(self._file[0], video_index(self._file))
            return self.decoder.read(index)

    def close(self) -> None:
        with self._lock:
            if self.decoder is not None:
                self.decoder.close()
            self.decoder = None


class DecoderPool:
    """Open video files, least recently used closed first. Threads may share it; a forked process starts an empty one.

    Args:
        max_open: bound of the files open at a time, apart from files that are being read at that moment.
    """

    def __init__(self, max_open: int = MAX_OPEN_VIDEOS) -> None:
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
        closed = []
        with self._lock:
            video = self._videos.setdefault(file, _OpenVideo(file))
            self._videos.move_to_end(file)
            while len(self._videos) > self.max_open:
                closed.append(self._videos.popitem(last=False)[1])
        for old in closed:
            old.close()
        # A file that another thread closes in between is opened again, and closed when nobody refers to it.
        return video.read(index)

    def close(self) -> None:
        """Closes all files; the next read opens its file again."""
        with self._lock:
            videos = list(self._videos.values())
            self._videos.clear()
        for video in videos:
            video.close()

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
