"""Video files that are no videos, and open files: how many, in threads, after a fork and in other processes."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.media import VideoSource
from pxr_env.media.images import file_key
from pxr_env.media.video import DecoderPool
from pxr_env.media.video_index import video_index
from tests.pxr_env.media import clips

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three clips of 40 frames."""
    pytest.importorskip("av")
    directory = tmp_path_factory.mktemp("films")
    return [clips.write(directory / f"film_{number}.mp4", 40) for number in range(3)]


def read_as_far_as_possible(path: Path) -> None:
    video = VideoSource(path=path)
    for index in range(video.n_frames):
        video.frame(index)


def test_making_a_source_opens_nothing_but_asks_whether_it_exists(tmp_path):
    path = tmp_path / "film.mp4"
    with pytest.raises(MediaError, match=r'file ".*film.mp4" cannot be opened'):
        VideoSource(path=path)
    path.write_bytes(b"no video")
    VideoSource(path=path)


#: What is no video -> the beginning of the file and a part of the message.
TEXT = r"cannot be decoded \(.*\). Expected a complete video"
NO_VIDEOS = {
    "empty.mp4": (b"", "is empty. Expected a video; copy or download"),
    "text.mp4": (b"Not found\n", TEXT),
    "playlist.mp4": (b"#EXTM3U\n#EXTINF:1,\nfilm_0.mp4\n", TEXT),
    "list.mp4": (b"ffconcat version 1.0\nfile film_0.mp4\n", TEXT),
    "film.gif": (b"GIF89a" + bytes(20), TEXT),
}


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_what_is_no_video_is_refused_and_names_no_other_files(films, name):
    content, message = NO_VIDEOS[name]
    path = films[0].parent / name
    path.write_bytes(content)
    with pytest.raises(MediaError, match=rf'video file ".*{name}" {message}'):
        read_as_far_as_possible(path)


def test_a_film_that_is_cut_off(tmp_path, films):
    path = clips.write(tmp_path / "film.mp4", 40, options={**clips.X264, "g": "10"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # the table of contents is at the end
    with pytest.raises(MediaError, match=r'video file ".*film.mp4" cannot be decoded'):
        read_as_far_as_possible(path)
    path = clips.write(tmp_path / "table_first.mp4", 40, muxer_options={"movflags": "faststart"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 4 // 5])
    with pytest.raises(
        MediaError, match=r"is cut off or broken at frame \d+ of 40. Expected a complete file; download"
    ):
        read_as_far_as_possible(path)
    # Matroska has no table: it holds the frames up to the cut.
    path = clips.write(tmp_path / "film.mkv", 40, options={**clips.X264, "g": "10"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = VideoSource(path=path)
    assert 5 < video.n_frames < 35
    assert clips.number(video.frame(5)) == 5


def test_sound_without_a_picture(tmp_path, films):
    path = clips.write_audio(tmp_path / "sound.mp4")
    with pytest.raises(MediaError, match=r'video file ".*sound.mp4" has no video \(audio only\?\)'):
        read_as_far_as_possible(path)


def test_frames_that_are_too_large_or_too_narrow(tmp_path, films, monkeypatch):
    path = clips.write(tmp_path / "narrow.mp4", 2, size=(402, 2))
    with pytest.raises(MediaError, match=r"is 402x2; expected sides of at least one pixel with a ratio of at most 200"):
        read_as_far_as_possible(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    video_index.cache_clear()
    with pytest.raises(MediaError, match=r'video file ".*film_0.mp4" has 150x70 pixels; expected at most 10000'):
        read_as_far_as_possible(films[0])


def test_a_file_that_changes_is_read_again(tmp_path, films):
    path = clips.write(tmp_path / "film.mp4", 5)
    assert VideoSource(path=path).n_frames == 5
    clips.write(path, 9, pts=lambda index: 80 * index)
    video = VideoSource(path=path)
    assert video.n_frames == 9
    assert clips.number(video.frame(8)) == 8


def open_files() -> list[str]:
    """What this process has open, where the system tells."""
    links = Path("/proc/self/fd")
    return [os.readlink(link) for link in links.iterdir() if link.is_symlink()] if links.is_dir() else []


def test_few_files_are_open_at_a_time(films, tmp_path):
    # Others may have the clips of the fixture open.
    films = [Path(shutil.copy(film, tmp_path)) for film in films]
    pool = DecoderPool(max_open=2)
    for index in (3, 30):
        for film in films:
            assert clips.number(pool.read(file_key(film), index)) == index
            assert len(pool) <= 2
            assert len({str(film) for film in films} & {*open_files()}) <= 2


def test_threads_share_open_files(films):
    # One file may be open and three are read: most reads close another one.
    pool = DecoderPool(max_open=1)
    rng = random.Random(0)
    wanted = [(rng.choice(films), rng.randrange(40)) for _ in range(60)]
    start = threading.Barrier(6)

    def read(thread: int) -> list[tuple[int, int]]:
        start.wait()
        return [(index, clips.number(pool.read(file_key(film), index))) for film, index in wanted[thread::6]]

    with ThreadPoolExecutor(6) as threads:
        read_numbers = [pair for pairs in threads.map(read, range(6)) for pair in pairs]
    assert len(read_numbers) == 60
    assert all(index == number for index, number in read_numbers)


FORK = """
import os, sys, threading
from pathlib import Path
from pxr_env.media import VideoSource
from pxr_env.media.images import decoded_cache
from pxr_env.media.video import decoder_pool
from tests.pxr_env.media.clips import number
video = VideoSource(path=Path(sys.argv[1]))
assert number(video.frame(3)) == 3
decoder_pool._lock.acquire()  # as if another thread read at the moment of the fork
decoded_cache._lock.acquire()
child = os.fork()
if child == 0:
    assert number(video.frame(20)) == 20 and number(video.frame(4)) == 4
    sys.exit(7)  # not os._exit: destructors run, and must not wait for threads of the parent
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
decoder_pool._lock.release()
decoded_cache._lock.release()
assert number(video.frame(21)) == 21 and number(video.frame(5)) == 5
print("read")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_opens_files_anew(films):
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(films[0])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("read\n", "")


def test_only_the_path_travels_to_other_processes(films):
    video = VideoSource(path=films[1], start=0.4, end=1.2)
    assert clips.number(video.frame(5)) == 15
    pickled = pickle.dumps(video)
    assert len(pickled) < 1000
    code = (
        "import pickle, sys; from tests.pxr_env.media.clips import number; "
        "video = pickle.load(sys.stdin.buffer); print(video.n_frames, number(video.frame(5)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=pickled, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"20 15\n", b"")


def test_without_pyav_the_message_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42 and so on")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'film.mp4" needs PyAV; install it with `pip install pxr-gym\[video\]`'):
        read_as_far_as_possible(path)


def test_decoders_write_nothing_to_the_terminal(films, tmp_path):
    broken = tmp_path / "broken.mp4"
    data = bytearray(films[0].read_bytes())
    place = data.index(b"mdat") + 2500
    data[place : place + 200] = b"\xff" * 200
    broken.write_bytes(data)
    code = (
        "import sys; from pathlib import Path; from pxr_env.media import VideoSource\n"
        "video = VideoSource(path=Path(sys.argv[1]))\n"
        "for index in range(video.n_frames):\n"
        "    try: video.frame(index)\n"
        "    except ValueError: print(index)\n"
    )
    command = [sys.executable, "-c", code, str(broken)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    broken_frames = [int(line) for line in done.stdout.splitlines()]
    assert 0 < len(broken_frames) < 40


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations(tmp_path, suffix):
    path = tmp_path / f"film.{suffix}"
    frames = [Image.fromarray(clips.picture(number)) for number in range(12)]
    durations = [40 + 10 * number for number in range(12)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    video = VideoSource(path=path)
    assert (video.n_frames, video.size) == (12, clips.SIZE)
    assert video.times == pytest.approx([sum(durations[:index]) / 1000 for index in range(12)])
    assert video.duration == pytest.approx(sum(durations) / 1000)
    for index in (11, 0, 5, 4, 6, 6):
        assert clips.number(video.frame(index)) == index


def test_transparent_parts_of_an_animation_are_white(tmp_path):
    path = tmp_path / "film.webp"
    frame = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    other = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    frame.save(path, save_all=True, append_images=[other], duration=50, lossless=True)
    video = VideoSource(path=path)
    assert np.asarray(video.frame(0)).min() == 255
    assert video.frame(1).getpixel((3, 3)) == (200, 0, 0)


def test_a_film_that_begins_between_keyframes_begins_where_it_can_be_decoded(tmp_path):
    av = pytest.importorskip("av")
    options = {**clips.X264, "g": "20", "bf": "0", "sc_threshold": "0"}
    whole = clips.write(tmp_path / "whole.mp4", 60, options=options, ticks=1)
    for suffix in ("mp4", "mkv"):
        cut = tmp_path / f"cut.{suffix}"
        with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            packets = [packet for packet in source.demux(video=0) if packet.pts is not None][12:]
            start = packets[0].dts
            for packet in packets:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, stream
                target.mux(packet)
        video = VideoSource(path=cut)
        # 12 to 19 refer to the keyframe 0, which is gone.
        assert [clips.number(video.frame(index)) for index in (0, 39, 5, 25)] == [20, 59, 25, 45]
        assert video.n_frames == 40
        assert video.times[:2] == pytest.approx((0, 0.04), abs=1e-3)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("png", "rgba"), ("qtrle", "argb"), ("ffv1", "bgra")])
def test_transparent_parts_of_a_film_are_white(tmp_path, codec, pix_fmt):
    av = pytest.importorskip("av")
    path = tmp_path / ("film.mkv" if codec == "ffv1" else "film.mov")
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[:, 32:] = 200, 0, 0, 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    frame = VideoSource(path=path).frame(1)
    assert (frame.getpixel((5, 5)), frame.getpixel((50, 5))) == ((255, 255, 255), (200, 0, 0))


def test_a_header_that_says_billions_of_frames_is_kept_from_decord(tmp_path, films):
    """decord would make room for all of them, and end the process."""
    path = clips.write(tmp_path / "film.mp4", 12, options={**clips.X264, "g": "5"})
    plain = video_index(file_key(path)).decoder
    data = bytearray(path.read_bytes())
    place = data.index(b"stts") + 12  # how many frames are as long as the first
    data[place : place + 2] = b"\xff\xff"
    path.write_bytes(data)
    assert (plain, video_index(file_key(path)).decoder) == ("decord", "pyav")
    assert [clips.number(VideoSource(path=path).frame(index)) for index in (0, 11)] == [0, 11]
