"""The lines of a file that grows: where they begin, and only what is new."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


class GrowingLines:
    """Finds the complete lines of a file that is appended to, and notices when it was written anew.

    Args:
        path: the file; it need not be there yet.

    Attributes:
        offsets: of every complete line that was read so far, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets: list[int] = []
        self._end = 0
        self._inode: int | None = None
        self._last = b""

    def is_rewritten(self) -> bool:
        """Whether what was read before does not stand there any more; then everything is read again."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            rewritten = self._end > 0
        else:
            rewritten = bool(self._end) and (
                status.st_size < self._end
                or status.st_ino != self._inode
                # A resumed training writes its file anew in place.
                or self.read(len(self.offsets) - 1) != self._last
            )
        if rewritten:
            self.offsets, self._end, self._inode, self._last = [], 0, None, b""
        return rewritten

    def new(self) -> Iterator[bytes]:
        """The complete lines that have come since the last call. A line without its end is left for later."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            self._inode = self._inode or self.path.stat().st_ino
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offsets.append(self._end)
                self._end += len(line)
                self._last = line
                yield line

    def read(self, index: int) -> bytes:
        """Line `index`, from the file."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            return file.readline()
