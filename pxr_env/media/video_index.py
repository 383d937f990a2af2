"""The index of a video file: when each of its frames is shown, where decoding can begin, and who may decode it.

PyAV makes every index, from the packets of the file; only the first frame is decoded. Files whose packets do not tell
their frames are decoded once as a whole, and their frames are found by counting.
"""

from __future__ import annotations

import functools
import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.media.images import MAX_ASPECT_RATIO, check_area, decoding
from pxr_env.media.upright import turned_size, upright_size
from pxr_env.views import Size

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

#: Demuxers that may open a file. Others read playlists, which name further files or addresses.
_DEMUXERS = "mov,matroska,avi,flv,mpegts,mpeg,asf,ogg"
#: Entries of a display matrix are fixed-point numbers with this value for 1.
_ONE = 1 << 16
#: Whether rows and columns are exchanged -> Exif's orientation where the rest is mirrored: not at all, left and right,
#: top and bottom, both. See `upright.turn`.
_ORIENTATIONS = {False: (1, 2, 4, 3), True: (5, 6, 8, 7)}


def import_av(path: str) -> ModuleType:
    """Returns the module PyAV.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f'reading the video file "{path}" needs PyAV; install it with `pip install pxr-gym[video]`.'
        ) from error
    return av


@contextmanager
def open_container(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a video file and closes it again: see `open_stream`."""
    container, stream = open_stream(path)
    with container:
        yield container, stream


def open_stream(path: str) -> tuple[InputContainer, VideoStream]:
    """Opens a video file: returns the container and its first video stream, decoded by one thread.

    Raises:
        av.FFmpegError: the file is none of the known containers.
        MediaError: it has no video, or one that is too large.
    """
    av = import_av(path)
    # An absolute path is never taken for an address such as "http:".
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
    container = av.open(os.path.abspath(path), options=options, metadata_errors="replace")
    try:
        stream = _first_video(container, path)
        context = stream.codec_context
        _check_size((context.width, context.height), path)
        # Frames may be larger than the container says. Environments run in many processes: one thread each.
        context.options = {"max_pixels": str(Image.MAX_IMAGE_PIXELS or 2**31 - 1)}
        context.thread_count = 1
    except BaseException:
        container.close()
        raise
    return container, stream


def frame_orientation(frame: VideoFrame, path: str) -> int:
    """Returns the Exif orientation of a frame, from its display matrix, which phones write into portrait videos.

    Source: libavutil/display.h: x' = a x + c y, y' = b x + d y for the matrix a b u, c d v, x y w.

    Raises:
        MediaError: it is tilted, not turned by quarters.
    """
    side_data: Any = frame.side_data  # PyAV declares it as a dictionary; it iterates over its values
    matrices = [bytes(data) for data in side_data if data.type.name == "DISPLAYMATRIX"]
    if not matrices:
        return 1
    a, b, _, c, d = struct.unpack("=5i", matrices[0][:20])
    for is_sideways, across, down, others in ((False, a, d, (b, c)), (True, c, b, (a, d))):
        if others == (0, 0) and across and down:
            return _ORIENTATIONS[is_sideways][(across < 0) + 2 * (down < 0)]
    raise MediaError(
        f'video file "{path}" is to be shown tilted (display matrix {a / _ONE:.2f} {b / _ONE:.2f} {c / _ONE:.2f} '
        f"{d / _ONE:.2f}); expected a turn by 0, 90, 180 or 270 degrees. Convert it."
    )


def _first_video(container: InputContainer, path: str) -> VideoStream:
    # The cover of a song is a video stream, too.
    streams = [stream for stream in container.streams.video if not stream.disposition & stream.disposition.attached_pic]
    if not streams:
        raise MediaError(
            f'video file "{path}" has no video (audio only?); expected a video stream. Check which file was meant.'
        )
    if streams[0].codec_context is None:
        raise MediaError(f'video file "{path}" is coded in a way PyAV does not know; expected H.264. Convert it.')
    return streams[0]


def _check_size(size: Size, path: str) -> None:
    check_area(size, f'video file "{path}"')
    if min(size) < 1 or max(size) > MAX_ASPECT_RATIO * min(size):
        raise MediaError(
            f'video file "{path}" is {size[0]}x{size[1]}; expected sides of at least one pixel with a ratio of at most '
            f"{MAX_ASPECT_RATIO}. Convert it."
        )


#: Bytes by which animations are recognized: (offset, bytes).
_MAGIC = ((0, b"GIF8"), (8, b"WEBP"))
#: A frame of so many milliseconds or fewer is shown for as long as the second number says: so do Chromium, Firefox and
#: WebKit, for GIF and WebP alike.
_TOO_SHORT, _SHOWN_INSTEAD = 10, 100


def is_animation(head: bytes) -> bool:
    """Returns whether a file that begins with `head` (12 bytes) is a GIF or WebP."""
    return any(head[offset : offset + len(magic)] == magic for offset, magic in _MAGIC)


def read_animation(path: str) -> tuple[Size, list[int]]:
    """Returns the size of an animation and how long each of its frames is shown, in milliseconds.

    Raises:
        MediaError: it is too large. Whatever Pillow raises: the file is no complete GIF or WebP.
    """
    durations = []
    with open_animation(path) as image:
        size = upright_size(image)
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            duration = round(image.info.get("duration", 0))
            durations.append(duration if duration > _TOO_SHORT else _SHOWN_INSTEAD)
        return size, durations


def open_animation(path: str) -> Image.Image:
    image = Image.open(path, formats=("GIF", "WEBP"))
    check_area(image.size, f'video file "{path}"')
    return image


#: A file as caches know it: path, time stamp and size.
FileKey = tuple[str, int, int]
#: What to do about a file that cannot be decoded.
BROKEN_VIDEO = "Expected a complete video (mp4, mov, webm, mkv, avi, GIF, WebP); download or convert it again."
#: Indices kept in this process: 8 bytes a frame, 0.9 MB for an hour.
MAX_INDICES = 64
#: Containers (names of PyAV) that keep a presentation time with each packet ...
_TIMED_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
#: ... and codecs of which each packet is one frame. In others (MPEG-4 part 2, VP8) a packet may hold none or two.
_TIMED_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})
#: H.264 NAL unit types: a slice of an ordinary picture and of one after which decoding starts afresh (IDR).
_SLICE, _IDR_SLICE = 1, 5

#: The share of frames with times of their own from which on the mean step is taken from them, not from the header.
_MOST_TIMES = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoIndex:
    """What is known of a video file without decoding its frames.

    Args:
        size: width and height of the upright frames.
        pts: presentation time of each frame in units of `time_base`, int64, increasing.
        time_base: seconds.
        last_duration: how long the last frame is shown, in units of `time_base`.
        starts: frames at which decoding can begin, int64, increasing.
        by_count: frames are found by counting from the beginning, not by their presentation time.
        orientation: of decoded pictures, as in Exif.
        decoder: who decodes it first.
    """

    size: Size
    pts: np.ndarray
    time_base: Fraction
    last_duration: int
    starts: np.ndarray
    by_count: bool = False
    orientation: int = 1
    decoder: Literal["decord", "pyav", "pillow"] = "pyav"

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.pts)

    @property
    def times(self) -> np.ndarray:
        """Presentation times in seconds, float64; the first frame is at 0."""
        return (self.pts - self.pts[0]) * self.time_base.numerator / self.time_base.denominator

    @property
    def end(self) -> float:
        """When the last frame is no longer shown, in seconds."""
        return float((int(self.pts[-1] - self.pts[0]) + self.last_duration) * self.time_base)


@functools.lru_cache(maxsize=MAX_INDICES)
def video_index(file: FileKey) -> VideoIndex:
    """Returns the index of a video file, from the cache of this process.

    Raises:
        MediaError: the file is no video, is cut off, is too large, or has no frame that can be decoded.
        ImportError: PyAV is not installed.
    """
    path = file[0]
    with decoding(f'video file "{path}"', BROKEN_VIDEO):
        with open(path, "rb") as opened:
            head = opened.read(16)
        if not head:
            raise MediaError(f'video file "{path}" is empty. Expected a video; copy or download it again.')
        return _index_animation(path) if is_animation(head) else _index_packets(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Packet:
    """What the index needs of a packet. `pts` and `duration` in units of the stream's time base."""

    pts: int | None
    duration: int
    is_key: bool
    is_discard: bool
    starts_afresh: bool


def _index_packets(path: str) -> VideoIndex:
    packets = _read_packets(path)
    shown = sorted((packet for packet in packets if not packet.is_discard), key=lambda packet: packet.pts or 0)
    with open_container(path) as (container, stream):
        first = next((frame for frame in container.decode(stream) if not frame.is_corrupt), None)
        if first is None:
            raise MediaError(f'video file "{path}" has no frame that can be decoded. Expected a video; convert it.')
        if shown and not shown[0].is_key and first.pts is not None:
            # Cut between keyframes: it begins where decoding can, as in players.
            shown = [packet for packet in shown if packet.pts is None or packet.pts >= first.pts]
        pts = [packet.pts for packet in shown if packet.pts is not None]
        turned = frame_orientation(first, path)
        size = turned_size((first.width, first.height), turned)
        rate, time_base = stream.average_rate, stream.time_base
        if not pts or len(set(pts)) < len(shown) or time_base is None:
            return _index_by_count(path, size, turned)
        is_safe = turned == 1 and len(container.streams.video) == 1
        # decord makes room for as many frames as the header says, and ends the process where it finds none.
        is_safe = is_safe and stream.frames in (0, len(packets))
        is_safe = is_safe and _is_plain(first) and _is_countable(packets, shown)
    return VideoIndex(
        size=size,
        pts=np.array(pts, dtype=np.int64),
        time_base=time_base,
        last_duration=shown[-1].duration or _last_step(pts, rate, time_base),
        starts=np.array([index for index, packet in enumerate(shown) if packet.is_key], dtype=np.int64),
        orientation=turned,
        decoder="decord" if is_safe else "pyav",
    )


def _is_plain(frame: VideoFrame) -> bool:
    """Whether decord gives the same colours as PyAV; for odd sizes and interlaced frames it does not."""
    is_even = frame.width % 2 == frame.height % 2 == 0
    return frame.format.name == "yuv420p" and is_even and not frame.interlaced_frame


def _is_countable(packets: Sequence[_Packet], shown: Sequence[_Packet]) -> bool:
    """Whether decord, which finds a frame by counting from a keyframe on, finds the right one: where every packet is
    shown, and decoding starts afresh at every keyframe, so that no frame behind it is lost.
    """
    every_key_is_clean = all(packet.starts_afresh for packet in packets if packet.is_key)
    return len(shown) == len(packets) and shown[0].is_key and every_key_is_clean


def _read_packets(path: str) -> list[_Packet]:
    """Returns the packets of a file in decoding order; none where they do not tell its frames."""
    with open_container(path) as (container, stream):
        codec = stream.codec.canonical_name
        if container.format.name not in _TIMED_CONTAINERS or codec not in _TIMED_CODECS:
            return []
        return list(_packets(container.demux(stream), stream, path))


def _packets(packets: Iterator[Packet], stream: VideoStream, path: str) -> Iterator[_Packet]:
    codec, extradata = stream.codec.canonical_name, stream.codec_context.extradata or b""
    for number, packet in enumerate(packets):
        if packet.is_corrupt:
            raise MediaError(
                f'video file "{path}" is cut off or broken at frame {number} of {stream.frames or "?"}. Expected a '
                "complete file; download it again."
            )
        if packet.size:  # the last one is empty, it ends the stream
            yield _Packet(
                pts=packet.pts,
                duration=packet.duration or 0,
                is_key=packet.is_keyframe,
                is_discard=packet.is_discard,
                starts_afresh=packet.is_keyframe and _starts_afresh(codec, extradata, packet),
            )


def _starts_afresh(codec: str, extradata: bytes, packet: Packet) -> bool:
    """Whether no frame from this keyframe on needs one before it: VP9 keyframes, and IDR pictures of H.264."""
    if codec == "vp9":
        return True
    if codec != "h264" or len(extradata) < 5 or extradata[0] != 1:
        return False
    # Source: ISO/IEC 14496-15, section 5.3: units follow their length, which has 1, 2 or 4 bytes.
    data, n_bytes = memoryview(packet), (extradata[4] & 3) + 1
    position = 0
    while position + n_bytes < len(data):
        unit_type = data[position + n_bytes] & 31
        if unit_type in (_SLICE, _IDR_SLICE):
            return unit_type == _IDR_SLICE
        position += n_bytes + int.from_bytes(data[position : position + n_bytes], "big")
    return False


def _index_by_count(path: str, size: Size, turned: int) -> VideoIndex:
    """Decodes the whole file once. Where its times are not those of all frames, the frames lie at equal distances."""
    with open_container(path) as (container, stream):
        pts = [frame.pts for frame in container.decode(stream)]
        rate, time_base = stream.average_rate, stream.time_base
    known = sorted({value for value in pts if value is not None})
    if len(known) < len(pts) or time_base is None:
        known, time_base = list(range(len(pts))), _mean_step(known, len(pts), rate, time_base, path)
    return VideoIndex(
        size=size,
        pts=np.array(known, dtype=np.int64),
        time_base=time_base,
        last_duration=_last_step(known, rate, time_base),
        starts=np.zeros(1, dtype=np.int64),
        by_count=True,
        orientation=turned,
    )


def _index_animation(path: str) -> VideoIndex:
    size, durations = read_animation(path)
    starts = [0, *itertools.accumulate(durations)][:-1]
    return VideoIndex(
        size=size,
        pts=np.array(starts, dtype=np.int64),
        time_base=Fraction(1, 1000),
        last_duration=durations[-1],
        starts=np.zeros(1, dtype=np.int64),
        by_count=True,
        decoder="pillow",
    )


def _last_step(pts: Sequence[int], rate: Fraction | None, time_base: Fraction) -> int:
    """How long the last frame is shown where the file does not say it: as long as the one before it."""
    if len(pts) > 1:
        return pts[-1] - pts[-2]
    return max(1, round(1 / (rate * time_base))) if rate else 1


def _mean_step(
    known: Sequence[int], n_frames: int, rate: Fraction | None, time_base: Fraction | None, path: str
) -> Fraction:
    """Seconds from frame to frame where the times of some are not known: the mean where few are missing."""
    if time_base is not None and len(known) > 1 and len(known) >= _MOST_TIMES * n_frames:
        return Fraction(known[-1] - known[0], len(known) - 1) * time_base
    if not rate:
        raise MediaError(
            f'video file "{path}" does not say when its frames are shown. Expected presentation times or a frame rate; '
            "convert it to mp4."
        )
    return 1 / rate
