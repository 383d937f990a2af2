"""TallyQA: counting."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pxr_env.arguments import choose, text
from pxr_env.datasets.answers import read_answers
from pxr_env.datasets.fields import Fields, RowError
from pxr_env.datasets.media_files import MediaFiles
from pxr_env.datasets.paths import DataDirectory
from pxr_env.datasets.readers import JSONList, find_file
from pxr_env.datasets.rows import Dataset, Progress, Record
from pxr_env.errors import show

#: Simple questions name a kind of object, complex ones ask for a relation or an attribute too.
SUBSETS = ("complex", "simple", "all")


class TallyQA(Dataset):
    """TallyQA as it is published: `test.json` (or `train.json`), and images of Visual Genome and COCO.

    Source: github.com/manoja328/TallyQA_dataset (Acharya et al., arXiv 1810.12440).

    Fields: `image` (path such as `VG_100K_2/2410408.jpg` or `val2014/COCO_val2014_000000000042.jpg`, looked up in the
    directory, then in its `images`), `question`, `answer` (whole number), `issimple` (bool), `question_id`; `image_id`
    and `data_source` are not read. The answer is the number in digits.

    Args:
        directory: where the json file lies.
        subset: "complex" (what the paper reports), "simple" or "all". Rows outside of it are not checked.
        split: the name of the json file.
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows of the file only.
        check_media: read the header of every image; without, files only have to exist.
        progress: is called with the number of rows read, now and then.

    Raises:
        DataError: the file is missing, or bad rows; all of them are named.
        ValueError: an unknown subset.
    """

    scorer: ClassVar[str] = "number"

    def __init__(
        self,
        directory: str | Path,
        *,
        subset: str = "complex",
        split: str = "test",
        skip_bad_rows: bool = False,
        limit: int | None = None,
        check_media: bool = True,
        progress: Progress | None = None,
    ) -> None:
        choose(dict.fromkeys(SUBSETS), subset, "subset=", "Choose one.")
        files = DataDirectory(directory)
        path = find_file(files.path, f"{text('split', split)}.json", "the questions")
        table = JSONList(path)
        self._media = MediaFiles(files, table, check=check_media)
        self._subset = subset
        super().__init__(
            path,
            table.rows(),
            self._record,
            skip_bad_rows=skip_bad_rows,
            limit=limit,
            progress=progress,
        )

    def _record(self, fields: Fields) -> Record | None:
        sample_id = fields.identifier("question_id")
        is_simple = fields.flag("issimple")
        if is_simple is None:
            raise RowError("issimple is null; expected true or false")
        category = "simple" if is_simple else "complex"
        if self._subset not in ("all", category):
            return None
        answers = read_answers(fields, "answer")
        if not all(answer.isascii() and answer.isdecimal() and len(answer) < 10 for answer in answers):
            raise RowError(f"answer is {show(fields.values['answer'])}; expected a whole number, at least 0")
        return Record(
            sample_id=sample_id,
            place=fields.place,
            question=fields.text("question"),
            media=self._media.images(fields, "image", ("", "images")),
            answers=answers,
            category=category,
            metadata={"row": fields.row},
        )
