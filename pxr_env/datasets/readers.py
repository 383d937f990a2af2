"""Rows from JSON, JSON lines, TSV and parquet files, one after the other; and one of them again by its key."""

from __future__ import annotations

import bisect
import codecs
import contextlib
import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pxr_env.datasets.fields import NamedNumber, RowError, TableRow
from pxr_env.errors import DataError, did_you_mean, quote, show

#: The longest line of a JSON lines file, in bytes.
LONGEST_LINE = 16 * 1024 * 1024
#: The longest line of a TSV file, in bytes: an image of 8K is about 20 MB as base64.
LONGEST_ROW = 256 * 1024 * 1024
#: Lines that a row of a TSV file may go over.
MOST_LINES = 1000
#: The largest JSON file that is read as a whole, in bytes.
LARGEST_JSON = 4 * 1024**3
_BATCH = 64
_SPACE = re.compile(r"[ \t\r\n]*")
_NO_UTF8 = re.compile("[\ud800-\udfff]")


class Table(Protocol):
    """A data file. What it holds is read when it is needed, so that images in it need no memory."""

    path: Path

    def rows(self) -> Iterator[TableRow]:
        """Yields the rows, each with its place; raises DataError if the file cannot be read or lacks a column."""

    def value(self, key: int, column: str) -> Any:
        """The value of a column, in the row that has this key."""


def find_file(directory: Path, pattern: str, what: str) -> Path:
    """Returns the one file of a directory that matches a glob pattern; raises DataError for none, or several."""
    return only_file(directory, directory.glob(pattern), pattern, what)


def only_file(directory: Path, found: Iterable[Path], kind: str, what: str) -> Path:
    """Returns the one file of those that were found in a directory; raises DataError for none, or several."""
    files = sorted(path for path in found if path.is_file())
    if len(files) != 1:
        names = ", ".join(path.name for path in files[:5]) or "none"
        raise DataError(
            f'"{directory}" holds {len(files)} {kind} files ({names}); expected exactly one, {what}. '
            "Move the others, or check the path."
        )
    return files[0]


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file in UTF-8; raises DataError if it cannot be read, or is no JSON."""
    text = _read_text(path)
    try:
        return _DECODER.decode(text)
    except (RowError, ValueError, RecursionError) as error:
        raise _no_json_file(path, error) from error


class JSONList:
    """A JSON file that holds a list of rows, or an object that has the list in the field `under`.

    The key of a row is its number from 0.
    """

    def __init__(self, path: Path, under: str | None = None) -> None:
        self.path, self._under = path, under
        self._values: list[object] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_values": []}

    def rows(self) -> Iterator[TableRow]:
        text = _read_text(self.path)
        try:
            yield from self._elements(text, self._start(text))
        except DataError:
            raise
        except (RowError, ValueError, RecursionError) as error:
            raise _no_json_file(self.path, error) from error

    def value(self, key: int, column: str) -> Any:
        """The value of a field of row `key`. The file's rows stay in memory from then on."""
        if not self._values:
            self._values = [row.values for row in self.rows()]
        row = self._values[key] if key < len(self._values) else None
        return row.get(column) if isinstance(row, Mapping) else None

    def _start(self, text: str) -> int:
        """Where the first element may begin."""
        # The quotation marks of a name inside a text have a backslash before them.
        before = "" if self._under is None else rf'\{{.*?(?<!\\)"{self._under}"\s*:\s*'
        if found := re.match(rf"\s*{before}\[", text, re.DOTALL):
            return found.end()
        wanted = "a list of rows" if self._under is None else f'an object with the rows under "{self._under}"'
        raise DataError(f'"{self.path}" holds {show(_DECODER.decode(text))}; expected {wanted}. Check the format.')

    def _elements(self, text: str, position: int) -> Iterator[TableRow]:
        line, counted = 1, 0
        position = _skip(text, position)
        if text.startswith("]", position):
            return
        for number in itertools.count():
            line, counted = line + text.count("\n", counted, position), position
            try:
                value, position = _DECODER.raw_decode(text, position)
            except RowError as error:
                value, position = error, _PLAIN.raw_decode(text, position)[1]
            yield TableRow(value, f"row {number} (line {line})", number)
            position = _skip(text, position)
            if text.startswith("]", position):
                return
            if not text.startswith(",", position):
                raise json.JSONDecodeError("Expecting ','", text, position)
            position = _skip(text, position + 1)


class JSONLines:
    """A file with one JSON object per line. Lines end with a line feed; blank ones are passed over.

    The key of a row is the byte at which its line begins.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> Iterator[TableRow]:
        with _opened(self.path, "a JSON lines file") as file:
            for number in itertools.count(1):
                start, line = file.tell(), file.readline(LONGEST_LINE + 1)
                if not line:
                    return
                if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise DataError(f'"{self.path}" is UTF-16; expected UTF-8. Save it again with that encoding.')
                if len(line) > LONGEST_LINE:
                    while line and not line.endswith(b"\n"):
                        line = file.readline(LONGEST_LINE)
                    error = RowError(f"it is longer than {LONGEST_LINE} bytes; expected a short JSON object")
                    yield TableRow(error, f"line {number}", start)
                elif line.strip() and line.strip() != codecs.BOM_UTF8:
                    yield TableRow(_parse(line), f"line {number}", start)

    def value(self, key: int, column: str) -> Any:
        with open(self.path, "rb") as file:
            file.seek(key)
            row = _parse(file.readline(LONGEST_LINE + 1))
        return row.get(column) if isinstance(row, Mapping) else None


class TSVTable:
    """A table with tabs, whose rows are mappings of text, quoted as spreadsheets and pandas do it.

    The key of a row is the byte at which it begins.
    """

    def __init__(self, path: Path, required: Sequence[str]) -> None:
        self.path, self._required = path, required

    def rows(self) -> Iterator[TableRow]:
        with _opened(self.path, "a table") as file:
            columns, n_lines = _cells(file)
            _check_columns(self.path, self._required, columns)
            line = 1 + n_lines
            while True:
                key = file.tell()
                cells, n_lines = _cells(file)
                if not n_lines:
                    return
                if any(map(str.strip, cells)):
                    yield TableRow(_as_row(columns, cells), f"line {line}", key)
                line += n_lines

    def value(self, key: int, column: str) -> Any:
        with open(self.path, "rb") as file:
            columns, _ = _cells(file)
            file.seek(key)
            cells, _ = _cells(file)
        return dict(zip(columns, cells, strict=False)).get(column)


def _cells(file: BinaryIO) -> tuple[list[str], int]:
    """The cells of the next row, and the lines it takes: none at the end of the file.

    A quotation mark that nothing closes ends after `MOST_LINES`. What is no UTF-8 becomes surrogates.
    """
    first = file.readline(LONGEST_ROW)
    lines = itertools.chain([first], iter(lambda: file.readline(LONGEST_ROW), b""))
    texts = (line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape") for line in lines)
    if b'"' not in first:  # csv takes a second for an image of 20 MB
        return next(texts).rstrip("\r\n").split("\t"), bool(first)
    csv.field_size_limit(LONGEST_ROW)
    reader = csv.reader(itertools.islice(texts, MOST_LINES), delimiter="\t")
    try:
        return next(reader), reader.line_num
    except csv.Error as error:
        return [str(error)], reader.line_num


def _as_row(columns: Sequence[str], cells: Sequence[str]) -> object:
    if len(cells) != len(columns):
        return RowError(f"it has {len(cells)} columns; expected {len(columns)}, separated by tabs")
    row = dict(zip(columns, cells, strict=True))
    broken = [name for name, cell in row.items() if not cell.isascii() and _NO_UTF8.search(cell)]
    return RowError(f"{broken[0]} is no UTF-8; expected text") if broken else row


@contextlib.contextmanager
def _opened(path: Path, expected: str) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise DataError(f'"{path}" cannot be read ({error.strerror}); expected {expected}. Check the path.') from error


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= LARGEST_JSON else b""
    except OSError as error:
        raise DataError(
            f'"{path}" cannot be read ({error.strerror}); expected a JSON file. Download or convert it again.'
        ) from error
    if size > LARGEST_JSON:
        raise DataError(f'"{path}" has {size} bytes; expected at most {LARGEST_JSON}. Cut it into parts.')
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f'"{path}" cannot be read (line {line} is no UTF-8: {error.reason}); expected JSON in UTF-8. Download or '
            "convert it again."
        ) from error


def _no_json_file(path: Path, error: Exception) -> DataError:
    what = f"it is no JSON: {quote(str(error))}" if path.stat().st_size else "it is empty"
    return DataError(f'"{path}" cannot be read ({what}); expected a JSON file. Download or convert it again.')


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _parse(line: bytes) -> object:
    """The value of a line; a `RowError` that names the column if there is none."""
    try:
        return _DECODER.decode(line.rstrip(b"\r\n").decode("utf-8-sig"))
    except RowError as error:
        return error
    except UnicodeDecodeError as error:
        column = len(error.object[: error.start].decode("utf-8")) + 1
        return RowError(f"column {column} is no UTF-8 ({error.reason}); expected JSON in UTF-8")
    except json.JSONDecodeError as error:
        return RowError(f"column {error.colno} is no JSON ({quote(error.msg)}); expected one JSON object per line")
    except (ValueError, RecursionError) as error:
        return RowError(f"it is no JSON ({quote(str(error))}); expected one JSON object per line")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise RowError(f'the field "{quote(twice)}" comes twice; expected it once')
    return values


def _no_constant(name: str) -> None:
    raise RowError(f"it holds {name}; expected JSON, which has finite numbers only")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
#: Finds the end of what the other one refuses.
_PLAIN = json.JSONDecoder()


class ParquetTable:
    """The required columns of a parquet file, and those of the optional ones that it has.

    The key of a row is its number from 0. Raises ImportError without pyarrow.
    """

    def __init__(self, path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> None:
        self.path, self._required, self._optional = path, required, optional
        # The last group of rows that one was asked for of: their numbers, the column and its values.
        self._group: tuple[range, str, Any] = (range(0), "", None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_group": (range(0), "", None)}

    def rows(self) -> Iterator[TableRow]:
        pyarrow, parquet = _import_pyarrow(self.path)
        try:
            with parquet.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                _check_columns(self.path, self._required, names)
                columns = [name for name in (*self._required, *self._optional) if name in names]
                labels = label_names(_declared_features(file.schema_arrow.metadata))
                batches = file.iter_batches(batch_size=_BATCH, columns=columns)
                for number, row in enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches)):
                    yield TableRow(with_labels(row, labels), f"row {number}", number)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(
                f'"{self.path}" cannot be read ({quote(str(error))}); expected a parquet file. Download or convert it '
                "again."
            ) from error

    def value(self, key: int, column: str) -> Any:
        """The value of a column in row `key`. The group of rows that it is in is read, and kept until the next one."""
        numbers, kept, values = self._group
        if key not in numbers or kept != column:
            _, parquet = _import_pyarrow(self.path)
            with parquet.ParquetFile(self.path) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                ends = list(itertools.accumulate(sizes))
                group = bisect.bisect_right(ends, key)
                if group == len(ends):
                    return None
                numbers = range(ends[group] - sizes[group], ends[group])
                values = file.read_row_group(group, columns=[column]).column(column)
            self._group = (numbers, column, values)
        return values[key - numbers.start].as_py()


def _import_pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(
            f'"{path}" needs pyarrow, which is not installed, to be read. Run: pip install pxr-gym[data]'
        ) from error
    return pyarrow, parquet


def _check_columns(path: Path, required: Sequence[str], names: Sequence[str]) -> None:
    for name in required:
        if name not in names:
            raise DataError(
                f'"{path}" has no column "{name}"; expected {", ".join(required)}, and found '
                f"{quote(', '.join(names))}.{did_you_mean(name, names)} Rename or add it."
            )


def _declared_features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """The types of columns that the `datasets` library declares in the files it writes."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, Mapping) else {}


def label_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of every `ClassLabel` column, or column with lists of them, from features as plain values."""
    found = {}
    for column, feature in features.items():
        while isinstance(feature, Mapping | list) and feature:
            if isinstance(feature, list):
                feature = feature[0]
            elif feature.get("_type") == "ClassLabel":
                found[column] = list(feature.get("names") or ())
                break
            else:
                feature = feature.get("feature")
    return found


def with_labels(row: dict[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The row, with a `NamedNumber` in place of every number of a `ClassLabel` column."""
    return {**row, **{column: _label(row[column], names[column]) for column in names if column in row}}


def _label(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_label(item, names) for item in value]
    if not isinstance(value, int):
        return value
    return NamedNumber(value, names[value] if 0 <= value < len(names) else None)
