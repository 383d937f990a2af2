"""Tables with tabs, whose images stay in the file."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pxr_env.datasets.fields import RowError, TableRow
from pxr_env.datasets.readers import check_columns
from pxr_env.errors import DataError

#: The longest row of a TSV file, in bytes: an image of 8K is about 20 MB as base64.
LONGEST_ROW = 256 * 1024 * 1024
#: Lines that a quoted field may go over.
MOST_LINES = 1000
#: A shorter value in a column of images is no image but the name of one.
SHORTEST_IMAGE = 64


class TSVTable:
    """A table with tabs, whose rows are mappings of text; the value of column `placed` stays in the file.

    Fields that begin with a quotation mark may hold tabs, newlines and doubled quotation marks, as spreadsheets and
    pandas write them. Of column `placed` a row has a tuple: offset and length in bytes, the text if it is short, and a
    digest of the text.

    Args:
        path: the file.
        required: columns that it must have.
        placed: the column that is not read.
    """

    def __init__(self, path: Path, required: Sequence[str], placed: str) -> None:
        self.path, self._required, self._placed = path, required, placed

    def rows(self) -> Iterator[TableRow]:
        """Yields the rows, with the line each begins in.

        Raises:
            DataError: the file cannot be read, or lacks a required column.
        """
        try:
            with open(self.path, "rb") as file:
                header, record = _split(file.readline(LONGEST_ROW).removeprefix(codecs.BOM_UTF8), file)
                columns = [name.decode("utf-8", "replace") for name, _, _ in header]
                check_columns(self.path, self._required, columns)
                number = 1
                while record:
                    number += record.count(b"\n")
                    offset = file.tell()
                    values, record = _split(file.readline(LONGEST_ROW), file)
                    if record.strip():
                        yield TableRow(_row(columns, values, offset, self._placed), f"line {number}", offset)
        except OSError as error:
            raise DataError(
                f'"{self.path}" cannot be read ({error.strerror}); expected a table. Check the path.'
            ) from error

    def value(self, key: int, column: str) -> Any:
        """The value of a column in the row that begins at byte `key`."""
        with open(self.path, "rb") as file:
            columns, _ = _split(file.readline(LONGEST_ROW).removeprefix(codecs.BOM_UTF8), file)
            file.seek(key)
            values, _ = _split(file.readline(LONGEST_ROW), file)
        return values[[name for name, *_ in columns].index(column.encode())][0].decode()


def _row(columns: Sequence[str], values: list[tuple[bytes, int, int]], offset: int, placed: str) -> object:
    if len(values) != len(columns):
        return RowError(f"it has {len(values)} columns; expected {len(columns)}, separated by tabs")
    row: dict[str, Any] = {}
    for name, (value, start, length) in zip(columns, values, strict=True):
        if name == placed:
            short = value.decode("utf-8", "replace") if length < SHORTEST_IMAGE else ""
            row[name] = (offset + start, length, short, hashlib.blake2b(value, digest_size=16).digest())
            continue
        try:
            row[name] = value.decode("utf-8")
        except UnicodeDecodeError as error:
            return RowError(f"{name} is no UTF-8 ({error.reason}); expected text")
    return row


def _split(line: bytes, file: BinaryIO) -> tuple[list[tuple[bytes, int, int]], bytes]:
    """The fields of a line: value, start in the line, length as written; and the line, with what had to be read on
    where a quoted field goes on."""
    fields = []
    start = 0
    while True:
        if line[start : start + 1] == b'"':
            closing, line = _closing_quote(line, start + 1, file)
            value = line[start + 1 : closing].replace(b'""', b'"')
            fields.append((value, start + 1, closing - start - 1))
            end = line.find(b"\t", closing)
        else:
            end = line.find(b"\t", start)
            value = line[start : end if end >= 0 else len(line)]
            if end < 0:
                value = value.rstrip(b"\r\n")
            fields.append((value, start, len(value)))
        if end < 0:
            return fields, line
        start = end + 1


def _closing_quote(line: bytes, start: int, file: BinaryIO) -> tuple[int, bytes]:
    """Where a quoted field ends, and the line with what had to be read on; the end of it all if nothing closes it."""
    position = start
    n_lines = 1
    while True:
        position = line.find(b'"', position)
        if position < 0:
            position = len(line)
            more = file.readline(LONGEST_ROW) if len(line) < LONGEST_ROW and n_lines < MOST_LINES else b""
            if not more:
                return position, line
            line += more
            n_lines += 1
        elif line[position + 1 : position + 2] == b'"':
            position += 2
        else:
            return position, line
