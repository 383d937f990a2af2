"""The only way from a name in a data file to a file on the disk."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from pxr_env.errors import DataError, quote

_DRIVE = re.compile(r"[A-Za-z]:")
# NUL ends names in the operating system; the others hide what a message or a terminal shows.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UnsafePathError(ValueError):
    """A name from a data file leads, or may lead, out of the data's directory."""


def check_name(name: str) -> tuple[str, ...]:
    """Returns the parts of a relative path with forward slashes.

    Raises:
        UnsafePathError: it is empty, absolute, has a drive letter, a backslash, a control character or a part "..".
    """
    if _CONTROL.search(name):
        raise UnsafePathError("has a control character; expected a plain relative path")
    if "\\" in name:
        raise UnsafePathError('has a backslash; expected a relative path with "/" between its parts')
    if name.startswith("/") or _DRIVE.match(name):
        raise UnsafePathError("is absolute and leaves the directory; expected a path relative to it")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise UnsafePathError('leaves the directory; expected a relative path without ".."')
    if not parts:
        raise UnsafePathError("names no file; expected a relative path")
    return parts


class DataDirectory:
    """The directory of a data set; finds files in it by the names its rows give.

    A name is taken only if it stays inside: `check_name`, and no symbolic link on the way may lead out of the
    directory. The directory itself may be reached through a link.

    Args:
        path: an existing directory.

    Raises:
        DataError: it is no directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise DataError(
                f'got data="{quote(str(path))}", which is no directory; expected one with the data files and their '
                "images or videos. Check the path, or unpack the data there."
            )
        #: Its absolute path without symbolic links.
        self.root = os.path.realpath(self.path)
        # Rows share few folders, and resolving one takes a system call for every part of its path.
        self._inside: dict[str, bool] = {}

    def find(self, name: str) -> str | None:
        """Returns the path of the file or folder of that name, or None if there is none.

        Raises:
            UnsafePathError: the name leaves the directory, or a symbolic link does.
        """
        *folders, last = check_name(name)
        folder = os.path.join(self.root, *folders)
        path = os.path.join(folder, last)
        try:
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
        except (OSError, ValueError):
            return None
        if folder not in self._inside:
            self._inside[folder] = self._is_inside(os.path.realpath(folder))
        if not self._inside[folder] or (is_link and not self._is_inside(os.path.realpath(path))):
            raise UnsafePathError(
                "leaves the directory through a symbolic link; expected files inside it. Copy them there"
            )
        return path if not is_link or os.path.exists(path) else None

    def _is_inside(self, path: str) -> bool:
        return os.path.commonpath([self.root, path]) == self.root
