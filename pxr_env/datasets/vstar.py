"""V* Bench: small details in large photographs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pxr_env.datasets.answers import read_answers
from pxr_env.datasets.evidence import box_problem
from pxr_env.datasets.fields import Fields, RowError
from pxr_env.datasets.media_files import ImageFile, MediaFiles, Medium
from pxr_env.datasets.options import read_options
from pxr_env.datasets.paths import DataDirectory, UnsafePathError
from pxr_env.datasets.readers import JSONLines, find_file, read_json
from pxr_env.datasets.rows import Dataset, Progress, Record
from pxr_env.errors import DataError, quote, show
from pxr_env.geometry import Box

_FILE = "test_questions.jsonl"
_INSTRUCTION = "Answer with the option's letter from the given choices directly."


class VStar(Dataset):
    """V* Bench as it is published: `test_questions.jsonl` and one folder of images per category.

    Source: craigwu/vstar_bench (Wu and Xie, arXiv 2312.14135); 115 direct_attributes, 76 relative_position.

    Fields: `image` (path), `text` (question, lines "(A) ..." with the options, and an instruction), `category`,
    `label` (letter of the right option), `question_id`. The answer is the letter.

    Beside every image upstream has a json with `bbox`, a list of x, y, width, height in pixels for the objects that are
    asked about. Where it is there, the smallest box around all of them becomes the evidence box.

    Args:
        directory: where `test_questions.jsonl` lies.
        instruction: keep the last line of every question, "Answer with the option's letter from the given choices
            directly." Without it a model may reason first.
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows only.
        check_media: read the header of every image; without, files only have to exist.
        progress: is called with the number of rows read, now and then.

    Raises:
        DataError: the file is missing, or bad rows; all of them are named.
    """

    scorer: ClassVar[str] = "multiple_choice"

    def __init__(
        self,
        directory: str | Path,
        *,
        instruction: bool = True,
        skip_bad_rows: bool = False,
        limit: int | None = None,
        check_media: bool = True,
        progress: Progress | None = None,
    ) -> None:
        files = DataDirectory(directory)
        path = find_file(files.path, _FILE, "the questions")
        self._files = files
        table = JSONLines(path)
        self._media = MediaFiles(files, table, check=check_media)
        self._instruction = instruction
        super().__init__(
            path,
            table.rows(),
            self._record,
            skip_bad_rows=skip_bad_rows,
            limit=limit,
            progress=progress,
        )

    def _record(self, fields: Fields) -> Record:
        sample_id = fields.identifier("question_id")
        question = fields.text("text")
        options = read_options(question)
        answers = read_answers(fields, "label", options, form="letter")
        media = self._media.images(fields, "image")
        if not self._instruction:
            question = question.strip().removesuffix(_INSTRUCTION).rstrip()
        return Record(
            sample_id=sample_id,
            place=fields.place,
            question=question,
            media=media,
            answers=answers,
            options=options,
            category=fields.text("category"),
            evidence_box=self._evidence(fields.values["image"], media[0]),
            metadata={"row": fields.row},
        )

    def _evidence(self, name: object, image: Medium) -> Box | None:
        if not isinstance(image, ImageFile) or not isinstance(name, str):
            return None
        annotation = name.rpartition(".")[0] + ".json"
        try:
            path = self._files.find(annotation)
            if path is None or not os.path.isfile(path):
                return None
            content = read_json(Path(path))
        except (UnsafePathError, DataError) as error:
            raise RowError(f'its annotation "{quote(annotation)}" cannot be used: {error}') from error
        boxes = _boxes(content, annotation)
        width, height = self._media.size(image) or (0, 0)
        # Annotators' boxes may stick out by a pixel.
        box = (
            max(0.0, min(x for x, _, _, _ in boxes)),
            max(0.0, min(y for _, y, _, _ in boxes)),
            min(float(width), max(x + w for x, _, w, _ in boxes)),
            min(float(height), max(y + h for _, y, _, h in boxes)),
        )
        if box[0] >= box[2] or box[1] >= box[3]:
            raise RowError(f'bbox of "{annotation}" lies outside of its image of {width}x{height} pixels')
        if problem := box_problem(box, (width, height)):
            raise RowError(f'bbox of "{annotation}", as a box around its objects: {problem}')
        return box


def _boxes(content: object, annotation: str) -> list[tuple[float, ...]]:
    boxes: Any = content.get("bbox") if isinstance(content, Mapping) else None
    if not isinstance(boxes, list) or not boxes or not all(map(_is_box, boxes)):
        raise RowError(f'bbox of "{annotation}" is {show(boxes)}; expected a list of x, y, width, height')
    return [tuple(map(float, box)) for box in boxes]


def _is_box(box: object) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(value, int | float) and abs(value) < 1e6 for value in box)
        and box[2] > 0
        and box[3] > 0
    )
