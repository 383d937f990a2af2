"""The format of this project: one JSON object per line."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pxr_env.datasets.answers import read_answers
from pxr_env.datasets.evidence import box_problem, time_problem
from pxr_env.datasets.fields import Fields, RowError
from pxr_env.datasets.media_files import FrameFiles, FrameFolder, MediaFiles, Medium
from pxr_env.datasets.options import check_options, with_options
from pxr_env.datasets.paths import DataDirectory
from pxr_env.datasets.readers import JSONLines, find_file
from pxr_env.datasets.rows import Dataset, Progress, Record
from pxr_env.errors import MediaError
from pxr_env.geometry import Box

#: All keys of a line.
KEYS = (
    "id",
    "question",
    "images",
    "video",
    "answers",
    "options",
    "category",
    "cluster",
    "start",
    "end",
    "fps",
    "evidence_box",
    "evidence_time",
    "needs_operation",
)


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
        path: the file, or a directory with one `*.jsonl` in it.
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows only.
        check_media: read the header of every file; without, files only have to exist.
        progress: is called with the number of rows read, now and then.

    Raises:
        DataError: no such file, or bad rows; all of them are named.
    """

    scorer: ClassVar[str] = "auto"

    def __init__(
        self,
        path: str | Path,
        *,
        skip_bad_rows: bool = False,
        limit: int | None = None,
        check_media: bool = True,
        progress: Progress | None = None,
    ) -> None:
        path = Path(path)
        if path.is_file():
            files = DataDirectory(path.parent)
        else:
            files = DataDirectory(path)
            path = find_file(path, "*.jsonl", "the questions")
        table = JSONLines(path)
        self._media = MediaFiles(files, table, check=check_media)
        super().__init__(path, table.rows(), self._record, skip_bad_rows=skip_bad_rows, limit=limit, progress=progress)

    def _record(self, fields: Fields) -> Record:
        sample_id = fields.identifier("id")
        fields.refuse_others(KEYS)
        question = fields.text("question")
        options = check_options(fields.texts("options")) if "options" in fields else ()
        answers = read_answers(fields, "answers", options)
        if options:
            question = with_options(question, options)
        media = self._find(fields)
        return Record(
            sample_id=sample_id,
            place=fields.place,
            question=question,
            media=media,
            answers=answers,
            options=options,
            needs_operation=fields.flag("needs_operation"),
            evidence_box=self._evidence_box(fields, media[0]),
            evidence_time=_evidence_time(fields, media[0]),
            category=fields.optional_text("category"),
            cluster=fields.label("cluster"),
            metadata={"row": fields.row},
        )

    def _find(self, fields: Fields) -> tuple[Medium, ...]:
        if ("images" in fields) == ("video" in fields):
            raise RowError("it has both images and video, or neither; expected one of them")
        if "images" in fields:
            for name in ("start", "end", "fps", "evidence_time"):
                if name in fields:
                    raise RowError(f"it has {name} and images; expected it beside a video only")
            return self._media.images(fields, "images")
        fps = fields.number("fps")
        fps = 1.0 if fps is None else fps
        span = fields.span("start", "end")
        if isinstance(fields.values["video"], str):
            return (self._media.video(fields.path("video"), fps=fps, span=span),)
        return (self._media.frames(fields.values["video"], fps=fps, span=span),)

    def _evidence_box(self, fields: Fields, medium: Medium) -> Box | None:
        box = fields.numbers("evidence_box", 4)
        if box is None:
            return None
        x1, y1, x2, y2 = box
        if problem := box_problem((x1, y1, x2, y2), self._media.size(medium)):
            raise RowError(problem)
        return x1, y1, x2, y2


def _evidence_time(fields: Fields, medium: Medium) -> tuple[float, float] | None:
    times = fields.numbers("evidence_time", 2)
    if times is None:
        return None
    first, last = times
    # How long a video file is, is found when it is opened.
    source = medium.open() if isinstance(medium, FrameFiles | FrameFolder) else None
    start, end = fields.span("start", "end")
    try:
        problem = time_problem((first, last), source, None if end is None else end - (start or 0.0))
    except MediaError as error:
        raise RowError(str(error)) from error
    if problem:
        raise RowError(problem)
    return first, last
