"""Names in data files never lead out of the data's directory."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.datasets.media import DataDirectory, UnsafePathError, check_name
from pxr_env.errors import DataError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "is absolute"),
        ("//host/share", "is absolute"),
        ("C:/x.png", "is absolute"),
        ("c:x.png", "is absolute"),
        ("../x.png", "leaves the directory"),
        ("a/../../x.png", "leaves the directory"),
        ("a/..", "leaves the directory"),
        ("a\\b.png", "has a backslash"),
        ("..\\x.png", "has a backslash"),
        ("a\0.png", "has a control character"),
        ("a\n.png", "has a control character"),
        ("a\u202egnp.exe", "has a control character"),
        ("a\ud800", "has a control character"),
        ("", "names no file"),
        (".", "names no file"),
        ("./", "names no file"),
    ],
)
def test_unsafe_names_are_refused_with_the_reason(name, message):
    with pytest.raises(UnsafePathError, match=message):
        check_name(name)


def test_plain_names_are_split():
    assert check_name("a/b c/d..e.png") == ("a", "b c", "d..e.png")
    assert check_name("./a//b") == ("a", "b")


@given(st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "link", "\0", "C:", "~", " "]) | st.text(max_size=3)))
def test_whatever_is_accepted_stays_inside(parts):
    name = "/".join(parts)
    try:
        kept = check_name(name)
    except UnsafePathError:
        return
    assert os.path.normpath(os.path.join("/data", *kept)).startswith("/data/")


def test_files_are_found_inside_only(tmp_path):
    inside, outside = tmp_path / "data", tmp_path / "secret"
    (inside / "real").mkdir(parents=True)
    outside.mkdir()
    for path in (inside / "real" / "a.png", outside / "s.png"):
        path.touch()
    (inside / "out").symlink_to(outside)
    (inside / "out.png").symlink_to(outside / "s.png")
    (inside / "in").symlink_to(inside / "real")
    (inside / "in.png").symlink_to("real/a.png")
    (inside / "broken.png").symlink_to("nowhere.png")
    (inside / "loop").symlink_to("loop")
    directory = DataDirectory(inside)
    for name in ("real/a.png", "in/a.png", "in.png", "real"):
        assert directory.find(name) == os.path.join(os.path.realpath(inside), name)
    for name in ("no.png", "real/no.png", "broken.png", "loop", "real/a.png/b", "x" * 5000):
        assert directory.find(name) is None
    for name in ("out.png", "out/s.png", "out"):
        with pytest.raises(UnsafePathError, match="through a symbolic link"):
            directory.find(name)


def test_the_directory_itself_may_be_a_link(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").touch()
    (tmp_path / "link").symlink_to("data")
    assert DataDirectory(tmp_path / "link").find("a.png") is not None


def test_what_is_no_directory_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no directory; expected one with the data files"):
        DataDirectory(tmp_path / "nowhere")
