"""What all formats share: rows are checked one by one, the bad ones are named, the good ones kept as records.

A format is a class below `Dataset` that opens its table, says what its columns are called, and what is special.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from pxr_env.datasets.fields import Fields, RowError, check_options, printable, with_options
from pxr_env.datasets.media import DataDirectory, MediaFiles, Medium
from pxr_env.datasets.readers import Table
from pxr_env.errors import DataError, did_you_mean, quote, show
from pxr_env.media.video import VideoSource
from pxr_env.types import Sample
from pxr_env.views import Box, Size

#: At most this many bad rows are written into one message; `DataError.bad_rows` has all of them.
_ROWS_IN_MESSAGE = 200
#: A picture of more pixels than this along a side has no evidence of one pixel in its corner.
_A_FEW_PIXELS = 4
#: Fractions that were rounded may be a little above 1.
_LARGEST_FRACTION = 1.01
#: Seconds by which sums of times may be off.
_NOISE = 1e-6

#: Is told the number of rows read so far, now and then.
Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that is no sample, and why: its number from 0, where a person finds it, such as "line 3", and its id."""

    row: int
    place: str
    sample_id: str | None
    cause: str

    def __str__(self) -> str:
        return f"{self.place} (id {'missing' if self.sample_id is None else show(self.sample_id)}): {self.cause}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RowWarning:
    """Something about a usable row that its owner should know, in words.

    `kind` is "duplicate" (question and media were in an earlier row) or "neutralized" (special tokens or control
    characters were replaced).
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
        values = {field.name: getattr(self, field.name) for field in fields_of(self)}
        del values["place"]
        return Sample(sources=tuple(medium.open() for medium in values.pop("media")), **values)


class _Checked(Protocol):
    @property
    def sample_id(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def content(self) -> Hashable: ...


T = TypeVar("T", bound=_Checked)


class CheckedRows(NamedTuple):
    """The bad rows, the warnings, and how many rows were read."""

    bad: tuple[BadRow, ...]
    warnings: tuple[RowWarning, ...]
    n_rows: int


def check_rows(
    table: Table,
    convert: Callable[[Fields], T | None],
    skip_bad_rows: bool,
    limit: int | None,
    progress: Progress | None,
) -> tuple[dict[str, T], CheckedRows]:
    """Returns the good rows by their ids, and what was found. For the arguments see `Dataset`.

    `convert` makes the record of a row; it raises `RowError`, or returns None to leave the row out without a word.

    Raises:
        DataError: bad rows, all of them named; or no usable row.
        ValueError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"got limit={limit}, expected a number of rows, at least 1, or None for all.")
    good: dict[str, T] = {}
    bad: list[BadRow] = []
    warnings: list[RowWarning] = []
    seen: dict[int, str] = {}
    n_rows = 0
    for number, row in enumerate(itertools.islice(table.rows(), limit)):
        n_rows = number + 1
        fields: Fields | None = None
        try:
            fields = Fields(number, row)
            record = convert(fields)
            if record is None:
                continue
            if record.sample_id in good:
                raise RowError(f"the id is that of {good[record.sample_id].place}; expected a new one")
        except RowError as error:
            sample_id = fields.sample_id if fields else None
            bad.append(BadRow(row=number, place=row.place, sample_id=sample_id, cause=printable(str(error))))
        else:
            good[record.sample_id] = record
            warnings += _warn(fields, record, good, seen)
        if progress is not None and n_rows % 1000 == 0:
            progress(n_rows)
    if bad and not skip_bad_rows:
        raise DataError(_describe(table.path, bad, len(good)), bad)
    if not good:
        message = f'"{table.path}" has no usable row ({len(bad)} bad ones); expected at least one. Check the file.'
        raise DataError(message, bad)
    return good, CheckedRows(tuple(bad), tuple(warnings), n_rows)


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
    return "\n".join([*lines, "Mend them, or pass skip_bad_rows=True to leave them out."])


def box_problem(box: Box, size: Size | None) -> str | None:
    """Why `evidence_box` cannot be x1, y1, x2, y2 in pixels of a picture of that width and height, or None.

    Thousandths and percentages inside the picture, and x, y, width, height that could be corners, cannot be told.
    `size` is None if it is not known yet.
    """
    x1, y1, x2, y2 = box
    if size is not None and max(size) > _A_FEW_PIXELS and min(box) >= 0 and max(box) <= _LARGEST_FRACTION:
        problem = (
            f", which are fractions; expected x1, y1, x2, y2 in pixels of its picture of {size[0]}x{size[1]}. Multiply "
            "x by the width and y by the height, in every row"
        )
    elif not (0 <= x1 < x2 and 0 <= y1 < y2):
        problem = (
            "; expected x1, y1, x2, y2 with 0 <= x1 < x2, 0 <= y1 < y2. If it is x, y, width, height, write x, y, "
            "x + width, y + height in every row"
        )
    elif size is not None and (x2 > size[0] or y2 > size[1]):
        problem = (
            f"; expected it inside its picture of {size[0]}x{size[1]} pixels. If they are thousandths, or pixels of a "
            "resized picture, scale every row to the pixels of the file"
        )
    else:
        return None
    return f"evidence_box is {show(list(box))}{problem}"


def time_problem(time: tuple[float, float], video: VideoSource | None, end: float | None = None) -> str | None:
    """Why `evidence_time` (from, to) cannot be seconds of a clip, or None.

    `video` is the clip, None if it is not opened yet; `end` where it ends, if that is known without opening it.
    """
    first, last = time
    duration = video.duration if video is not None else end
    if not 0 <= first < last:
        problem = "; expected 0 <= from < to, inside the clip, in seconds since its first frame"
    elif duration is not None and last > duration + _NOISE:
        problem = (
            f"; expected seconds inside the clip of {duration:g} s, from its first frame on. If they are milliseconds, "
            "divide by 1000; if they count from the start of the whole video, subtract that of the clip"
        )
    elif video is not None and not video.frames_between(first, last):
        problem = f", between two of the {video.n_frames} frames; expected at least one frame in it"
    else:
        return None
    return f"evidence_time is {show(list(time))}{problem}"


class Names(NamedTuple):
    """What a format calls its columns, "" for those it does not have; and what comes before the names of media in the
    places where they are looked for, in this order.
    """

    id: str
    question: str = "question"
    media: str = "image"
    answers: str = "answer"
    options: str = ""
    category: str = ""
    cluster: str = ""
    prefixes: Sequence[str] = ("",)


@dataclass(kw_only=True, eq=False, repr=False)
class Dataset:
    """Checked rows as a `SampleSource`.

    A format derives from it: `open_table` finds its data file, `names` says which column is what, and the other methods
    with an underscore are replaced where a column is special. After opening there are `path` (the data file, or the
    directory of several), `skipped` (bad rows that were left out), `warnings` (what is odd about rows that were kept)
    and `n_rows` (rows read, those that were left out included).

    Args:
        directory: where the data are.
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows of the file only.
        check_media: read the header of every image or video; without, files only have to exist.
        progress: is called with the number of rows read so far, every 1,000 rows.

    Raises:
        DataError: the data file is missing or cannot be read, or has bad rows; all of them are named.
        ImportError: a library that the format needs is not installed.
    """

    #: Name of the scorer that fits the answers of the format.
    scorer: ClassVar[str] = "auto"
    names: ClassVar[Names]
    #: Which answers there are to options, see `Fields.answers`.
    answer_form: ClassVar[str] = "any"
    #: Whether `directory` may also be the data file.
    takes_files: ClassVar[bool] = False

    directory: str | Path = field(kw_only=False)
    skip_bad_rows: bool = False
    limit: int | None = None
    check_media: bool = True
    progress: Progress | None = None

    def __post_init__(self) -> None:
        given = Path(self.directory)
        self.files = DataDirectory(given.parent if self.takes_files and given.is_file() else given)
        table = self.open_table(given)
        self.path = table.path
        self._media = MediaFiles(self.files, table, check=self.check_media)
        records, (self.skipped, self.warnings, self.n_rows) = check_rows(
            table, self._record, self.skip_bad_rows, self.limit, self.progress
        )
        self.progress = None  # a local function would keep the data from travelling to other processes
        first: dict[Hashable, str] = {}
        for name, record in records.items():
            if record.cluster is None:
                records[name] = replace(record, cluster=first.setdefault(record.media[0].origin, name))
        self._records, self._ids = records, tuple(records)

    @property
    def prefixes(self) -> Sequence[str]:
        """Those of `names`, unless they follow from an argument."""
        return self.names.prefixes

    def open_table(self, directory: Path) -> Table:
        """Returns the table of the rows."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._ids)

    def sample_ids(self) -> Sequence[str]:
        """The ids in the order of the rows."""
        return self._ids

    def get(self, sample_id: str) -> Sample:
        """The sample of that id, with new sources; raises DataError if there is none."""
        return self.record(sample_id).sample()

    def record(self, sample_id: str) -> Record:
        """The checked row of that id; raises DataError if there is none."""
        if sample_id not in self._records:
            raise DataError(
                f'got sample_id="{quote(str(sample_id))}", expected an id of "{self.path}".'
                f"{did_you_mean(sample_id, self._ids)}"
            )
        return self._records[sample_id]

    def _record(self, fields: Fields) -> Record | None:
        """The record of a row; None leaves the row out."""
        names = self.names
        sample_id = self._sample_id(fields)
        media = self._find_media(fields)
        question, options = self._question(fields)
        values: dict[str, Any] = {
            "answers": self._answers(fields, options),
            "category": fields.optional_text(names.category) if names.category else None,
            "cluster": fields.label(names.cluster) if names.cluster else None,
            **self._details(fields, media),
        }
        values["metadata"] = {"row": fields.row, **values.get("metadata", {})}
        return Record(
            sample_id=sample_id, place=fields.place, question=question, options=options, media=media, **values
        )

    def _sample_id(self, fields: Fields) -> str:
        return fields.identifier(self.names.id)

    def _find_media(self, fields: Fields) -> tuple[Medium, ...]:
        return self._media.images(fields, self.names.media, self.prefixes)

    def _question(self, fields: Fields) -> tuple[str, tuple[str, ...]]:
        """The question as it is shown, with its options below it, and the options."""
        question, options = fields.text(self.names.question), self._options(fields)
        return (with_options(question, options) if options else question), options

    def _options(self, fields: Fields) -> tuple[str, ...]:
        return check_options(fields.texts(self.names.options)) if self.names.options in fields else ()

    def _answers(self, fields: Fields, options: Sequence[str]) -> tuple[str, ...]:
        return fields.answers(self.names.answers, options, self.answer_form)

    def _details(self, fields: Fields, media: Sequence[Medium]) -> dict[str, Any]:
        """Further values of the `Record`."""
        return {}
