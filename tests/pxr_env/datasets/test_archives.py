"""Archives: good ones arrive whole, hostile ones write nothing."""

import argparse
import contextlib
import os
import stat
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.datasets.archives import Unpacked, add_arguments, run, unpack
from pxr_env.errors import DataError


def member(name, kind=0, flags=0):
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o644) << 16
    info.flag_bits = flags
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def pack(path, members):
    """Writes (name or ZipInfo, bytes) pairs as they are, also what zipfile itself would warn about."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def files_below(directory):
    return {
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in os.walk(directory)
        for name in names
    }


def test_a_good_archive_arrives_whole_and_can_be_unpacked_again(tmp_path):
    archive = pack(tmp_path / "images.zip", [("images/", b""), ("images/a.png", b"a" * 3000), ("b/c/d.jpg", b"\0\1")])
    target = tmp_path / "new" / "data"
    assert unpack(archive, target) == Unpacked(n_written=2, n_unchanged=0, n_bytes=3002)
    assert (target / "images" / "a.png").read_bytes() == b"a" * 3000
    assert (target / "b" / "c" / "d.jpg").read_bytes() == b"\0\1"
    assert not os.access(target / "b" / "c" / "d.jpg", os.X_OK)
    (target / "b" / "c" / "d.jpg").unlink()
    assert unpack(archive, target) == Unpacked(n_written=1, n_unchanged=1, n_bytes=2)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../out.png", b"x")], r'name of member "\.\./out\.png" leaves the directory'),
        ([("a/../../out.png", b"x")], "leaves the directory"),
        ([("/out.png", b"x")], "is absolute"),
        ([("C:/out.png", b"x")], "is absolute"),
        ([("..\\out.png", b"x")], "has a backslash"),
        ([(member("link", stat.S_IFLNK), b"/etc/passwd")], 'symbolic link "link"'),
        ([(member("pipe", stat.S_IFIFO), b"")], 'special file "pipe"'),
        ([("a.png", b"x"), ("a.png", b"y")], 'member "a.png" twice'),
        ([("a.png", b"x"), ("./a.png", b"y")], "twice"),
        ([("a", b"x"), ("a/b", b"y")], 'member "a/b" inside another file'),
        ([("zeros", bytes(5_000_000))], r'member "zeros" compressed by \d+; expected at most 200'),
    ],
)
def test_hostile_members_are_refused_before_anything_is_written(tmp_path, members, message):
    archive = pack(tmp_path / "evil.zip", [("good.png", b"good"), *members])
    with pytest.raises(DataError, match=message):
        unpack(archive, tmp_path / "data")
    assert files_below(tmp_path) == {"evil.zip"}


def patch_central(path, offset, form, value, name=b"a.png"):
    """Changes a field of the central directory entry of a member."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(name))
    struct.pack_into(form, data, entry + offset, value)
    path.write_bytes(data)
    return path


def test_an_encrypted_member_is_refused(tmp_path):
    archive = patch_central(pack(tmp_path / "a.zip", [("a.png", b"x")]), 8, "<H", 1)
    with pytest.raises(DataError, match=r'encrypted member "a\.png"'):
        unpack(archive, tmp_path / "data")


def test_a_name_with_nul_is_refused(tmp_path):
    archive = pack(tmp_path / "a.zip", [("a.png?../x", b"x")])
    archive.write_bytes(archive.read_bytes().replace(b"a.png?", b"a.png\0"))
    with pytest.raises(DataError, match="has a control character"):
        unpack(archive, tmp_path / "data")


def test_entries_that_lie_about_their_size_leave_no_file(tmp_path):
    content = os.urandom(5000)
    for declared in (100, 9000):
        archive = patch_central(pack(tmp_path / "a.zip", [("a.png", content)]), 24, "<I", declared)
        with pytest.raises(DataError, match="cannot be unpacked"):
            unpack(archive, tmp_path / "data")
        assert files_below(tmp_path / "data") == set()


def test_members_that_share_their_bytes_are_refused(tmp_path):
    archive = pack(tmp_path / "a.zip", [("b.png", os.urandom(2000)), ("a.png", os.urandom(2000))])
    patch_central(archive, 42, "<I", 0)
    with pytest.raises(DataError, match="on top of another one"):
        unpack(archive, tmp_path / "data")


def test_counts_and_sizes_are_bounded(tmp_path, monkeypatch):
    archive = pack(tmp_path / "a.zip", [(f"{number}.png", os.urandom(100)) for number in range(5)])
    for limit, value, message in (("BYTES", 499, "more than 499 bytes"), ("FILES", 4, "5 members; expected at most 4")):
        monkeypatch.setattr(f"pxr_env.datasets.archives.MAX_{limit}", value)
        with pytest.raises(DataError, match=message):
            unpack(archive, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_files_that_differ_are_never_overwritten(tmp_path):
    archive = pack(tmp_path / "a.zip", [("a.png", b"new")])
    (tmp_path / "data").mkdir()
    for other in (b"old", b"longer"):
        (tmp_path / "data" / "a.png").write_bytes(other)
        with pytest.raises(DataError, match="is there already and differs"):
            unpack(archive, tmp_path / "data")
        assert (tmp_path / "data" / "a.png").read_bytes() == other


def test_links_on_the_disk_do_not_lead_files_away(tmp_path):
    archive = pack(tmp_path / "a.zip", [("images/a.png", b"x")])
    (tmp_path / "data").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "data" / "images").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="through a symbolic link"):
        unpack(archive, tmp_path / "data")
    (tmp_path / "data" / "images").unlink()
    (tmp_path / "data" / "images").mkdir()
    (tmp_path / "data" / "images" / "a.png").symlink_to(tmp_path / "outside" / "b.png")
    with pytest.raises(DataError, match="is there already"):
        unpack(archive, tmp_path / "data")
    assert files_below(tmp_path / "outside") == set()


@pytest.mark.parametrize("damage", ["cut", "no zip", "flipped", "missing"])
def test_damaged_archives_say_so(tmp_path, damage):
    archive = pack(tmp_path / "a.zip", [("a.png", os.urandom(4000))])
    data = archive.read_bytes()
    if damage == "cut":
        archive.write_bytes(data[:2000])
    elif damage == "no zip":
        archive.write_text("<html>not found</html>")
    elif damage == "flipped":
        archive.write_bytes(data[:1000] + bytes([data[1000] ^ 255]) + data[1001:])
    else:
        archive.unlink()
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "data")
    assert files_below(tmp_path) <= {"a.zip"}


@given(data=st.data())
def test_an_archive_with_changed_bytes_is_refused_or_arrives_as_it_was(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("changed")
    contents = {"a/b.png": b"first" * 20, "c.png": b"second"}
    archive = pack(folder / "a.zip", list(contents.items()))
    content = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    archive.write_bytes(content)
    with contextlib.suppress(DataError):
        unpack(archive, folder / "data")
    found = {(folder / "data" / name).read_bytes() for name in files_below(folder / "data")}
    assert found <= {*contents.values(), b""}
    assert {name.split("/")[0] for name in files_below(folder)} <= {"a.zip", "data"}


def test_the_command_unpacks(tmp_path, capsys):
    archive = pack(tmp_path / "a.zip", [("a.png", b"new")])
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([str(archive), str(tmp_path / "data")])
    assert run(args) == 0
    assert "1 files (3 bytes) written" in capsys.readouterr().out
    (tmp_path / "data" / "a.png").write_bytes(b"old")
    assert run(args) == 1
    assert "differs" in capsys.readouterr().err
