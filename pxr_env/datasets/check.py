"""`python -m pxr_env check DATA`: validates every row of a data set and says what is wrong with which."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pxr_env.datasets.fields import printable
from pxr_env.datasets.formats import FORMATS, open_dataset, recognize
from pxr_env.datasets.media import Medium
from pxr_env.datasets.released import SFTData, SFTTrace
from pxr_env.datasets.rows import BadRow, Progress, Record, RowWarning, box_problem, time_problem
from pxr_env.errors import DataError, MediaError, quote
from pxr_env.media.images import ImageSource
from pxr_env.media.video import VideoSource

#: At most this many warnings of a kind are printed; the json file has all of them.
_WARNINGS_PRINTED = 20


@dataclass(frozen=True, slots=True)
class DataReport:
    """What a check found: of `n_rows` rows `n_good` can be used, and `bad_rows` are the others.

    `counts` is of the usable rows: "images", "videos" (files that are named, repetitions counted) and "category NAME".
    `deep` says whether all media were decoded, and `warnings` what is odd about usable rows.
    """

    path: str
    format: str
    deep: bool
    n_rows: int
    n_good: int
    bad_rows: tuple[BadRow, ...]
    warnings: tuple[RowWarning, ...]
    counts: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as plain values for JSON; the ids are under "id"."""
        report = asdict(self)
        for row in (*report["bad_rows"], *report["warnings"]):
            row["id"] = row.pop("sample_id")
        return report

    def __str__(self) -> str:
        """The report for people: bad rows, then warnings, then counts."""
        lines = [f"{self.path}: {self.format}, {_count(self.n_rows, 'row')}"]
        lines += [f"{_count(len(self.bad_rows), 'bad row')}{':' if self.bad_rows else ''}"]
        lines += [f"  {bad}" for bad in self.bad_rows]
        for kind, n_warnings in sorted(Counter(warning.kind for warning in self.warnings).items()):
            lines.append(f"{_count(n_warnings, 'warning')} ({kind}):")
            of_kind = [warning for warning in self.warnings if warning.kind == kind]
            lines += [f"  {warning}" for warning in of_kind[:_WARNINGS_PRINTED]]
            if n_warnings > _WARNINGS_PRINTED:
                lines.append(f"  and {n_warnings - _WARNINGS_PRINTED} more; --json writes all of them")
        lines.append(_count(self.n_good, "good row") + (", all media decoded" if self.deep else ", headers read"))
        lines += [f"  {number} {name}" for name, number in self.counts.items()]
        return printable("\n".join(lines))


def check_dataset(
    path: str | Path,
    *,
    format: str = "auto",
    deep: bool = False,
    limit: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> DataReport:
    """Validates a data set and returns what was found; bad rows are no exception here.

    Args:
        path, format: as of `open_dataset`.
        deep: decode every image, and the first and last frame of every video, instead of reading headers.
        limit: check this many rows only.
        arguments: further arguments of the format's class, such as the columns of `HuggingFaceData`.
        progress: is called with the number of rows done, now and then.

    Raises:
        DataError: the format is not recognized, or the data cannot be opened at all.
        TypeError, ValueError: unknown arguments, an unknown format or a wrong limit.
        ImportError: a library that the format needs is not installed.
    """
    name = recognize(path) if format == "auto" else format
    given = dict(arguments or {})
    if name == "tallyqa":
        given.setdefault("subset", "all")
    try:
        data = open_dataset(path, name, skip_bad_rows=True, limit=limit, progress=progress, **given)
    except DataError as error:
        if not error.bad_rows:
            raise
        bad = tuple(row for row in error.bad_rows if isinstance(row, BadRow))
        return DataReport(str(path), name, deep, n_rows=len(bad), n_good=0, bad_rows=bad, warnings=(), counts={})
    good: list[Record | SFTTrace]
    good = list(data) if isinstance(data, SFTData) else list(map(data.record, data.sample_ids()))
    bad_media = _look_inside(good, deep, progress)
    bad_rows = [*data.skipped, *bad_media.values()]
    good = [record for record in good if record.sample_id not in bad_media]
    return DataReport(
        str(path),
        name,
        deep,
        n_rows=data.n_rows,
        n_good=len(good),
        bad_rows=tuple(sorted(bad_rows, key=lambda bad: bad.row)),
        warnings=tuple(warning for warning in data.warnings if warning.sample_id not in bad_media),
        counts=_counts(good),
    )


def _look_inside(records: Sequence[Record | SFTTrace], deep: bool, progress: Progress | None) -> dict[str, BadRow]:
    """By their ids, the rows whose evidence lies outside of their video or, with `deep`, whose media are broken."""
    bad: dict[str, BadRow] = {}
    # A file that many rows name is decoded once.
    causes: dict[Medium, str | None] = {}
    for number, record in enumerate(records, start=1):
        for medium in record.media if deep else ():
            if medium not in causes:
                causes[medium] = _decode(medium)
        cause = next((causes[medium] for medium in record.media if causes.get(medium)), None)
        if isinstance(record, Record):
            cause, row = cause or _misplaced_evidence(record), int(record.metadata["row"])
        else:
            row = record.row
        if cause is not None:
            name, cause = record.sample_id, printable(cause)
            bad[name] = BadRow(row=row, place=record.place, sample_id=name, cause=cause)
        if progress is not None and number % 100 == 0:
            progress(number)
    return bad


def _decode(medium: Medium) -> str | None:
    """Why a medium cannot be shown, or None."""
    try:
        source = medium.open()
        if isinstance(source, ImageSource):
            _ = source.image
        else:
            source.frame(0)
            source.frame(source.n_frames - 1)
    except MediaError as error:
        return str(error)
    return None


def _misplaced_evidence(record: Record) -> str | None:
    """Why the evidence of a video cannot be right, or None; that of an image was compared with its header."""
    time, box = record.evidence_time, record.evidence_box
    if (time is None and box is None) or record.media[0].kind == "image":
        return None
    source = record.media[0].open()
    assert isinstance(source, VideoSource)
    try:
        return (box and box_problem(box, source.size)) or (time and time_problem(time, source)) or None
    except MediaError as error:
        return str(error)


def _counts(records: Sequence[Record | SFTTrace]) -> dict[str, int]:
    counts = Counter(f"{medium.kind}s" for record in records for medium in record.media)
    categories = Counter(
        f"category {quote(record.category)}" for record in records if isinstance(record, Record) and record.category
    )
    return {name: counts[name] for name in ("images", "videos") if counts[name]} | dict(sorted(categories.items()))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `python -m pxr_env check`."""
    parser.add_argument("data", type=Path, help="the directory of a data set (of jsonl and sft data also the file)")
    parser.add_argument("--format", default="auto", metavar="NAME", help=f"auto, or one of {', '.join(FORMATS)}")
    parser.add_argument("--deep", action="store_true", help="decode all images, and two frames of every video")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report there")
    parser.add_argument("--limit", type=int, metavar="N", help="check the first N rows only")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the format, such as split=train or tasks='[\"action_count\"]'; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Checks and prints; returns 0 if all rows are good, 1 if one is bad, 2 on wrong usage."""
    try:
        if args.format != "auto" and args.format in FORMATS and not args.data.exists():
            raise ValueError(f'"{args.data}" does not exist; expected a data set. Check the path.')
        name = recognize(args.data) if args.format == "auto" else args.format
        arguments = _arguments(args.set)
    except ValueError as error:  # DataError is one
        print(error, file=sys.stderr)
        return 2
    try:
        report = check_dataset(
            args.data, format=name, deep=args.deep, limit=args.limit, arguments=arguments, progress=_tell
        )
    except (DataError, ImportError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1 if isinstance(error, DataError) else 2
    print(report)
    if args.json is not None:
        args.json.write_text(json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if report.bad_rows else 0


def _arguments(pairs: Sequence[str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f'got --set "{quote(pair)}", expected NAME=VALUE, such as split=train. Change it.')
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            # Text needs no quotation marks.
            arguments[name] = value
    return arguments


def _tell(number: int) -> None:
    """Writes how many rows are done: on one line of a terminal, or now and then into a log."""
    if number % 10_000 == 0 or sys.stderr.isatty():
        end = "\r" if sys.stderr.isatty() else "\n"
        print(f"\r{number} rows read or decoded", end=end, file=sys.stderr, flush=True)
