"""What identifies the data of a score, quickly enough for terabytes.

Every sample has a digest: SHA-256 over its id, question, options, accepted answers and evidence, and over what its
media files hold: their sizes and three blocks of each, at the beginning, in the middle and at the end (files of up to
192 KiB whole), or all bytes of an image inside a data file. Names and places of files do not count. Pictures that are
drawn (synthetic tasks) have no files: there the sample's facts, the environment's arguments and the version of the code
say what was shown.

The digest of a data set is SHA-256 over the digests of the samples that were run, in their order.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pxr_env.datasets import Dataset
from pxr_env.datasets.media import RowImage

#: Bytes at the beginning, in the middle and at the end of a file that are read.
BLOCK = 64 * 1024
#: Larger data files (tables with images inside) are read in blocks, too.
WHOLE_FILE = 64 * 1024 * 1024


def sample_digest(env: Any) -> str:
    """Digest of the running sample of a `VisualReasoningEnv`.

    Raises:
        OSError: a media file cannot be read.
    """
    sample = env.sample
    facts = {
        "id": sample.sample_id,
        "question": sample.question,
        "options": sample.options,
        "answers": sample.answers,
        "evidence_box": sample.evidence_box,
        "evidence_time": sample.evidence_time,
        "media": list(_media_digests(env.data, sample)),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8")).hexdigest()


def image_digest(image: np.ndarray) -> str:
    """Digest of an image as it was shown: of its height, width and channels, and every byte of it.

    Args:
        image: HxWx3 uint8.
    """
    digest = hashlib.sha256(json.dumps(image.shape).encode("ascii"))
    digest.update(np.ascontiguousarray(image, dtype=np.uint8).data)
    return digest.hexdigest()


def data_digest(sample_digests: Iterable[str]) -> str:
    """Digest of a data set from those of its samples, in order."""
    return hashlib.sha256("\n".join(sample_digests).encode("ascii")).hexdigest()


def data_file_digest(data: object) -> str | None:
    """Digest of the file that lists the questions; None where there is none, or more than one."""
    path = data.path if isinstance(data, Dataset) else None
    if path is None or not path.is_file():
        return None
    if path.stat().st_size > WHOLE_FILE:
        return _file_digest(str(path), _stamp(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _media_digests(data: object, sample: Any) -> Iterator[str]:
    if isinstance(data, Dataset):
        for medium in data.record(sample.sample_id).media:
            yield from _record_digests(medium)
        return
    for source in sample.sources:
        path = getattr(source, "path", None)
        if path is None:
            yield f"drawn {source.size[0]}x{source.size[1]}"
        else:
            yield from _path_digests(Path(path))


def _record_digests(medium: Any) -> Iterator[str]:
    """Of a file, a folder or list of frames with its clip and rate, or an image inside a data file."""
    yield json.dumps([getattr(medium, name, None) for name in ("start", "end", "fps")])
    if isinstance(medium, RowImage):
        yield medium.digest.hex()
        return
    for path in getattr(medium, "paths", None) or [path for path in [getattr(medium, "path", None)] if path]:
        yield from _path_digests(Path(path))


def _path_digests(path: Path) -> Iterator[str]:
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            yield _file_digest(str(file), _stamp(file))


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


# Images are asked about several times.
@functools.lru_cache(maxsize=65536)
def _file_digest(path: str, stamp: tuple[int, int]) -> str:
    """Digest of a file by its size and three blocks."""
    size = stamp[1]
    digest = hashlib.sha256(str(size).encode("ascii"))
    with open(path, "rb") as file:
        if size <= 3 * BLOCK:
            digest.update(file.read())
        else:
            for start in (0, (size - BLOCK) // 2, size - BLOCK):
                file.seek(start)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
