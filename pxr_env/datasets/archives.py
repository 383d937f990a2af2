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
from pathlib import Path
from typing import NamedTuple

from pxr_env.datasets.fields import printable
from pxr_env.datasets.media import UnsafePathError, check_name
from pxr_env.errors import DataError, quote

#: More members than the largest data sets have frames.
MAX_FILES = 5_000_000
#: Bytes of all members together, unpacked.
MAX_BYTES = 2 * 1024**4
#: Unpacked over packed size. Deflate reaches about 1000 on zeros; images and videos hardly reach 2.
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


class Unpacked(NamedTuple):
    """What `unpack` did: files written, files that were there already, bytes written."""

    n_written: int
    n_unchanged: int
    n_bytes: int


class _Refused(Exception):
    """What an archive has, and what was expected; nothing was written yet."""


#: Parts of the name -> member.
_Members = dict[tuple[str, ...], zipfile.ZipInfo]


def unpack(archive: str | Path, directory: str | Path) -> Unpacked:
    """Unpacks a zip file into a directory, which is made if it is not there.

    The whole list of members is checked before anything is written. Refused are members outside of the directory,
    symbolic links and other special files, encrypted, duplicate and overlapping members, too many, too large and too
    strongly compressed ones. Every file is written beside its place and then moved there, so that an interrupted run
    leaves no half file and can be repeated. A file that is there already stays if it is the same, and is an error if
    not: nothing is overwritten.

    Raises:
        DataError: the archive is refused, damaged, or does not fit on the disk; the member is named.
    """
    archive, directory = Path(archive), Path(directory)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _check(opened.infolist())
            directory.mkdir(parents=True, exist_ok=True)
            n_bytes, free = sum(info.file_size for info in members.values()), shutil.disk_usage(directory).free
            if n_bytes > free:
                raise DataError(
                    f'"{archive}" has {n_bytes} bytes when it is unpacked, and "{directory}" {free} free ones; '
                    "expected room for all. Choose another directory. Nothing was written."
                )
            return _write(archive, opened, members, directory)
    except _Refused as error:
        raise DataError(f'"{archive}" is refused: {error}. Nothing was written.') from error
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


def _check(infos: Sequence[zipfile.ZipInfo]) -> _Members:
    """The files of an archive; `_Refused` if one of its members is not trusted."""
    if len(infos) > MAX_FILES:
        raise _Refused(f"it has {len(infos)} members; expected at most {MAX_FILES}")
    members: _Members = {}
    n_bytes = 0
    for info in infos:
        try:
            # zipfile cuts `filename` at NUL; the name as it is written is in `orig_filename`.
            parts = check_name(info.orig_filename)
        except UnsafePathError as error:
            raise _Refused(f'the name of member "{_name(info)}" {error}') from error
        _check_member(info)
        if info.is_dir():
            continue
        if parts in members:
            raise _Refused(f'it has the member "{_name(info)}" twice; expected every name once')
        members[parts] = info
        n_bytes += info.file_size
        if n_bytes > MAX_BYTES:
            raise _Refused(f"it has more than {MAX_BYTES} bytes when it is unpacked; expected less")
    for parts, info in members.items():
        if any(parts[:length] in members for length in range(1, len(parts))):
            raise _Refused(f'it has the member "{_name(info)}" inside another file; expected folders there')
    # Members that share their packed bytes make a small file endless.
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise _Refused(f'it has the member "{_name(info)}" on top of another one; expected one after another')
        end = info.header_offset + _LOCAL_HEADER + info.compress_size
    return members


def _check_member(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "symbolic link" if kind == stat.S_IFLNK else "special file"
        raise _Refused(f'it has the {what} "{_name(info)}"; expected files and folders only')
    if info.flag_bits & 0x1:
        raise _Refused(f'it has the encrypted member "{_name(info)}"; expected members without a password')
    ratio = info.file_size / max(1, info.compress_size)
    if info.file_size > _SMALL and ratio > MAX_RATIO:
        raise _Refused(f'it has the member "{_name(info)}" compressed by {ratio:.0f}; expected at most {MAX_RATIO}')


def _write(archive: Path, opened: zipfile.ZipFile, members: _Members, directory: Path) -> Unpacked:
    root = os.path.realpath(directory)
    n_written = n_unchanged = n_bytes = 0
    checked: set[str] = set()
    for (*folders, last), info in members.items():
        folder = os.path.join(root, *folders)
        if folder not in checked:
            if os.path.commonpath([root, os.path.realpath(folder)]) != root:
                raise DataError(
                    f'"{folder}" leads out of "{root}" through a symbolic link; expected a folder inside. Remove the '
                    f'link, then unpack "{archive}" again.'
                )
            os.makedirs(folder, exist_ok=True)
            checked.add(folder)
        path = os.path.join(folder, last)
        if not os.path.lexists(path):
            _write_file(opened, info, path)
            n_written, n_bytes = n_written + 1, n_bytes + info.file_size
        elif _is_same(path, info):
            n_unchanged += 1
        else:
            raise DataError(
                f'"{path}" is there already and differs from "{_name(info)}" of "{archive}"; expected an empty place '
                "or the same file. Move it away, or choose another directory."
            )
    return Unpacked(n_written, n_unchanged, n_bytes)


def _is_same(path: str, info: zipfile.ZipInfo) -> bool:
    if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) != info.file_size:
        return False
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == info.CRC


def _write_file(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> None:
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


def _name(info: zipfile.ZipInfo) -> str:
    return quote(printable(info.orig_filename))


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
