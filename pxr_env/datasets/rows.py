"""What all formats share: rows are checked one by one, the bad ones are named, the good ones kept as records."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pxr_env.datasets.fields import Fields, Row, RowError
from pxr_env.datasets.media_files import Medium
from pxr_env.datasets.text import printable
from pxr_env.errors import DataError, did_you_mean, quote, show
from pxr_env.geometry import Box
from pxr_env.types import Sample

#: At most this many bad rows are written into one message; `DataError.bad_rows` has all of them.
_ROWS_IN_MESSAGE = 200

#: Is told the number of rows read so far, now and then.
Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that is no sample.

    Args:
        row: its number, from 0.
        place: where a person finds it, such as "line 3" of a file whose first line is line 1.
        sample_id: its id; None if it has none.
        cause: why.
    """

    row: int
    place: str
    sample_id: str | None
    cause: str

    def __str__(self) -> str:
        return f"{self.place} (id {'missing' if self.sample_id is None else show(self.sample_id)}): {self.cause}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RowWarning:
    """Something about a usable row that its owner should know.

    Args:
        row: its number, from 0.
        place: where a person finds it, as of a `BadRow`.
        sample_id: its id.
        kind: "duplicate" (question and media were in an earlier row) or "neutralized" (special tokens or control
            characters were replaced, see `pxr_env.datasets.text`).
        text: what it is, in words.
    """

    row: int
    place: str
    sample_id: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.place} (id {show(self.sample_id)}): {self.text}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A checked row: the values of a `Sample`, with the places of its media instead of sources, and its own.

    A `cluster` that the row does not name is made by `Dataset`: the id of the first row with the same first medium.
    """

    sample_id: str
    place: str
    question: str
    media: tuple[Medium, ...]
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    needs_operation: bool | None = None
    evidence_box: Box | None = None
    evidence_time: tuple[float, float] | None = None
    category: str | None = None
    cluster: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> Hashable:
        """What makes two rows the same question: its text (with the options) and its media."""
        return self.question, self.options, self.media

    def sample(self) -> Sample:
        """Returns the sample, with new sources; nothing is decoded."""
        return Sample(
            sample_id=self.sample_id,
            question=self.question,
            sources=tuple(medium.open() for medium in self.media),
            answers=self.answers,
            options=self.options,
            needs_operation=self.needs_operation,
            evidence_box=self.evidence_box,
            evidence_time=self.evidence_time,
            category=self.category,
            cluster=self.cluster,
            metadata=self.metadata,
        )


class _Checked(Protocol):
    @property
    def sample_id(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def content(self) -> Hashable: ...


T = TypeVar("T", bound=_Checked)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedRows(Generic[T]):
    """The good rows by their ids, the bad ones, and the warnings; `n_rows` is how many were read."""

    good: Mapping[str, T]
    bad: tuple[BadRow, ...]
    warnings: tuple[RowWarning, ...]
    n_rows: int


def check_rows(
    path: Path,
    rows: Iterable[Row],
    convert: Callable[[Fields], T | None],
    *,
    skip_bad_rows: bool = False,
    limit: int | None = None,
    progress: Progress | None = None,
) -> CheckedRows[T]:
    """Converts every row and sorts it: good, bad, or left out.

    Args:
        path: the file, for messages.
        rows: the rows, also those that could not be read.
        convert: makes the record of a row; raises `RowError`; None leaves the row out without a word.
        skip_bad_rows: return bad rows instead of raising an exception.
        limit: read this many rows only.
        progress: is called with the number of rows read so far, every 1,000 rows.

    Raises:
        DataError: bad rows, all of them named; or no usable row.
        ValueError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} came; expected a number of rows, at least 1, or None for all. Change it.")
    good: dict[str, T] = {}
    bad: list[BadRow] = []
    warnings: list[RowWarning] = []
    seen: dict[int, str] = {}
    n_rows = 0
    for number, row in enumerate(itertools.islice(rows, limit)):
        n_rows = number + 1
        fields: Fields | None = None
        try:
            fields = Fields(number, row)
            record = convert(fields)
            if record is None:
                continue
            if record.sample_id in good:
                raise RowError(f"the id came in {good[record.sample_id].place} already; expected a new one")
        except RowError as error:
            sample_id = fields.sample_id if fields else None
            bad.append(BadRow(row=number, place=row.place, sample_id=sample_id, cause=printable(str(error))))
        else:
            good[record.sample_id] = record
            warnings += _warn(fields, record, good, seen)
        if progress is not None and n_rows % 1000 == 0:
            progress(n_rows)
    if bad and not skip_bad_rows:
        raise DataError(_describe(path, bad, len(good)), bad)
    if not good:
        raise DataError(
            f'"{path}" has no usable row ({len(bad)} bad ones); expected at least one. Check the file.', bad
        )
    return CheckedRows(good=good, bad=tuple(bad), warnings=tuple(warnings), n_rows=n_rows)


def _warn(fields: Fields, record: T, good: Mapping[str, T], seen: dict[int, str]) -> list[RowWarning]:
    texts = {}
    if fields.n_neutralized:
        texts["neutralized"] = f"{fields.n_neutralized} special tokens or control characters were replaced"
    # Hashes keep the index small; equal ones are compared in full.
    first = seen.setdefault(hash(record.content), record.sample_id)
    if first != record.sample_id and good[first].content == record.content:
        texts["duplicate"] = f"its question and media are those of {show(first)}"
    return [
        RowWarning(row=fields.row, place=fields.place, sample_id=record.sample_id, kind=kind, text=text)
        for kind, text in texts.items()
    ]


def _describe(path: Path, bad_rows: Sequence[BadRow], n_good: int) -> str:
    lines = [f'"{path}" has {len(bad_rows)} bad rows beside {n_good} good ones:']
    lines += [f"  {bad_row}" for bad_row in bad_rows[:_ROWS_IN_MESSAGE]]
    if len(bad_rows) > _ROWS_IN_MESSAGE:
        lines.append(f"  and {len(bad_rows) - _ROWS_IN_MESSAGE} more")
    lines.append("Mend them, or pass skip_bad_rows=True to leave them out.")
    return "\n".join(lines)


def _clustered(records: Mapping[str, Record]) -> Mapping[str, Record]:
    """Questions about one image or video belong together, unless the rows say otherwise."""
    first: dict[Hashable, str] = {}
    return {
        name: replace(record, cluster=first.setdefault(record.media[0].origin, name))
        if record.cluster is None
        else record
        for name, record in records.items()
    }


class Dataset:
    """Checked rows as a `SampleSource`. Formats derive from it and say how a row becomes a `Record`.

    Args:
        path: the data file, or the directory if there are several.
        rows: see `check_rows`, as are the other arguments.
    """

    #: Name of the scorer that fits the answers of the format.
    scorer: ClassVar[str] = "auto"

    def __init__(
        self,
        path: Path,
        rows: Iterable[Row],
        convert: Callable[[Fields], Record | None],
        *,
        skip_bad_rows: bool,
        limit: int | None,
        progress: Progress | None,
    ) -> None:
        #: The data file, or the directory of several.
        self.path = path
        checked = check_rows(path, rows, convert, skip_bad_rows=skip_bad_rows, limit=limit, progress=progress)
        #: The rows that were left out.
        self.skipped = checked.bad
        #: What is odd about rows that were kept.
        self.warnings = checked.warnings
        #: Number of rows read, those that were left out included.
        self.n_rows = checked.n_rows
        self._records = _clustered(checked.good)
        self._ids = tuple(checked.good)

    def __len__(self) -> int:
        return len(self._ids)

    def sample_ids(self) -> Sequence[str]:
        """The ids in the order of the rows."""
        return self._ids

    def get(self, sample_id: str) -> Sample:
        """The sample of that id, with new sources.

        Raises:
            DataError: there is none.
        """
        return self.record(sample_id).sample()

    def record(self, sample_id: str) -> Record:
        """The checked row of that id.

        Raises:
            DataError: there is none.
        """
        if sample_id not in self._records:
            raise DataError(
                f'sample_id="{quote(str(sample_id))}" came; expected an id of "{self.path}".'
                f"{did_you_mean(sample_id, self._ids)}"
            )
        return self._records[sample_id]
