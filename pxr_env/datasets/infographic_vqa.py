"""InfographicVQA: reading posters and charts."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pxr_env.arguments import text
from pxr_env.datasets.answers import read_answers
from pxr_env.datasets.fields import Fields
from pxr_env.datasets.media_files import MediaFiles
from pxr_env.datasets.paths import DataDirectory
from pxr_env.datasets.readers import JSONList
from pxr_env.datasets.rows import Dataset, Progress, Record
from pxr_env.errors import DataError


class InfographicVQA(Dataset):
    """InfographicVQA as the challenge hands it out: one json per split and a folder of images.

    Source: rrc.cvc.uab.es, DocVQA task 3 (Mathew et al., arXiv 2104.12756).

    The json is `infographicsVQA_SPLIT_v1.0*.json` (also written `infographicVQA_...`) in the directory or its folder
    `infographicsvqa_qas`; of several, the one with question types (`withQT`). It holds `data`, a list of rows with
    `questionId`, `question`, `image_local_name`, `answers` (all are accepted) and, with question types, `answer_type`,
    which becomes the category. Images lie in `infographicsvqa_images`, `infographicVQA_SPLIT_v1.0_images` or `images`.
    The test split comes without answers; its rows are bad rows.

    Args:
        directory: where the json, or its folder, lies.
        split: "train", "val" or "test".
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows only.
        check_media: read the header of every image; without, files only have to exist.
        progress: is called with the number of rows read, now and then.

    Raises:
        DataError: the file is missing or has no `data`, or bad rows; all of them are named.
    """

    scorer: ClassVar[str] = "anls"

    def __init__(
        self,
        directory: str | Path,
        *,
        split: str = "val",
        skip_bad_rows: bool = False,
        limit: int | None = None,
        check_media: bool = True,
        progress: Progress | None = None,
    ) -> None:
        files = DataDirectory(directory)
        path = _find(files.path, text("split", split))
        table = JSONList(path, under="data")
        self._media = MediaFiles(files, table, check=check_media)
        self._folders = (
            "infographicsvqa_images",
            f"infographicVQA_{split}_v1.0_images",
            f"infographicsVQA_{split}_v1.0_images",
            "images",
            "",
        )
        super().__init__(
            path,
            table.rows(),
            self._record,
            skip_bad_rows=skip_bad_rows,
            limit=limit,
            progress=progress,
        )

    def _record(self, fields: Fields) -> Record:
        sample_id = fields.identifier("questionId")
        kinds = fields.texts("answer_type", or_one=True) if "answer_type" in fields else ()
        return Record(
            sample_id=sample_id,
            place=fields.place,
            question=fields.text("question"),
            media=self._media.images(fields, "image_local_name", self._folders),
            answers=read_answers(fields, "answers"),
            category=", ".join(kinds) or None,
            metadata={"row": fields.row},
        )


def _find(directory: Path, split: str) -> Path:
    folders = (directory, directory / "infographicsvqa_qas")
    files = sorted(path for folder in folders for path in folder.glob(f"[iI]nfographic*_{split}_*.json"))
    typed = [path for path in files if "withQT" in path.name]
    files = typed if len(files) > 1 and typed else files
    if len(files) != 1:
        found = ", ".join(path.name for path in files[:5]) or "none"
        raise DataError(
            f'"{directory}" holds {len(files)} files infographicsVQA_{split}_*.json ({found}); expected exactly one. '
            "Check the split, or move the others."
        )
    return files[0]
