"""Exactly frame i of a video file in presentation order, whatever was read before.

decord decodes first, but only the files of which it is exact; docs/video.md says what it gets wrong, without an error.
PyAV reads all others.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.media.upright import orientation, to_rgb, turn

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
from pxr_env.media.video_index import VideoIndex, open_animation, open_stream


class AnimationDecoder:
    """The frames of an animation; transparent parts are white, and going back decodes from the beginning."""

    def __init__(self, path: str) -> None:
        self._image = open_animation(path)
        self._size = self._image.size

    def read(self, index: int) -> Image.Image:
        self._image.seek(index)
        # A frame may reach beyond the first one, which is the canvas.
        shown = to_rgb(self._image).crop((0, 0, *self._size))
        return turn(shown, orientation(self._image))

    def __del__(self) -> None:
        if hasattr(self, "_image"):
            self._image.close()


class PyAVDecoder:
    """Decodes with PyAV: from the nearest keyframe, or on from the last frame, to the presentation time of the frame.

    Attributes:
        n_decoded: frames that were decoded so far.
    """

    def __init__(self, path: str, index: VideoIndex) -> None:
        self._path, self._index = path, index
        self._container, self._stream = open_stream(path)
        self._frames: Iterator[VideoFrame] = self._container.decode(self._stream)
        # Index of the frame that was decoded last; None where decoding has ended.
        self._last: int | None = -1
        self.n_decoded = 0

    def read(self, index: int) -> Image.Image:
        for begin in self._beginnings(index):
            frame = self._find(index, begin)
            if frame is not None:
                return turn(_rgb(frame), self._index.orientation)
        raise MediaError(
            f'frame {index} of video file "{self._path}" cannot be decoded; expected a file that is not broken there. '
            "Download or convert it again."
        )

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
        from av import FFmpegError

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
        except FFmpegError:
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


class DecordDecoder:
    """Decodes with decord. Where it fails on a frame, PyAV goes on.

    Raises:
        ValueError: decord counts or times the frames otherwise than the index. Whatever decord raises: it is not
            installed, or does not open the file.
    """

    def __init__(self, path: str, index: VideoIndex) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._path, self._index = path, index
        self._fallback: PyAVDecoder | None = None
        # fault_tol: an error for a frame that cannot be decoded, not the nearest frame.
        self._reader: Any = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1, fault_tol=1)
        times = self._reader.get_frame_timestamp(range(len(self._reader)))[:, 0].astype(np.float64)
        # They are 32-bit floats.
        if len(times) != index.n_frames or not np.allclose(times - times[0], index.times, rtol=1e-6, atol=1e-3):
            raise ValueError(f"decord and PyAV see different frames in {path}")

    def read(self, index: int) -> Image.Image:
        if self._fallback is None:
            try:
                frame = self._reader[index]
                # A program may have set decord's bridge to the tensors of a framework.
                pixels = frame.asnumpy() if hasattr(frame, "asnumpy") else np.asarray(frame)
                return Image.fromarray(pixels)
            except Exception:  # of any kind, and PyAV decides
                self._fallback = PyAVDecoder(self._path, self._index)
        return self._fallback.read(index)


def _rgb(frame: VideoFrame) -> Image.Image:
    """A decoded frame as RGB; what is transparent is shown over white, as in pictures."""
    if any(component.is_alpha for component in frame.format.components):
        return to_rgb(Image.fromarray(frame.to_ndarray(format="rgba")))
    return Image.fromarray(frame.to_ndarray(format="rgb24"))


Decoder = AnimationDecoder | PyAVDecoder | DecordDecoder


def open_decoder(path: str, index: VideoIndex) -> Decoder:
    """Opens a video file with the decoder that its index names, or with PyAV where that is not possible. It returns
    frames upright, as new RGB images, and is used by one thread at a time.

    Raises:
        MediaError: the file cannot be opened.
        ImportError: PyAV is not installed.
    """
    if index.decoder == "pillow":
        return AnimationDecoder(path)
    if index.decoder == "decord":
        try:
            return DecordDecoder(path, index)
        except Exception:  # not installed, or of any other kind, and PyAV decides
            pass
    return PyAVDecoder(path, index)
