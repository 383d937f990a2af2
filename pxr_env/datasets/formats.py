"""Data of your own (JSON lines, and what the `datasets` library saved), and the table of all formats."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pxr_env.datasets.benchmarks import HRBench, InfographicVQA, MVBench, TallyQA, VStar
from pxr_env.datasets.fields import Fields, RowError, TableRow
from pxr_env.datasets.media import Medium, VideoFile
from pxr_env.datasets.readers import JSONLines, Table, find_file, label_names, with_labels
from pxr_env.datasets.released import EvaluationData, RLData, SFTData
from pxr_env.datasets.rows import Dataset, Names, Record, box_problem, time_problem
from pxr_env.errors import DataError, MediaError, did_you_mean, quote, show

#: All keys of a line.
KEYS = (
    *("id", "question", "images", "video", "answers", "options", "category", "cluster", "start", "end", "fps"),
    *("evidence_box", "evidence_time", "needs_operation"),
)
_NAMES = Names(id="id", media="images", answers="answers", options="options", category="category", cluster="cluster")


@dataclass(kw_only=True, eq=False, repr=False)
class JSONL(Dataset):
    """Data of your own: a `*.jsonl` file, one JSON object per line, and media at paths relative to it.

    Keys (unknown ones are an error):

    - `id`: text or whole number, unique. `question`: text.
    - `images`: a path or a list of paths (or images as base64); or `video`: a video file, a folder of frames, or a list
      of frame files.
    - `answers`: a text, a number, or a list of what is accepted. With `options`: letters, the options' texts, or their
      numbers from 0.
    - `options`: the texts of a multiple-choice question. They are written below the question as "(A) ...".
    - `cluster`: text or whole number; questions with the same one belong together (by default those about one image).
    - `category`: text, for metrics. `needs_operation`: true or false.
    - `start`, `end`: the clip of the video that is asked about, in seconds. `fps`: of a video given as frames (1).
    - `evidence_box`: x1, y1, x2, y2 in pixels of the first image (or the video): what decides the answer.
    - `evidence_time`: from, to in seconds since the first frame of the clip: when it is seen.

    Only `id`, `question`, `answers` and one of `images` and `video` have to be there.

    Args:
        directory: the file, or a directory with one `*.jsonl` in it.
    """

    names: ClassVar[Names] = _NAMES
    takes_files: ClassVar[bool] = True

    def open_table(self, directory: Path) -> Table:
        return JSONLines(directory if directory.is_file() else find_file(directory, "*.jsonl", "the questions"))

    def _record(self, fields: Fields) -> Record | None:
        self._sample_id(fields)
        fields.refuse_others(KEYS)
        return super()._record(fields)

    def _find_media(self, fields: Fields) -> tuple[Medium, ...]:
        if ("images" in fields) == ("video" in fields):
            raise RowError("it has both images and video, or neither; expected one of them")
        if "images" in fields:
            for name in ("start", "end", "fps", "evidence_time"):
                if name in fields:
                    raise RowError(f"it has {name} and images; expected it beside a video only")
            return super()._find_media(fields)
        fps, span = fields.number("fps"), fields.span("start", "end")
        fps = 1.0 if fps is None else fps
        return (self._media.video(fields.values["video"], fps=fps, span=span),)

    def _details(self, fields: Fields, media: Sequence[Medium]) -> dict[str, Any]:
        box, time = fields.numbers("evidence_box", 4), fields.numbers("evidence_time", 2)
        medium, (start, end) = media[0], fields.span("start", "end")
        problem = box and box_problem(box, self._media.size(medium))
        if time and not problem:
            # How long a video file is, is found when it is opened.
            try:
                source = medium.open() if isinstance(medium, VideoFile) and medium.fps is not None else None
                problem = time_problem(time, source, None if end is None else end - (start or 0.0))
            except MediaError as error:
                problem = str(error)
        if problem:
            raise RowError(problem)
        return {"needs_operation": fields.flag("needs_operation"), "evidence_box": box, "evidence_time": time}


@dataclass(kw_only=True, eq=False, repr=False)
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
    """

    names: ClassVar[Names] = _NAMES._replace(prefixes=("", "images/"))

    columns: Mapping[str, str] | None = None
    split: str | None = None

    def open_table(self, directory: Path) -> Table:
        return _SavedTable(directory, self.split, self.columns or {})

    def _sample_id(self, fields: Fields) -> str:
        if "id" in fields.values:
            return super()._sample_id(fields)
        fields.sample_id = str(fields.row)
        return fields.sample_id


#: What a column can be, and which of them a data set must have.
FIELDS = ("id", "question", "images", "answers", "options", "category", "cluster")
REQUIRED_FIELDS = ("question", "images", "answers")
_BATCH = 64


class _SavedTable:
    """A directory that `save_to_disk` wrote, opened when it is needed; for the arguments see `HuggingFaceData`."""

    def __init__(self, path: Path, split: str | None, columns: Mapping[str, str]) -> None:
        self.path, self.split = path, split
        self._table: Any = None
        self._columns = _map_columns(columns, self.table.column_names, path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}

    @property
    def table(self) -> Any:
        """The data set in arrow format, so that images stay bytes."""
        if self._table is None:
            self._table = self._open().with_format("arrow")
        return self._table

    def rows(self) -> Iterator[TableRow]:
        labels = label_names(self.table.features.to_dict())
        table = self.table.select_columns(list(set(self._columns.values())))
        for number, row in enumerate(row for batch in table.iter(batch_size=_BATCH) for row in batch.to_pylist()):
            row = with_labels(row, labels)
            yield TableRow({name: row[column] for name, column in self._columns.items()}, f"row {number}", number)

    def value(self, key: int, column: str) -> Any:
        name = self._columns[column]
        return self.table.select_columns([name])[key].column(name).to_pylist()[0]

    def _open(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise ImportError(
                f'"{self.path}" needs datasets, which is not installed, to be opened. '
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
                f'got split={show(self.split)}, expected one of {", ".join(opened)} of "{self.path}".'
                f"{did_you_mean(self.split, opened)}"
            )
        return opened[self.split]


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


#: Name -> the class that reads the format.
FORMATS: Mapping[str, type[Dataset] | type[SFTData]] = {
    "rl_data": RLData,
    "evaluation": EvaluationData,
    "sft": SFTData,
    "vstar": VStar,
    "tallyqa": TallyQA,
    "infographicvqa": InfographicVQA,
    "mvbench": MVBench,
    "hrbench": HRBench,
    "jsonl": JSONL,
    "huggingface": HuggingFaceData,
}
#: Bytes of a json file that are searched for the names of its fields.
_BEGINNING = 64 * 1024
_SUFFIXES = {".parquet": "rl_data", ".tsv": "hrbench"}
# A json file is the format whose fields it begins with.
_JSON_FIELDS = {
    "sft": {"message_list"},
    "tallyqa": {"issimple", "question_id"},
    "infographicvqa": {"questionId", "image_local_name"},
    "mvbench": {"candidates", "video"},
}


def open_dataset(path: str | Path, format: str = "auto", **arguments: Any) -> Dataset | SFTData:
    """Opens the data set of a directory or file, in a format of `FORMATS`, or "auto" to recognize it from the files.

    `arguments` are those of the format's class, such as `skip_bad_rows` or TallyQA's `subset`.

    Raises:
        DataError: the format is not recognized, or the data are not as described.
        TypeError: the format has no such argument.
        ValueError: an unknown format.
    """
    name = recognize(path) if format == "auto" else format
    if name not in FORMATS:
        raise ValueError(
            f'got format="{quote(str(name))}", expected "auto" or one of {", ".join(FORMATS)}.'
            f"{did_you_mean(name, FORMATS)}"
        )
    known = list(inspect.signature(FORMATS[name]).parameters)[1:]
    for argument in arguments:
        if argument not in known:
            raise TypeError(
                f'got the argument "{quote(argument)}", expected one of those of {name}: {", ".join(known)}.'
                f"{did_you_mean(argument, known)}"
            )
    loader: Callable[..., Dataset | SFTData] = FORMATS[name]
    return loader(path, **arguments)


def recognize(path: str | Path) -> str:
    """Returns the name of the format of a directory or file; an evaluation set is RL data here, which is read alike.

    Raises:
        DataError: there is nothing, or it looks like no format, or like several.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f'"{quote(str(path), 300)}" does not exist; expected a data set. Check the path.')
    found = sorted(_candidates(path))
    if len(found) != 1:
        looks = f"like {' and like '.join(found)}" if found else "like none of the known formats"
        raise DataError(
            f'"{path}" looks {looks}; expected exactly one of {", ".join(FORMATS)}. Give the format by name, and see '
            "docs/data.md for what the files of each are called."
        )
    return found[0]


def _candidates(path: Path) -> set[str]:
    if path.is_dir() and ((path / "dataset_dict.json").is_file() or (path / "state.json").is_file()):
        return {"huggingface"}
    files = [path] if path.is_file() else sorted(entry for entry in path.iterdir() if entry.is_file())
    if any(file.name == "test_questions.jsonl" for file in files):
        return {"vstar"}
    for folder in (path / "json", path / "infographicsvqa_qas"):
        files += sorted(folder.glob("*.json"))[:3]
    found: set[str] = set()
    for file in files:
        if file.suffix in _SUFFIXES:
            found.add(_SUFFIXES[file.suffix])
        elif file.suffix in (".json", ".jsonl"):
            fields = _by_fields(file)
            found |= fields if file.suffix == ".json" else (fields & {"sft"} or {"jsonl"})
    return found


def _by_fields(file: Path) -> set[str]:
    with open(file, "rb") as opened:
        beginning = opened.read(_BEGINNING).decode("utf-8", "replace")
    fields = set(re.findall(r'"(\w+)"\s*:', beginning))
    return {name for name, needed in _JSON_FIELDS.items() if needed <= fields}
