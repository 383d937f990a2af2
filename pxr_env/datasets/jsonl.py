"""The format of this project: one JSON object per line."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pxr_env.datasets.fields import Fields, RowError
from pxr_env.datasets.media_files import ImageFile, MediaFiles, Medium
from pxr_env.datasets.options import LETTERS, check_options, letter_of, with_options
from pxr_env.datasets.paths import DataDirectory
from pxr_env.datasets.readers import find_file, read_json_lines
from pxr_env.datasets.rows import Dataset, Progress, Record
from pxr_env.errors import show
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
    - `images`: a path or a list of paths; or `video`: a video file, a folder of frames, or a list of frame files.
    - `answers`: a text or a list of accepted texts. With `options`: letters, or the options' texts.
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
        self._media = MediaFiles(files, check=check_media)
        super().__init__(
            path, read_json_lines(path), self._record, skip_bad_rows=skip_bad_rows, limit=limit, progress=progress
        )

    def _record(self, fields: Fields) -> Record:
        sample_id = fields.identifier("id")
        fields.refuse_others(KEYS)
        question = fields.text("question")
        answers = fields.texts("answers", or_one=True)
        options: tuple[str, ...] = ()
        if "options" in fields:
            options = check_options(fields.texts("options"))
            answers = tuple(dict.fromkeys(_letter(answer, options) for answer in answers))
            question = with_options(question, options)
        media = self._find(fields)
        return Record(
            sample_id=sample_id,
            question=question,
            media=media,
            answers=answers,
            options=options,
            needs_operation=fields.flag("needs_operation"),
            evidence_box=self._evidence_box(fields, media[0]),
            evidence_time=_evidence_time(fields),
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
            return tuple(self._media.image(path) for path in fields.paths("images", or_one=True))
        fps = fields.number("fps")
        fps = 1.0 if fps is None else fps
        span = fields.span("start", "end")
        if isinstance(fields.values["video"], str):
            return (self._media.video(fields.path("video"), fps=fps, span=span),)
        return (self._media.frames(fields.paths("video"), fps=fps, span=span),)

    def _evidence_box(self, fields: Fields, medium: Medium) -> Box | None:
        box = fields.numbers("evidence_box", 4)
        if box is None:
            return None
        x1, y1, x2, y2 = box
        if not (0 <= x1 < x2 and 0 <= y1 < y2):
            raise RowError(
                f"evidence_box is {show(list(box))}; expected x1, y1, x2, y2 with 0 <= x1 < x2, 0 <= y1 < y2"
            )
        if isinstance(medium, ImageFile):
            width, height = self._media.size(medium)
            if x2 > width or y2 > height:
                raise RowError(f"evidence_box is {show(list(box))}; expected it inside the image of {width}x{height}")
        return x1, y1, x2, y2


def _letter(answer: str, options: tuple[str, ...]) -> str:
    """The letter that an answer names; bad if it is the letter of one option and the text of another."""
    by_letter = answer.strip() if answer.strip() in LETTERS[: len(options)] and len(answer.strip()) == 1 else None
    if by_letter is None:
        return letter_of(answer, options, "answers")
    if answer.strip() in options and letter_of(answer, options) != by_letter:
        raise RowError(
            f"answers has {show(answer)}, the letter of one option and the text of another; expected a letter"
        )
    return by_letter


def _evidence_time(fields: Fields) -> tuple[float, float] | None:
    times = fields.numbers("evidence_time", 2)
    if times is None:
        return None
    first, last = times
    start, end = fields.span("start", "end")
    if not 0 <= first < last or (end is not None and last > end - (start or 0.0)):
        raise RowError(f"evidence_time is {show(list(times))}; expected 0 <= from < to, inside the clip (s)")
    return first, last
