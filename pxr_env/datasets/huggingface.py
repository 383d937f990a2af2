"""Any data set of the `datasets` library that was saved to disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from pxr_env.datasets.fields import Fields, RowError
from pxr_env.datasets.media_files import MediaFiles, Medium
from pxr_env.datasets.options import check_letter, check_options, letter_of, with_options
from pxr_env.datasets.paths import DataDirectory
from pxr_env.datasets.rows import Dataset, Progress, Record
from pxr_env.errors import DataError, MediaError, did_you_mean, quote, show
from pxr_env.media.images import ImageSource, decode, probe

#: What a column can be, and which of them a data set must have.
FIELDS = ("id", "question", "images", "answers", "options", "category", "cluster")
REQUIRED_FIELDS = ("question", "images", "answers")
_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class TableImage:
    """An image whose bytes lie in a saved data set; two are equal if their bytes are.

    Args:
        table: the saved data set.
        row: number of the row, from 0.
        column: its column.
        position: which of the row's images it is, from 0.
        digest: of the bytes.
    """

    kind: ClassVar[str] = "image"
    table: SavedTable = field(compare=False)
    row: int = field(compare=False)
    column: str = field(compare=False)
    position: int = field(compare=False)
    digest: bytes

    @property
    def origin(self) -> bytes:
        """What questions about the same image have in common."""
        return self.digest

    def open(self) -> ImageSource:
        """Returns the image as a source; nothing is read yet."""
        return ImageSource(key=("datasets", self.digest), load=self.load)

    def load(self) -> Image.Image:
        """Reads and decodes the image.

        Raises:
            MediaError: the data set changed, or this is no readable image.
        """
        name = f'image {self.position + 1} of row {self.row} of "{self.table.path}"'
        value = self.table.row(self.row, self.column)
        values = value if isinstance(value, list) else [value]
        data = values[self.position].get("bytes") if self.position < len(values) else None
        if not isinstance(data, bytes):
            raise MediaError(f"{name} is gone; expected the data as they were opened. Open them again.")
        return decode(data, name)


class SavedTable:
    """A directory written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, opened when it is needed.

    Args:
        path: the directory.
        split: which split of a `DatasetDict`; None for a `Dataset`.
    """

    def __init__(self, path: Path, split: str | None) -> None:
        self.path = path
        self.split = split
        self._table: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "split": self.split, "_table": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def table(self) -> Any:
        """The data set in arrow format, so that images stay bytes.

        Raises:
            DataError: it cannot be opened, or has no such split.
            ImportError: datasets is not installed.
        """
        if self._table is None:
            self._table = self._open().with_format("arrow")
        return self._table

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields the rows, in batches."""
        for batch in self.table.iter(batch_size=_BATCH):
            yield from batch.to_pylist()

    def row(self, number: int, column: str) -> Any:
        """The value of one column of one row."""
        return self.table[number].column(column).to_pylist()[0]

    def _open(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise ImportError(
                f'"{self.path}" came, and datasets is not installed; it is needed to open saved data sets. '
                "Run: pip install pxr-gym[huggingface]"
            ) from error
        try:
            opened = datasets.load_from_disk(str(self.path))
        except (OSError, ValueError) as error:
            raise DataError(
                f'"{self.path}" cannot be opened ({quote(str(error))}); expected a directory that save_to_disk wrote. '
                "Save the data again."
            ) from error
        if not isinstance(opened, datasets.DatasetDict):
            return opened
        if self.split is None and len(opened) == 1:
            return next(iter(opened.values()))
        if self.split not in opened:
            raise DataError(
                f'split={show(self.split)} came; expected one of {", ".join(opened)} of "{self.path}".'
                f"{did_you_mean(self.split, opened)} Choose one."
            )
        return opened[self.split]


class HuggingFaceData(Dataset):
    """A data set of the `datasets` library on disk (`save_to_disk`), with a declared mapping of its columns.

    Source: huggingface.co/docs/datasets; nothing is downloaded.

    `columns` says which column is what: `question` (text), `images` (one image or a list: the library's Image feature
    with bytes or a path, or plain paths relative to the directory), `answers` (a text, a list of texts or a whole
    number), and if there are any `id` (text or whole number; the number of the row without it), `options` (list of
    texts), `category` and `cluster` (what belongs together; by default the questions about one image). With options an
    answer is a letter, the text of an option, or its number from 0; the options are written below the question.

    Args:
        directory: what `save_to_disk` wrote.
        columns: field -> column; a field that is left out is looked for under its own name.
        split: which split of a `DatasetDict`; not needed if there is only one.
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows only.
        check_media: read the header of every image.
        progress: is called with the number of rows read, now and then.

    Raises:
        DataError: the directory cannot be opened, a column is missing, or bad rows; all of them are named.
        ImportError: datasets is not installed.
    """

    scorer: ClassVar[str] = "auto"

    def __init__(
        self,
        directory: str | Path,
        *,
        columns: Mapping[str, str] | None = None,
        split: str | None = None,
        skip_bad_rows: bool = False,
        limit: int | None = None,
        check_media: bool = True,
        progress: Progress | None = None,
    ) -> None:
        files = DataDirectory(directory)
        self._saved = SavedTable(files.path, split)
        self._columns = _map_columns(columns or {}, self._saved.table.column_names, files.path)
        self._media = MediaFiles(files, check=check_media)
        super().__init__(
            files.path, self._rows(), self._record, skip_bad_rows=skip_bad_rows, limit=limit, progress=progress
        )

    def _rows(self) -> Iterator[dict[str, Any]]:
        for row in self._saved.rows():
            yield {name: row[column] for name, column in self._columns.items()}

    def _record(self, fields: Fields) -> Record:
        if "id" in self._columns:
            sample_id = fields.identifier("id")
        else:
            sample_id = fields.sample_id = str(fields.row)
        question = fields.text("question")
        options: tuple[str, ...] = ()
        if "options" in fields:
            options = check_options(fields.texts("options"))
            answers = tuple(_letter(answer, options) for answer in _answers(fields))
            question = with_options(question, options)
        else:
            answers = tuple(fields.neutralized(str(answer)) for answer in _answers(fields))
        return Record(
            sample_id=sample_id,
            question=question,
            media=self._images(fields),
            answers=answers,
            options=options,
            category=fields.optional_text("category"),
            cluster=fields.label("cluster"),
            metadata={"row": fields.row},
        )

    def _images(self, fields: Fields) -> tuple[Medium, ...]:
        value = fields.values.get("images")
        values = value if isinstance(value, list) else [value]
        if not values:
            raise RowError("images is []; expected at least one")
        return tuple(self._image(fields, position, item) for position, item in enumerate(values))

    def _image(self, fields: Fields, position: int, value: object) -> Medium:
        if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
            data = value["bytes"]
            if self._media.check:
                try:
                    probe(data, f"image {position + 1}")
                except MediaError as error:
                    raise RowError(str(error)) from error
            return TableImage(
                table=self._saved,
                row=fields.row,
                column=self._columns["images"],
                position=position,
                digest=hashlib.blake2b(data, digest_size=16).digest(),
            )
        path = value.get("path") if isinstance(value, Mapping) else value
        if not isinstance(path, str) or not path.strip():
            raise RowError(f"image {position + 1} is {show(value)}; expected bytes or a path")
        return self._media.image(path, ("", "images"))


def _map_columns(columns: Mapping[str, str], names: Sequence[str], path: Path) -> dict[str, str]:
    for name in columns:
        if name not in FIELDS:
            raise ValueError(
                f'columns has the field "{quote(str(name))}"; expected {", ".join(FIELDS)}.'
                f"{did_you_mean(name, FIELDS)} Rename it."
            )
    mapping = {name: columns.get(name, name) for name in FIELDS}
    for name, column in mapping.items():
        if column not in names and (name in columns or name in REQUIRED_FIELDS):
            raise DataError(
                f'"{path}" has no column "{quote(str(column))}" for {name}; expected one of '
                f"{quote(', '.join(names), 300)}.{did_you_mean(column, names)} Say which it is: "
                f'columns={{"{name}": ...}}.'
            )
    return {name: column for name, column in mapping.items() if column in names}


def _answers(fields: Fields) -> list[str | int]:
    value = fields.values.get("answers")
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    return list(fields.texts("answers", or_one=True))


def _letter(answer: str | int, options: tuple[str, ...]) -> str:
    if isinstance(answer, int):
        if not 0 <= answer < len(options):
            raise RowError(f"answers is {answer}; expected the number of an option, from 0 to {len(options) - 1}")
        return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[answer]
    try:
        return letter_of(answer, options, "answers")
    except RowError:
        return check_letter(answer, options, "answers")
