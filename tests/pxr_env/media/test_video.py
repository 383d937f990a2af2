"""Videos of every origin: frames, times, clips, and what is refused."""

from __future__ import annotations

import itertools
import math
import pickle
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.media import VideoSource, uniform_frames
from pxr_env.media.images import decoded_cache
from pxr_env.media.video import natural_order
from tests.pxr_env.media import clips

PAGE = Path(__file__).parents[3] / "docs" / "video.md"


def save_frames(folder: Path, names: list[str]) -> list[Path]:
    """Saves frames with the numbers 0, 1, ... under names in that order."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(clips.picture(number)).save(folder / name)
    return [folder / name for name in names]


def rendered(n_frames: int = 50, fps: float = 10.0, key: str = "counting", **options) -> VideoSource:
    return VideoSource(
        key=(key, n_frames), load_frame=clips.picture, n_frames=n_frames, fps=fps, size=clips.SIZE, **options
    )


class TestFrames:
    """Folders and lists of images."""

    NAMES = ("frame_1.png", "frame_2.PNG", "frame_9.jpg", "frame_10.webp", "frame_100.bmp")

    def test_a_folder_in_natural_order(self, tmp_path):
        folder = tmp_path / "film"
        save_frames(folder, list(self.NAMES))
        (folder / "notes.txt").write_text("no frame")
        (folder / "._frame_3.png").write_bytes(b"what other systems leave behind")
        (folder / "frame_3.png").mkdir()
        video = VideoSource(path=folder)
        assert [clips.number(video.frame(index)) for index in range(video.n_frames)] == [0, 1, 2, 3, 4]
        assert video.times == (0.0, 1.0, 2.0, 3.0, 4.0)
        assert (video.size, video.duration) == (clips.SIZE, 5.0)
        faster = VideoSource(path=folder, fps=4)
        assert (faster.times, faster.duration) == ((0.0, 0.25, 0.5, 0.75, 1.0), 1.25)

    def test_a_folder_without_frames(self, tmp_path):
        (tmp_path / "notes.txt").write_text("no frame")
        with pytest.raises(MediaError, match=r'folder of frames ".*" holds no image; expected files that end in .bmp'):
            VideoSource(path=tmp_path).frame(0)

    @given(st.lists(st.integers(0, 10**30), unique=True, max_size=6), st.integers(0, 3))
    def test_numbers_are_ordered_by_their_value(self, numbers, zeros):
        names = [f"frame_{'0' * (number % (zeros + 1))}{number}.png" for number in numbers]
        in_order = [int(re.findall(r"\d+", name)[0]) for name in sorted(names, key=natural_order)]
        assert in_order == sorted(numbers)

    @given(st.lists(st.text("0189a_.٣", max_size=6), unique=True))
    def test_any_names_have_one_order(self, names):
        backwards = names[::-1]
        assert sorted(names, key=natural_order) == sorted(backwards, key=natural_order)

    def test_several_numbers_in_a_name(self):
        names = ["a1_b2.png", "a1_b10.png", "a2_b1.png", "a10_b1.png", "b.png"]
        backwards = names[::-1]
        assert sorted(backwards, key=natural_order) == names

    def test_a_list_keeps_its_order_and_links_are_followed(self, tmp_path):
        paths = save_frames(tmp_path / "film", ["0.png", "1.png", "2.png"])
        link = tmp_path / "link.png"
        link.symlink_to(paths[2])
        video = VideoSource(frames=[str(paths[2]), paths[0], link], fps=2)
        assert [clips.number(video.frame(index)) for index in range(3)] == [2, 0, 2]
        assert video.times == (0.0, 0.5, 1.0)
        assert VideoSource(frames=paths).times == (0.0, 1.0, 2.0)

    def test_a_frame_that_is_missing_or_of_another_size_is_named(self, tmp_path):
        paths = save_frames(tmp_path / "film", ["0.png", "1.png"])
        with pytest.raises(MediaError, match=r'frame 1, ".*gone.png", is no file'):
            VideoSource(frames=[paths[0], tmp_path / "gone.png"])
        video = VideoSource(frames=paths)
        Image.new("RGB", (30, 20)).save(paths[1])
        with pytest.raises(MediaError, match=r'frame 1, file ".*1.png", is 30x20 and the first frame 150x70; expected'):
            video.frame(1)
        paths[1].unlink()
        with pytest.raises(MediaError, match=r'file ".*1.png" cannot be opened'):
            video.frame(1)


class TestRendered:
    def test_frames_are_drawn_when_needed_and_kept(self):
        drawn = []

        def draw(index: int) -> np.ndarray:
            drawn.append(index)
            return clips.picture(index)

        decoded_cache.clear()
        video, again = (
            VideoSource(key="drawn when needed", load_frame=draw, n_frames=1000, fps=25, size=clips.SIZE)
            for _ in range(2)
        )
        assert (video.n_frames, video.size, video.duration) == (1000, clips.SIZE, 40.0)
        assert drawn == []
        assert [clips.number(source.frame(index)) for source in (video, again) for index in (999, 3)] == [999, 3] * 2
        assert drawn == [999, 3]

    def test_another_size_than_declared(self):
        video = VideoSource(key="small", load_frame=clips.picture, n_frames=2, fps=1, size=(64, 64))
        with pytest.raises(MediaError, match=r"frame 1 of the video 'small' was made as 150x70; expected 64x64"):
            video.frame(1)

    def test_it_travels_with_its_function(self):
        video = pickle.loads(pickle.dumps(rendered(start=1.0)))
        assert clips.number(video.frame(0)) == 10


class TestTimes:
    def test_of_a_file_with_a_variable_rate(self, tmp_path):
        pytest.importorskip("av")
        # In milliseconds; the file begins at 0.5 s.
        pts = [500, 530, 700, 710, 1500, 2500]
        path = clips.write(tmp_path / "film.mp4", 6, pts=pts.__getitem__)
        video = VideoSource(path=path)
        assert video.times == (0.0, 0.03, 0.2, 0.21, 1.0, 2.0)  # exactly: one rounding
        assert all(type(time) is float for time in video.times)
        assert video.frames_between(0.03, 0.21) == range(1, 3)
        assert video.frames_between(0.0301, 0.2101) == range(2, 4)
        assert video.frames_between(-5, math.inf) == range(6)
        assert len(video.frames_between(1.1, 1.9)) == 0
        assert len(video.frames_between(2, 1)) == 0
        assert len(video.frames_between(7, 9)) == 0

    @given(st.floats(-1, 6), st.floats(-1, 6))
    def test_frames_between_two_times(self, start, end):
        video = rendered()
        expected = [index for index in range(50) if start <= index / 10 < end]
        assert list(video.frames_between(start, end)) == expected
        with pytest.raises(ValueError, match="got the times nan and 1, expected seconds"):
            video.frames_between(math.nan, 1)


class TestClips:
    @pytest.mark.parametrize(
        ("span", "first", "n_frames", "duration"),
        [
            # Frames at 0.0, 0.1, ...: the first at or after 1.234 s is frame 13, the last before 2.05 s is frame 20.
            ({"start": 1.234, "end": 2.05}, 13, 8, 0.75),  # from 1.3 s to 2.05 s
            # The start belongs to it and the end does not.
            ({"start": 1.0, "end": 2.0}, 10, 10, 1.0),
            ({"start": 4.5}, 45, 5, 0.5),
            ({"end": 0.5}, 0, 5, 0.5),
            # An end past the video is its end: annotations are rounded up.
            ({"start": 4.5, "end": 99}, 45, 5, 0.5),
        ],
    )
    def test_numbers_and_times_begin_anew(self, span, first, n_frames, duration):
        video = rendered(**span)
        assert (video.n_frames, video.duration) == (n_frames, duration)
        assert [clips.number(video.frame(index)) for index in (0, n_frames - 1)] == [first, first + n_frames - 1]
        assert video.times == tuple(index / 10 for index in range(n_frames))
        assert video.frames_between(0.2, 0.5) == range(2, 5)
        for index in (n_frames, -1, 49):
            with pytest.raises(IndexError, match=rf"frame {index} of VideoSource\(.*\), expected 0 to {n_frames - 1}"):
                video.frame(index)

    def test_of_a_file_and_of_a_list(self, tmp_path):
        paths = save_frames(tmp_path / "film", ["0.png", "1.png", "2.png", "3.png"])
        video = VideoSource(frames=paths, start=1.5, end=3)
        assert (video.n_frames, clips.number(video.frame(0)), video.times) == (1, 2, (0.0,))
        pytest.importorskip("av")
        video = VideoSource(path=clips.write(tmp_path / "film.mp4", 50), start=0.5, end=1.01)
        assert [clips.number(video.frame(index)) for index in (12, 0)] == [25, 13]
        assert (video.n_frames, video.times[:3]) == (13, (0.0, 0.04, 0.08))

    @given(st.integers(1, 60), st.fractions(0, 7), st.fractions(Fraction(1, 10), 7))
    def test_any_clip_has_the_frames_of_its_seconds(self, n_frames, start, length):
        start, end = float(start), float(start + length)
        expected = [index for index in range(n_frames) if start <= index / 8 < end]
        video = rendered(n_frames, fps=8.0, start=start, end=end)
        if not expected:
            with pytest.raises(MediaError, match="Expected"):
                video.frame(0)
            return
        assert video.n_frames == len(expected)
        assert clips.number(video.frame(0)) == expected[0]
        assert video.times == tuple((index - expected[0]) / 8 for index in expected)

    @pytest.mark.parametrize(
        ("span", "message"),
        [
            ({"start": 5.0}, "starts after the end of the video at 5.000 s. Expected a start before"),
            ({"start": 1.01, "end": 1.09}, "=1.01, end=1.09) has no frame; the nearest are at 1.000 s and 1.1"),
            ({"start": 4.95}, "has no frame; the nearest are at 4.900 s. Expected"),
        ],
    )
    def test_without_frames(self, span, message):
        with pytest.raises(MediaError, match=re.escape(message)):
            rendered(**span).frame(0)


class TestArguments:
    @pytest.mark.parametrize(
        ("span", "message"),
        [
            ({"start": math.nan}, "got start=nan, expected seconds"),
            ({"start": -0.1}, "got start=-0.1"),
            ({"end": math.inf}, "got end=inf"),
            ({"end": 0}, "got start=None and end=0, expected start < end"),
            ({"start": 2, "end": 2}, "got start=2 and end=2"),
            ({"start": 3.0, "end": 2.0}, "got start=3.0 and end=2.0"),
        ],
    )
    def test_spans_that_are_none(self, span, message):
        with pytest.raises(MediaError, match=re.escape(message)):
            rendered(**span)

    def test_rates_and_frames_that_are_none(self, tmp_path):
        for fps in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(MediaError, match=r"got fps=.*, expected frames per second"):
                VideoSource(path=tmp_path, fps=fps)
        path = tmp_path / "film.mp4"
        path.write_bytes(b"any")
        with pytest.raises(TypeError, match=r'got fps=5 with the video file ".*film.mp4"'):
            VideoSource(path=path, fps=5)
        with pytest.raises(MediaError, match="got a video of no frames"):
            VideoSource(frames=[])
        with pytest.raises(MediaError, match="n_frames=0 and size="):
            rendered(0)
        with pytest.raises(TypeError, match="Pass a folder as path="):
            VideoSource(frames=str(tmp_path))

    def test_exactly_one_origin(self, tmp_path):
        for arguments in (
            {},
            {"path": tmp_path, "frames": [tmp_path]},
            {"load_frame": clips.picture},
            {"load_frame": clips.picture, "key": 1, "n_frames": 3, "size": (1, 1)},
            {"path": tmp_path, "n_frames": 3},
        ):
            with pytest.raises(TypeError, match="VideoSource expected exactly one of"):
                VideoSource(**arguments)

    def test_repr_names_the_origin(self, tmp_path):
        assert repr(VideoSource(path=tmp_path, start=1, end=2.5)) == f"VideoSource(path='{tmp_path}', start=1, end=2.5)"
        (path,) = save_frames(tmp_path / "film", ["0.png"])
        assert repr(VideoSource(frames=[path, path])) == f"VideoSource(frames=2 from '{path}')"
        assert repr(rendered()) == "VideoSource(key=('counting', 50))"


class TestUniformFrames:
    @pytest.mark.parametrize(
        ("n_frames", "count", "expected"),
        [
            (10, 1, [5]),  # centre 5.0
            (10, 2, [2, 7]),  # 2.5, 7.5
            (10, 3, [1, 5, 8]),  # 1.67, 5.0, 8.33
            (9, 3, [1, 4, 7]),
            (16, 16, list(range(16))),
            (3, 16, [0, 1, 2]),
            (0, 4, []),
            (17, 16, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16]),
        ],
    )
    def test_by_hand(self, n_frames, count, expected):
        assert uniform_frames(n_frames, count) == expected

    @given(st.integers(0, 10**7), st.integers(1, 300))
    def test_any(self, n_frames, count):
        chosen = uniform_frames(n_frames, count)
        assert len(chosen) == min(n_frames, count)
        assert all(first < second for first, second in itertools.pairwise(chosen))
        if n_frames > count:
            part = Fraction(n_frames, count)
            assert chosen == [math.floor((number + Fraction(1, 2)) * part) for number in range(count)]
            # As much before the first as behind the last, to within a frame.
            assert abs(chosen[0] - (n_frames - 1 - chosen[-1])) <= 1

    def test_refused(self):
        for n_frames, count in ((-1, 2), (5, 0)):
            with pytest.raises(ValueError, match=f"got n_frames={n_frames} and count={count}"):
                uniform_frames(n_frames, count)


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    clips.write(tmp_path / "film.mp4", 250)
    save_frames(tmp_path / "frames", [f"frame_{number}.png" for number in range(12)])
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(block, names)
