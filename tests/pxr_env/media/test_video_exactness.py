"""Every frame of every kind of file, in any order: the number it carries, and its pixels bit by bit."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pxr_env.media.decoders import DecordDecoder, PyAVDecoder, open_decoder
from pxr_env.media.images import file_key
from pxr_env.media.video_index import video_index
from tests.pxr_env.media import clips

av = pytest.importorskip("av")
STEPS = np.random.default_rng(0).integers(1, 200, 60).cumsum()
VP9 = {"deadline": "realtime", "cpu-used": "8"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of file, who is to decode it, and whether its frames have to be counted."""

    name: str
    n_frames: int = 60
    decoder: str = "decord"
    by_count: bool = False
    codec: str = "libx264"
    write: dict[str, Any] = field(default_factory=dict)
    matrix: tuple[int, int, int, int] | None = None
    first: int = 0


def x264(**options: str) -> dict[str, Any]:
    return {"options": {**clips.X264, **options}}


MPEG4 = {"codec": "mpeg4", "write": {"options": {"bf": "2"}, "ticks": 1}, "decoder": "pyav", "by_count": True}
COUNTED = {"decoder": "pyav", "by_count": True}
KINDS = (
    Kind(name="long_gop.mp4", n_frames=120),
    Kind(name="short_gop.mov", write=x264(g="7")),
    Kind(name="no_b_frames.mkv", write=x264(bf="0", g="20")),
    Kind(name="variable_rate.mp4", write={"pts": lambda index: int(STEPS[index]), **x264(g="25")}),
    Kind(name="late_start.mp4", write={"pts": lambda index: 9000 + 40 * index}),
    Kind(name="fragmented.mp4", write={"muxer_options": {"movflags": "frag_keyframe+empty_moov"}, **x264(g="20")}),
    Kind(name="sound.mp4", write={"has_audio": True}),
    Kind(name="one_frame.mp4", n_frames=1),
    Kind(name="two_frames.mp4", n_frames=2),
    Kind(name="vp9.webm", codec="libvpx-vp9", write={"options": VP9}),
    Kind(name="hidden_frames.webm", codec="libvpx-vp9", write={"options": {**VP9, "auto-alt-ref": "1"}}),
    # PyAV only, since decord shows wrong frames, other colours or none.
    Kind(name="edit_list.mp4", write={"pts": lambda index: 40 * (index - 10)}, decoder="pyav", first=10),
    Kind(name="open_gop.mp4", write=x264(g="15", **{"x264-params": "open-gop=1"}), decoder="pyav"),
    Kind(name="intra_refresh.mp4", write=x264(g="20", **{"x264-params": "intra-refresh=1"}), decoder="pyav"),
    Kind(name="interlaced.mp4", write={"size": (152, 72), **x264(flags="+ilme+ildct")}, decoder="pyav"),
    Kind(name="odd_size.webm", codec="libvpx-vp9", write={"size": (151, 73), "options": VP9}, decoder="pyav"),
    Kind(name="odd_size.mp4", write={"size": (151, 73), "pix_fmt": "yuv444p"}, decoder="pyav"),
    Kind(name="h265.mp4", codec="libx265", write={"options": {"x265-params": "keyint=15:log-level=0"}}, decoder="pyav"),
    Kind(name="av1.mp4", codec="libsvtav1", n_frames=40, write={"options": {"preset": "12"}}, decoder="pyav"),
    Kind(name="turned_right.mp4", matrix=(0, 1, -1, 0), n_frames=20, decoder="pyav"),
    Kind(name="turned_left.mp4", matrix=(0, -1, 1, 0), n_frames=20, decoder="pyav"),
    Kind(name="upside_down.mp4", matrix=(-1, 0, 0, -1), n_frames=20, decoder="pyav"),
    Kind(name="mirrored.mp4", matrix=(-1, 0, 0, 1), n_frames=20, decoder="pyav"),
    # Containers and codecs whose packets do not tell the frames.
    Kind(name="mpeg4.mp4", **MPEG4),
    Kind(name="mpeg4.avi", **MPEG4),
    Kind(name="h264.avi", write={"ticks": 1}, **COUNTED),
    Kind(name="gaps.avi", **COUNTED),  # 1000 packets per second, most of them empty
    Kind(name="h264.ts", **COUNTED),
    Kind(name="h264.flv", **COUNTED),
    Kind(name="mpeg2.mpg", codec="mpeg2video", write={"options": {"bf": "2"}, "ticks": 1}, **COUNTED),
    Kind(name="wmv.wmv", codec="wmv2", write={"ticks": 1}, **COUNTED),
    Kind(name="vp8.webm", codec="libvpx", write={"options": {**VP9, "auto-alt-ref": "1"}}, **COUNTED),
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory):
    """A function that writes the clip of a kind, once."""
    directory = tmp_path_factory.mktemp("clips")

    def write(kind: Kind) -> Path:
        path = directory / kind.name
        if not path.exists():
            try:
                av.Codec(kind.codec, "w")
            except av.codec.codec.UnknownCodecError:
                pytest.skip(f"PyAV has no {kind.codec} here")
            clips.write(path, kind.n_frames, codec=kind.codec, **kind.write)
            if kind.matrix is not None:
                clips.set_display_matrix(path, kind.matrix)
        return path

    return write


def decoded_from_the_beginning(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def turn(pixels: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    quarters = {(0, 1, -1, 0): 3, (0, -1, 1, 0): 1, (-1, 0, 0, -1): 2}
    if matrix == (-1, 0, 0, 1):
        return pixels[:, ::-1]
    return np.rot90(pixels, quarters.get(matrix, 0))


@pytest.mark.parametrize(
    ("kind", "decode"),
    [pytest.param(kind, open_decoder, id=kind.name) for kind in KINDS]
    + [pytest.param(kind, PyAVDecoder, id=f"{kind.name}, PyAV") for kind in KINDS if kind.decoder == "decord"],
)
def test_every_frame_in_any_order(clip, kind, decode):
    path = clip(kind)
    index = video_index(file_key(path))
    expected = [turn(pixels, kind.matrix) for pixels in decoded_from_the_beginning(path)]
    assert index.n_frames == len(expected) == kind.n_frames - kind.first
    assert index.size == expected[0].shape[1::-1]
    assert (index.decoder, index.by_count) == (kind.decoder, kind.by_count)
    pts = kind.write.get("pts", lambda number: 40 * number)
    times = [(pts(number) - pts(kind.first)) / 1000 for number in range(kind.first, kind.n_frames)]
    assert index.times.tolist() == pytest.approx(times, abs=1e-3)  # Matroska rounds to milliseconds
    assert np.all(np.diff(index.times) > 0)
    # The last frame is shown as long as the one before it, or as the frame rate says.
    assert index.times[-1] < index.end < index.times[-1] + 0.25
    forward = list(range(index.n_frames))
    shuffled = forward * 2
    random.Random(0).shuffle(shuffled)
    for order in (forward, forward[::-3], shuffled[:20], forward[::7]):
        decoder = decode(str(path), index)
        for frame in order:
            pixels = np.asarray(decoder.read(frame))
            assert np.array_equal(pixels, expected[frame]), frame
            if kind.matrix is None:
                assert clips.number(pixels) == frame + kind.first


def test_decord_decodes_what_the_index_says_where_it_is_installed(clip, monkeypatch):
    pytest.importorskip("decord")
    path = clip(KINDS[0])
    index = video_index(file_key(path))
    assert isinstance(open_decoder(str(path), index), DecordDecoder)
    monkeypatch.setitem(sys.modules, "decord", None)
    assert isinstance(open_decoder(str(path), index), PyAVDecoder)


def test_frames_of_decords_bridges_are_understood(clip, monkeypatch):
    decord = pytest.importorskip("decord")
    path = clip(KINDS[0])
    decoder = open_decoder(str(path), video_index(file_key(path)))
    read = decord.VideoReader.__getitem__
    monkeypatch.setattr(decord.VideoReader, "__getitem__", lambda reader, index: read(reader, index).asnumpy())
    assert clips.number(decoder.read(77)) == 77


def test_portrait_videos_are_upright(clip):
    kind = next(kind for kind in KINDS if kind.name == "turned_right.mp4")
    index = video_index(file_key(clip(kind)))
    assert index.size == (clips.SIZE[1], clips.SIZE[0])
    # Turned right, the upper left corner comes to the upper right.
    pixels = np.asarray(open_decoder(str(clip(kind)), index).read(3)).astype(int)
    assert np.abs(pixels[5, -5] - clips.CORNER).max() < 40
    for corner in (pixels[5, 5], pixels[-5, 5], pixels[-5, -5]):
        assert np.abs(corner - clips.BACKGROUND).max() < 40


def test_a_broken_frame_is_named_and_others_are_read(clip, tmp_path):
    path = tmp_path / "broken.webm"
    clips.write(path, 45, codec="libvpx-vp9", options={**VP9, "g": "15"})
    with av.open(str(path)) as container:
        broken = bytes([packet for packet in container.demux(video=0) if packet.size][20])
    data = path.read_bytes()
    path.write_bytes(data.replace(broken, b"\xff" * len(broken)))
    index = video_index(file_key(path))
    for order in (range(45), reversed(range(45))):
        decoder = open_decoder(str(path), index)
        for frame in order:
            if 20 <= frame < 30:  # frames refer to the ones before them, back to the keyframe
                with pytest.raises(ValueError, match=rf'frame {frame} of video file ".*broken.webm" cannot be decoded'):
                    decoder.read(frame)
            else:
                assert clips.number(decoder.read(frame)) == frame


def test_an_hour_costs_what_is_looked_at(tmp_path):
    # 1 frame per second, a keyframe each minute.
    options = {"preset": "ultrafast", "bf": "2", "g": "60", "sc_threshold": "0"}
    path = clips.write(tmp_path / "hour.mp4", 3600, options=options, fps=1)
    index = video_index(file_key(path))
    assert (index.n_frames, index.end) == (3600, 3600.0)
    assert index.starts.tolist() == list(range(0, 3600, 60))
    decoder = PyAVDecoder(str(path), index)
    assert decoder.n_decoded == 0
    for frame, decoded in ((1810, 11), (3559, 20), (1815, 16), (1817, 2)):
        before = decoder.n_decoded
        assert clips.number(decoder.read(frame)) == frame
        # From the keyframe before it, or on from the last frame; with B-frames of the group before at most.
        assert decoded <= decoder.n_decoded - before <= decoded + 2


def test_a_display_matrix_that_tilts_is_an_error(tmp_path):
    path = clips.write(tmp_path / "tilted.mp4", 2)
    clips.set_display_matrix(path, (0.7071, 0.7071, -0.7071, 0.7071))
    with pytest.raises(ValueError, match=r"shown tilted .*0\.71 0\.71 -0\.71 0\.71.*expected a turn by 0, 90"):
        video_index(file_key(path))
