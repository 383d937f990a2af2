"""HR-Bench: 4K and 8K photographs as base64 in a table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from pxr_env.datasets.answers import read_answers
from pxr_env.datasets.embedded import Base64Image
from pxr_env.datasets.fields import Fields, Row, RowError
from pxr_env.datasets.media_files import MediaFiles, Medium
from pxr_env.datasets.options import check_options, with_options
from pxr_env.datasets.paths import DataDirectory
from pxr_env.datasets.readers import find_file
from pxr_env.datasets.rows import Dataset, Progress, Record
from pxr_env.errors import DataError, did_you_mean, quote

_REQUIRED = ("index", "question", "answer", "A", "B", "C", "D", "image")
_OPTIONS = ("A", "B", "C", "D")
#: The longest row, in bytes: an image of 8K is about 20 MB as base64.
LONGEST_ROW = 256 * 1024 * 1024
#: Lines that a quoted field may go over.
MOST_LINES = 1000
#: A shorter value in the image column is no image but the `index` of the row that has it.
_SHORTEST_IMAGE = 64


class HRBench(Dataset):
    """HR-Bench as it is published: `hr_bench_4k.tsv` or `hr_bench_8k.tsv`, with the images inside.

    Source: DreamMr/HR-Bench (Wang et al., arXiv 2408.15556); 200 questions in four orders of their options each.

    Columns: `index`, `question`, `A` to `D` (options), `answer` (letter), `category` ("single" or "cross"),
    `cycle_category` (which order of the options it is, kept in the metadata), `image` (base64; or the `index` of an
    earlier row with the same image, as evaluation kits write it). The options are written below the question. Rows with
    the same image are one cluster, and so are the four orders of a question.

    Opening the file remembers where each image begins. It is read and decoded when a sample is shown; neither the data
    nor an episode holds the base64 text.

    Args:
        directory: where the tsv lies.
        name: the file's name without `.tsv`; needed if there are several.
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows only.
        check_media: decode the beginning of every image and read its size.
        progress: is called with the number of rows read, now and then.

    Raises:
        DataError: no such file, a missing column, or bad rows; all of them are named.
    """

    scorer: ClassVar[str] = "multiple_choice"

    def __init__(
        self,
        directory: str | Path,
        *,
        name: str | None = None,
        skip_bad_rows: bool = False,
        limit: int | None = None,
        check_media: bool = True,
        progress: Progress | None = None,
    ) -> None:
        files = DataDirectory(directory)
        path = find_file(files.path, f"{name or '*'}.tsv", "or its name (name=...)")
        stat = path.stat()
        self._file = str(path.resolve())
        self._stamp = (stat.st_mtime_ns, stat.st_size)
        self._media = MediaFiles(files, check=check_media)
        self._images: dict[str, Medium] = {}
        super().__init__(
            path,
            read_tsv(path, _REQUIRED, placed="image"),
            self._record,
            skip_bad_rows=skip_bad_rows,
            limit=limit,
            progress=progress,
        )

    def _record(self, fields: Fields) -> Record:
        sample_id = fields.identifier("index")
        image = self._image(fields)
        self._images[sample_id] = image
        question = fields.text("question")
        # An empty option is named by check_options.
        options = check_options([fields.neutralized(str(fields.values.get(letter) or "")) for letter in _OPTIONS])
        metadata: dict[str, Any] = {"row": fields.row}
        if fields.values.get("cycle_category"):
            metadata["cycle_category"] = fields.text("cycle_category")
        return Record(
            sample_id=sample_id,
            place=fields.place,
            question=with_options(question, options),
            media=(image,),
            answers=read_answers(fields, "answer", options, form="letter"),
            options=options,
            category=fields.text("category") if fields.values.get("category") else None,
            metadata=metadata,
        )

    def _image(self, fields: Fields) -> Medium:
        offset, length, text, digest = fields.values["image"]
        if length == 0:
            raise RowError("image is empty; expected base64")
        if text in self._images:
            return self._images[text]
        if length < _SHORTEST_IMAGE:
            try:
                return self._media.image(text, ("", "images"), "image", fields.key, ("image",))
            except RowError as error:
                raise RowError(f"{error}. Base64, or the index of an earlier row, may stand here, too") from error
        image = Base64Image(path=self._file, offset=offset, length=length, stamp=self._stamp, digest=digest)
        if self._media.check:
            self._media.size(image)
        return image


def read_tsv(path: Path, required: Sequence[str], *, placed: str) -> Iterator[Row]:
    """Yields the rows of a table with tabs as mappings of text; the value of column `placed` stays in the file.

    Fields that begin with a quotation mark may hold tabs, newlines and doubled quotation marks, as spreadsheets and
    pandas write them. Of column `placed` a row has a tuple: offset and length in bytes, the text if it is short, and a
    digest of the text.

    Raises:
        DataError: the file cannot be read, or lacks a required column.
    """
    try:
        with open(path, "rb") as file:
            header, record = _split(file.readline(LONGEST_ROW).removeprefix(b"\xef\xbb\xbf"), file)
            columns = [name.decode("utf-8", "replace") for name, _, _ in header]
            for name in required:
                if name not in columns:
                    raise DataError(
                        f'"{path}" has no column "{name}"; expected {", ".join(required)}, and found '
                        f"{quote(', '.join(columns))}.{did_you_mean(name, columns)} Rename or add it."
                    )
            number = 1
            while record:
                number += record.count(b"\n")
                offset = file.tell()
                values, record = _split(file.readline(LONGEST_ROW), file)
                if record.strip():
                    yield Row(_row(columns, values, offset, placed), f"line {number}", offset)
    except OSError as error:
        raise DataError(f'"{path}" cannot be read ({error.strerror}); expected a table. Check the path.') from error


def _row(columns: Sequence[str], values: list[tuple[bytes, int, int]], offset: int, placed: str) -> object:
    if len(values) != len(columns):
        return RowError(f"it has {len(values)} columns; expected {len(columns)}, separated by tabs")
    row: dict[str, Any] = {}
    for name, (value, start, length) in zip(columns, values, strict=True):
        if name == placed:
            short = value.decode("utf-8", "replace") if length < _SHORTEST_IMAGE else ""
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
