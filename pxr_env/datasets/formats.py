"""The table of formats, and how a directory's format is recognized."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pxr_env.datasets.benchmarks import HRBench, InfographicVQA, MVBench, TallyQA, VStar
from pxr_env.datasets.own_data import JSONL, HuggingFaceData
from pxr_env.datasets.released import EvaluationData, RLData, SFTData
from pxr_env.datasets.rows import Dataset
from pxr_env.errors import DataError, did_you_mean, quote

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
# A json file is the format whose fields it begins with.
_JSON_FIELDS = {
    "sft": {"message_list"},
    "tallyqa": {"issimple", "question_id"},
    "infographicvqa": {"questionId", "image_local_name"},
    "mvbench": {"candidates", "video"},
}


def open_dataset(path: str | Path, format: str = "auto", **arguments: Any) -> Dataset | SFTData:
    """Opens a data set of any format.

    Args:
        path: its directory or file.
        format: a name of `FORMATS`, or "auto" to recognize it from the files.
        arguments: further arguments of the format's class, such as `skip_bad_rows` or TallyQA's `subset`.

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
    """Returns the name of the format of a directory or file.

    An evaluation set looks like RL data and is recognized as that; the two are read alike.

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
    found = {name for file in files if (name := _by_name(file)) is not None}
    folders = [path / "json", path / "infographicsvqa_qas"] if path.is_dir() else []
    for file in [*files, *(file for folder in folders for file in sorted(folder.glob("*.json"))[:3])]:
        if file.suffix == ".json":
            found |= _by_fields(file)
    return found


def _by_name(file: Path) -> str | None:
    if file.suffix == ".jsonl":
        return "sft" if "sft" in _by_fields(file) else "jsonl"
    return {".parquet": "rl_data", ".tsv": "hrbench"}.get(file.suffix)


def _by_fields(file: Path) -> set[str]:
    with open(file, "rb") as opened:
        beginning = opened.read(_BEGINNING).decode("utf-8", "replace")
    fields = set(re.findall(r'"(\w+)"\s*:', beginning))
    return {name for name, needed in _JSON_FIELDS.items() if needed <= fields}
