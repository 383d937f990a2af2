"""Any data set of the `datasets` library that was saved to disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pxr_env.datasets.answers import read_answers
from pxr_env.datasets.fields import Fields, Row
from pxr_env.datasets.media_files import MediaFiles
from pxr_env.datasets.options import check_options, with_options
from pxr_env.datasets.paths import DataDirectory
from pxr_env.datasets.readers import label_names, with_labels
from pxr_env.datasets.rows import Dataset, Progress, Record
from pxr_env.errors import DataError, did_you_mean, quote, show

#: What a column can be, and which of them a data set must have.
FIELDS = ("id", "question", "images", "answers", "options", "category", "cluster")
REQUIRED_FIELDS = ("question", "images", "answers")
_BATCH = 64


class SavedTable:
    """A directory written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, opened when it is needed.

    Args:
        path: the directory.
        split: which split of a `DatasetDict`; None for a `Dataset`.
        columns: field -> column; see `HuggingFaceData`.

    Raises:
        DataError: it cannot be opened, has no such split, or lacks a column.
        ImportError: datasets is not installed.
        ValueError: `columns` has an unknown field.
    """

    def __init__(self, path: Path, split: str | None, columns: Mapping[str, str]) -> None:
        self.path = path
        self.split = split
        self._table: Any = None
        self._columns = _map_columns(columns, self.table.column_names, path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}

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

    def rows(self) -> Iterator[Row]:
        """Yields the rows with the names of their fields, in batches, and their numbers from 0."""
        labels = label_names(self.table.features.to_dict())
        table = self.table.select_columns(list(set(self._columns.values())))
        rows = (row for batch in table.iter(batch_size=_BATCH) for row in batch.to_pylist())
        for number, row in enumerate(rows):
            row = with_labels(row, labels)
            yield Row({name: row[column] for name, column in self._columns.items()}, f"row {number}", number)

    def value(self, key: int, column: str) -> Any:
        """The value of a field in row `key`."""
        name = self._columns[column]
        return self.table.select_columns([name])[key].column(name).to_pylist()[0]

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

    `columns` says which column is what: `question` (text), `images` (one image or a list: the library's Image feature,
    bytes, base64, or paths relative to the directory), `answers` (a text, a number, or a list of them), and if
    there are any `id` (text or whole number; the number of the row without it), `options` (list of texts), `category`
    and `cluster` (what belongs together; by default the questions about one image). Of a `ClassLabel` column the name
    counts. With options an answer is a letter, the text of an option, or its number from 0; the options are written
    below the question.

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
        table = SavedTable(files.path, split, columns or {})
        self._media = MediaFiles(files, table, check=check_media)
        super().__init__(
            files.path, table.rows(), self._record, skip_bad_rows=skip_bad_rows, limit=limit, progress=progress
        )

    def _record(self, fields: Fields) -> Record:
        if "id" in fields.values:
            sample_id = fields.identifier("id")
        else:
            sample_id = fields.sample_id = str(fields.row)
        question = fields.text("question")
        options = check_options(fields.texts("options")) if "options" in fields else ()
        answers = read_answers(fields, "answers", options)
        return Record(
            sample_id=sample_id,
            place=fields.place,
            question=with_options(question, options) if options else question,
            media=self._media.images(fields, "images", ("", "images")),
            answers=answers,
            options=options,
            category=fields.optional_text("category"),
            cluster=fields.label("cluster"),
            metadata={"row": fields.row},
        )


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
