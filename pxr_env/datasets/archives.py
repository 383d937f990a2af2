"""Unpacking the zip files that data sets come in, without trusting them."""

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import stat
import struct
import sys
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pxr_env.datasets.fields import printable
from pxr_env.datasets.media import UnsafePathError, check_name
from pxr_env.errors import DataError, quote

#: More members than the largest data sets have frames.
MAX_FILES = 5_000_000
#: Bytes of all members together, unpacked.
MAX_BYTES = 2 * 1024**4
#: Deflate reaches about 1000 on zeros; images and videos hardly reach 2.
MAX_RATIO = 200
#: Smaller members may have any ratio.
_SMALL = 1024 * 1024
_CHUNK = 1024 * 1024
_LOCAL_HEADER = 30
#: What zipfile and its decompressors raise on bytes that are no zip file.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, NotImplementedError, RuntimeError, ValueError),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """What `unpack` did: files written, files that were there already, bytes written."""

    n_written: int
    n_unchanged: int
    n_bytes: int


#: Parts of the name -> member.
_Members = dict[tuple[str, ...], zipfile.ZipInfo]


def unpack(
    archive: str | Path,
    directory: str | Path,
    *,
    max_files: int = MAX_FILES,
    max_bytes: int = MAX_BYTES,
    max_ratio: float = MAX_RATIO,
) -> Unpacked:
    """Unpacks a zip file into a directory, which is made if it is not there.

    The whole list of members is checked before anything is written. Refused are members outside of the directory,
    symbolic links and other special files, encrypted, duplicate and overlapping members, too many, too large and too
    strongly compressed ones. Every file is written beside its place and then moved there, so that an interrupted run
    leaves no half file and can be repeated. A file that is there already stays if it is the same, and is an error if
    not: nothing is overwritten.

    Args:
        archive: the zip file.
        directory: where its members go.
        max_files: members at most.
        max_bytes: bytes of all members together, unpacked, at most.
        max_ratio: unpacked size over packed size of a member above 1 MiB, at most.

    Raises:
        DataError: the archive is refused, damaged, or does not fit on the disk; the member is named.
    """
    archive, directory = Path(archive), Path(directory)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _check(archive, opened.infolist(), max_files, max_bytes, max_ratio)
            directory.mkdir(parents=True, exist_ok=True)
            _check_space(archive, directory, sum(info.file_size for info in members.values()))
            return _write(archive, opened, members, directory)
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(
            f'"{archive}" cannot be unpacked ({quote(str(error))}); expected a complete zip file. Download it again.'
        ) from error
    except OSError as error:
        raise DataError(
            f'"{archive}" cannot be unpacked into "{directory}" ({error.strerror or error}). Check paths and '
            "permissions."
        ) from error


def _check(
    archive: Path, infos: Sequence[zipfile.ZipInfo], max_files: int, max_bytes: int, max_ratio: float
) -> _Members:
    """The files of an archive; DataError for what is refused."""
    if len(infos) > max_files:
        raise _refused(archive, f"has {len(infos)} members", f"at most {max_files}")
    members: _Members = {}
    n_bytes = 0
    for info in infos:
        try:
            # zipfile cuts `filename` at NUL; the name as it is written is in `orig_filename`.
            parts = check_name(info.orig_filename)
        except UnsafePathError as error:
            raise DataError(
                f'"{archive}" is refused: the name of member "{_name(info)}" {error}. Nothing was written.'
            ) from error
        _check_member(archive, info, max_ratio)
        if info.is_dir():
            continue
        if parts in members:
            raise _refused(archive, f'has the member "{_name(info)}" twice', "every name once")
        members[parts] = info
        n_bytes += info.file_size
        if n_bytes > max_bytes:
            raise _refused(archive, f"has more than {max_bytes} bytes when it is unpacked", "less")
    for parts, info in members.items():
        if any(parts[:length] in members for length in range(1, len(parts))):
            raise _refused(archive, f'has the member "{_name(info)}" inside another file', "folders there")
    # Members that share their packed bytes make a small file endless.
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            place = f'has the member "{_name(info)}" on top of another one'
            raise _refused(archive, place, "members one after another")
        end = info.header_offset + _LOCAL_HEADER + info.compress_size
    return members


def _check_member(archive: Path, info: zipfile.ZipInfo, max_ratio: float) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "symbolic link" if kind == stat.S_IFLNK else "special file"
        raise _refused(archive, f'has the {what} "{_name(info)}"', "files and folders only")
    if info.flag_bits & 0x1:
        raise _refused(archive, f'has the encrypted member "{_name(info)}"', "members without a password")
    if info.file_size > _SMALL and info.file_size > max_ratio * max(1, info.compress_size):
        ratio = info.file_size // max(1, info.compress_size)
        raise _refused(archive, f'has the member "{_name(info)}" compressed by {ratio}', f"at most {max_ratio:g}")


def _check_space(archive: Path, directory: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if n_bytes > free:
        raise DataError(
            f'"{archive}" has {n_bytes} bytes when it is unpacked, and "{directory}" {free} free ones; expected room '
            "for all. Choose another directory. Nothing was written."
        )


def _write(archive: Path, opened: zipfile.ZipFile, members: _Members, directory: Path) -> Unpacked:
    root = os.path.realpath(directory)
    n_written = n_unchanged = n_bytes = 0
    checked: set[str] = set()
    for (*folders, last), info in members.items():
        folder = os.path.join(root, *folders)
        if folder not in checked:
            _make_folder(archive, root, folder)
            checked.add(folder)
        path = os.path.join(folder, last)
        if os.path.lexists(path):
            if not _is_same(path, info):
                raise DataError(
                    f'"{path}" is there already and differs from "{_name(info)}" of "{archive}"; expected an '
                    "empty place or the same file. Move it away, or choose another directory."
                )
            n_unchanged += 1
        else:
            n_bytes += _write_file(opened, info, path)
            n_written += 1
    return Unpacked(n_written=n_written, n_unchanged=n_unchanged, n_bytes=n_bytes)


def _make_folder(archive: Path, root: str, folder: str) -> None:
    real = os.path.realpath(folder)
    if os.path.commonpath([root, real]) != root:
        raise DataError(
            f'"{folder}" leads out of "{root}" through a symbolic link; expected a folder inside. Remove the link, '
            f'then unpack "{archive}" again.'
        )
    os.makedirs(folder, exist_ok=True)


def _is_same(path: str, info: zipfile.ZipInfo) -> bool:
    if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) != info.file_size:
        return False
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == info.CRC


def _write_file(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> int:
    n_bytes = 0
    temporary = os.path.join(os.path.dirname(path), f".unpack-{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as target, opened.open(info) as source:
            while chunk := source.read(_CHUNK):
                n_bytes += len(chunk)
                # The list is not to be trusted: what comes out is counted too.
                if n_bytes > info.file_size:
                    raise zipfile.BadZipFile(f'"{_name(info)}" is longer than its entry says')
                target.write(chunk)
        if n_bytes != info.file_size:
            raise zipfile.BadZipFile(f'"{_name(info)}" is shorter than its entry says')
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return n_bytes


def _name(info: zipfile.ZipInfo) -> str:
    return quote(printable(info.orig_filename))


def _refused(archive: Path, what: str, expected: str) -> DataError:
    return DataError(f'"{archive}" is refused: it {what}; expected {expected}. Nothing was written.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `python -m pxr_env unpack`."""
    parser.add_argument("archive", type=Path, help="a zip file, such as images.zip")
    parser.add_argument("directory", type=Path, help="where its files go; made if it is not there")


def run(args: argparse.Namespace) -> int:
    """Unpacks; returns 0, or 1 if the archive was refused."""
    try:
        done = unpack(args.archive, args.directory)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f'{done.n_written} files ({done.n_bytes} bytes) written to "{args.directory}", {done.n_unchanged} were there.'
    )
    return 0
