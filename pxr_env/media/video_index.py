"""The frames of a video file: which there are, and when each is shown.

PyAV makes the index of a file from its packets, and decodes only the first frame. Files whose packets do not tell their
frames are decoded once as a whole, and their frames are found by counting.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.media.images import MAX_ASPECT_RATIO, FileKey, check_area, decoding
from pxr_env.media.upright import turned_size, upright_size, video_orientation
from pxr_env.views import Size

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

#: What to do about a file that cannot be decoded.
ADVICE = "Expected a complete video (mp4, mov, webm, mkv, avi, GIF, WebP); download or convert it again."
#: Demuxers that may open a file. Others read playlists, which name further files or addresses.
_DEMUXERS = "mov,matroska,avi,flv,mpegts,mpeg,asf,ogg"
#: Containers (names of PyAV) that keep a presentation time with each packet ...
_TIMED_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
#: ... and codecs of which each packet is one frame. In others (MPEG-4 part 2, VP8) a packet may hold none or two.
_TIMED_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})
#: H.264 NAL unit types: a slice of an ordinary picture and of one after which decoding starts afresh (IDR).
_SLICE, _IDR_SLICE = 1, 5
#: The share of frames with times of their own from which on the mean step is taken from them, not from the header.
_MOST_TIMES = 0.9
#: An animation's frame of so many milliseconds or fewer is shown for as long as the second number says, as browsers do.
_TOO_SHORT, _SHOWN_INSTEAD = 10, 100


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoIndex:
    """What is known of a video file without decoding its frames. Times are in units of `time_base` seconds."""

    size: Size  # of the upright frames
    pts: np.ndarray  # presentation time of each frame, int64, increasing
    time_base: Fraction
    last_duration: int  # how long the last frame is shown
    starts: np.ndarray  # frames at which decoding can begin, int64, increasing
    by_count: bool = False  # frames are found by counting from the beginning, not by their presentation time
    orientation: int = 1  # of decoded pictures, as in Exif
    decoder: Literal["decord", "pyav", "pillow"] = "pyav"  # who decodes it first

    @property
    def n_frames(self) -> int:
        return len(self.pts)

    @property
    def times(self) -> np.ndarray:
        """Presentation times in seconds, float64; the first frame is at 0."""
        return (self.pts - self.pts[0]) * self.time_base.numerator / self.time_base.denominator

    @property
    def end(self) -> float:
        """When the last frame is no longer shown, in seconds."""
        return float((int(self.pts[-1] - self.pts[0]) + self.last_duration) * self.time_base)


@functools.lru_cache(maxsize=64)
def video_index(file: FileKey) -> VideoIndex:
    """Returns the index of a video file, from the cache of this process (8 bytes a frame).

    Raises:
        MediaError: the file is no video, is cut off, is too large, or has no frame that can be decoded.
        ImportError: PyAV is not installed.
    """
    path = file[0]
    with decoding(f'video file "{path}"', ADVICE):
        with open(path, "rb") as opened:
            head = opened.read(12)
        if not head:
            raise MediaError(f'video file "{path}" is empty. Expected a video; copy or download it again.')
        is_animation = head.startswith(b"GIF8") or head[8:] == b"WEBP"
        return _index_animation(path) if is_animation else _index_packets(path)


def open_stream(path: str) -> tuple[InputContainer, VideoStream]:
    """Opens a video file: returns the container and its first video stream, decoded by one thread.

    Raises:
        av.FFmpegError: the file is none of the known containers.
        MediaError: it has no video, or one that is too large.
        ImportError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f'reading the video file "{path}" needs PyAV; install it with `pip install pxr-gym[video]`.'
        ) from error
    # An absolute path is never taken for an address such as "http:".
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
    container = av.open(os.path.abspath(path), options=options, metadata_errors="replace")
    # The cover of a song is a video stream, too.
    streams = [stream for stream in container.streams.video if not stream.disposition & stream.disposition.attached_pic]
    name = f'video file "{path}"'
    if not streams:
        raise MediaError(f"{name} has no video (audio only?); expected a video stream. Check which file was meant.")
    context = streams[0].codec_context
    if context is None:
        raise MediaError(f"{name} is coded in a way PyAV does not know; expected H.264. Convert it.")
    size = context.width, context.height
    check_area(size, name)
    if min(size) < 1 or max(size) > MAX_ASPECT_RATIO * min(size):
        raise MediaError(
            f"{name} is {size[0]}x{size[1]}; expected sides of at least one pixel with a ratio of at most "
            f"{MAX_ASPECT_RATIO}. Convert it."
        )
    # Frames may be larger than the container says. Environments run in many processes: one thread each.
    context.options = {"max_pixels": str(Image.MAX_IMAGE_PIXELS or 2**31 - 1)}
    context.thread_count = 1
    return container, streams[0]


def open_animation(path: str) -> Image.Image:
    image = Image.open(path, formats=("GIF", "WEBP"))
    check_area(image.size, f'video file "{path}"')
    return image


def _index_animation(path: str) -> VideoIndex:
    durations = []
    with open_animation(path) as image:
        size = upright_size(image)
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            duration = round(image.info.get("duration", 0))
            durations.append(duration if duration > _TOO_SHORT else _SHOWN_INSTEAD)
    return VideoIndex(
        size=size,
        pts=np.array([0, *itertools.accumulate(durations)][:-1], dtype=np.int64),
        time_base=Fraction(1, 1000),
        last_duration=durations[-1],
        starts=np.zeros(1, dtype=np.int64),
        by_count=True,
        decoder="pillow",
    )


class _Packet(NamedTuple):
    """What the index needs of a packet; `pts` and `duration` in units of the stream's time base."""

    pts: int | None
    duration: int
    is_key: bool
    is_discard: bool
    starts_afresh: bool


def _index_packets(path: str) -> VideoIndex:
    packets = _read_packets(path)
    shown = sorted((packet for packet in packets if not packet.is_discard), key=lambda packet: packet.pts or 0)
    container, stream = open_stream(path)
    with container:
        first = next((frame for frame in container.decode(stream) if not frame.is_corrupt), None)
        if first is None:
            raise MediaError(f'video file "{path}" has no frame that can be decoded. Expected a video; convert it.')
        if shown and not shown[0].is_key and first.pts is not None:
            # Cut between keyframes: it begins where decoding can, as in players.
            shown = [packet for packet in shown if packet.pts is None or packet.pts >= first.pts]
        pts = [packet.pts for packet in shown if packet.pts is not None]
        turned = video_orientation(first.side_data, path)
        size = turned_size((first.width, first.height), turned)
        rate, time_base = stream.average_rate, stream.time_base
        if not pts or len(set(pts)) < len(shown) or time_base is None:
            return _index_by_count(path, size, turned)
        is_safe = turned == len(container.streams.video) == 1 and _is_exact_with_decord(stream, first, packets, shown)
    return VideoIndex(
        size=size,
        pts=np.array(pts, dtype=np.int64),
        time_base=time_base,
        last_duration=shown[-1].duration or _last_step(pts, rate, time_base),
        starts=np.array([index for index, packet in enumerate(shown) if packet.is_key], dtype=np.int64),
        orientation=turned,
        decoder="decord" if is_safe else "pyav",
    )


def _is_exact_with_decord(
    stream: VideoStream, first: VideoFrame, packets: Sequence[_Packet], shown: Sequence[_Packet]
) -> bool:
    """Whether decord finds the right frames, by counting from a keyframe on, and gives PyAV's colours."""
    # decord makes room for as many frames as the header says, and ends the process where it finds none.
    is_counted = stream.frames in (0, len(packets)) and len(shown) == len(packets) and shown[0].is_key
    # No frame behind a keyframe is lost if decoding starts afresh there.
    is_clean = all(packet.starts_afresh for packet in packets if packet.is_key)
    is_even = first.width % 2 == first.height % 2 == 0
    return is_counted and is_clean and is_even and first.format.name == "yuv420p" and not first.interlaced_frame


def _read_packets(path: str) -> list[_Packet]:
    """Returns the packets of a file in decoding order; none where they do not tell its frames."""
    container, stream = open_stream(path)
    with container:
        codec, extradata = stream.codec.canonical_name, stream.codec_context.extradata or b""
        if container.format.name not in _TIMED_CONTAINERS or codec not in _TIMED_CODECS:
            return []
        found = []
        for number, packet in enumerate(container.demux(stream)):
            if packet.is_corrupt:
                raise MediaError(
                    f'video file "{path}" is cut off or broken at frame {number} of {stream.frames or "?"}. Expected a '
                    "complete file; download it again."
                )
            if packet.size:  # the last one is empty, it ends the stream
                is_key = packet.is_keyframe
                starts_afresh = is_key and _starts_afresh(codec, extradata, packet)
                found.append(_Packet(packet.pts, packet.duration or 0, is_key, packet.is_discard, starts_afresh))
        return found


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
    container, stream = open_stream(path)
    with container:
        pts = [frame.pts for frame in container.decode(stream)]
        rate, time_base = stream.average_rate, stream.time_base
    known = sorted({value for value in pts if value is not None})
    if len(known) < len(pts) or time_base is None:
        if time_base is not None and len(known) > 1 and len(known) >= _MOST_TIMES * len(pts):
            time_base = Fraction(known[-1] - known[0], len(known) - 1) * time_base
        elif rate:
            time_base = 1 / rate
        else:
            raise MediaError(
                f'video file "{path}" does not say when its frames are shown. Expected presentation times or a frame '
                "rate; convert it to mp4."
            )
        known = list(range(len(pts)))
    return VideoIndex(
        size=size,
        pts=np.array(known, dtype=np.int64),
        time_base=time_base,
        last_duration=_last_step(known, rate, time_base),
        starts=np.zeros(1, dtype=np.int64),
        by_count=True,
        orientation=turned,
    )


def _last_step(pts: Sequence[int], rate: Fraction | None, time_base: Fraction) -> int:
    """How long the last frame is shown where the file does not say it: as long as the one before it."""
    if len(pts) > 1:
        return pts[-1] - pts[-2]
    return max(1, round(1 / (rate * time_base))) if rate else 1
