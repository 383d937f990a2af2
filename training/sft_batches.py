"""The batches of a warm start: which traces a process reads for a step, and how they go through the model.

Rows are padded to similar lengths, or packed: a packed row holds several traces, one after the other. Its attention
mask is block-diagonal: no id sees another trace. transformers makes that mask (sdpa, eager), or the lengths for a
kernel that needs none (flash_attention_2), from positions in the text that begin again at 0 with every trace. They
travel in front of the three M-RoPE positions, which begin again, too. The vision tower encodes every image by itself
anyway. So a packed row computes what its traces do alone, up to rounding, and nothing for padding.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from pxr_agents.types import Tokens
from pxr_agents.vlm import TokenBatch, collate, split_by_length
from pxr_env.errors import DataError, MediaError
from training.batch import BUCKET_TOKENS, pack
from training.logs import read_lines
from training.run_directory import SampleCursor
from training.sft_data import Rows

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One process' share of the traces of a step."""

    rows: tuple[Tokens, ...]
    names: tuple[str, ...]
    """Of the traces in `rows`."""
    bad: tuple[tuple[str, str], ...]
    """Name and cause of traces that were to be in it and could not be read."""
    cursor: dict[str, int]
    """Where the step after this one begins (see `SampleCursor.state_dict`)."""


def read_batches(
    rows: Rows,
    cursor: SampleCursor,
    share: slice,
    *,
    batch_size: int,
    max_length: int | None = None,
    skip_bad_rows: bool = False,
) -> Iterator[Batch]:
    """Yields batch after batch, without end.

    Args:
        rows: the traces.
        cursor: over their numbers; the same in all processes.
        share: which traces of a step are read here; the second of three processes reads slice(1, None, 3).
        batch_size: traces of a step, of all processes together.
        max_length: a trace with more ids is bad.
        skip_bad_rows: leave bad traces out of their batch.

    Raises:
        DataError, MediaError: a trace is bad (without `skip_bad_rows`).
    """
    while True:
        kept: list[Tokens] = []
        names: list[str] = []
        bad: list[tuple[str, str]] = []
        for number in map(int, cursor.take(batch_size)[share]):
            name = rows.name(number)
            try:
                row = rows.row(number)
                if max_length is not None and len(row.ids) > max_length:
                    raise DataError(
                        f"{name}: got {len(row.ids)} ids, expected at most max_length={max_length}. Lower the pixel "
                        f"budget of its images, raise max_length, or set skip_bad_rows=true."
                    )
            except (DataError, MediaError) as error:
                if not skip_bad_rows:
                    raise
                bad.append((name, str(error)))
                continue
            kept.append(row)
            names.append(name)
        yield Batch(rows=tuple(kept), names=tuple(names), bad=tuple(bad), cursor=cursor.state_dict())


def read_ahead(items: Iterator[T], ahead: int) -> Generator[T, None, None]:
    """The items, of which `ahead` are made in a thread before they are asked for; 0 for no thread.

    What is raised in the making is raised where the item would have come. `close` ends the thread once the item in
    the making is made.

    Args:
        items: without end; from now on only the thread touches it.
        ahead: how many wait, the one in the making included.
    """
    if not ahead:
        yield from items
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="read_ahead")
    try:
        waiting = deque(pool.submit(next, items) for _ in range(ahead))
        while True:
            item = waiting.popleft().result()
            waiting.append(pool.submit(next, items))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def note_skipped(path: Path, skipped: Iterable[tuple[str, str]]) -> None:
    """Add traces (name, cause) to OUT/skipped_rows.jsonl; those that are there already are not written again."""
    known = {line["name"] for line in read_lines(path)}
    new = {name: cause for name, cause in skipped if name not in known}
    if new:
        with path.open("a", encoding="utf-8") as file:
            for name, cause in new.items():
                file.write(json.dumps({"name": name, "cause": cause}, ensure_ascii=False) + "\n")


def parts(rows: Sequence[Tokens], *, pack_tokens: int | None, micro_batch_tokens: int | None) -> list[list[Tokens]]:
    """Rows that go forward and backward together; all of them where neither limit is given.

    Args:
        rows: the traces of a step.
        pack_tokens: ids of a packed row, at most; a longer trace gets a row of its own.
        micro_batch_tokens: ids of padded rows, at most, padding included.
    """
    if not rows:
        return []
    lengths = [len(row.ids) for row in rows]
    if pack_tokens is not None:
        groups = pack(lengths, pack_tokens)
    elif micro_batch_tokens is not None:
        groups = split_by_length(lengths, max_tokens=micro_batch_tokens)
    else:
        groups = [list(range(len(rows)))]
    return [[rows[k] for k in sorted(group)] for group in groups if group]


def tensors(rows: Sequence[Tokens], *, packed: bool) -> list[TokenBatch]:
    """The rows of one part as tensors: one packed row, or rows of similar lengths together, shorter ones first."""
    if packed:
        return [pack_rows(rows)]
    groups = split_by_length([len(row.ids) for row in rows], max_tokens=BUCKET_TOKENS)
    return [collate([rows[k] for k in group]) for group in groups]


def pack_rows(rows: Sequence[Tokens]) -> TokenBatch:
    """One row (1, L) of all traces, side by side; its positions are (4, 1, L): in the text, and M-RoPE's three."""
    lengths = [len(row.ids) for row in rows]
    in_text = np.concatenate([np.arange(length) for length in lengths])
    positions = np.concatenate([row.positions for row in rows], axis=1)
    target = np.concatenate([row.action for row in rows])
    # The first id of a trace follows on the last one of another: nothing says what it should be.
    target[np.cumsum([0, *lengths[:-1]])] = False
    return TokenBatch(
        ids=torch.from_numpy(np.concatenate([row.ids for row in rows]).astype(np.int64))[None],
        positions=torch.from_numpy(np.concatenate([in_text[None], positions]).astype(np.int64))[:, None],
        target=torch.from_numpy(target)[None],
        images=tuple(image for row in rows for image in row.images),
    )


def blank_row(image_id: int, side: int) -> Tokens:
    """A row that trains nothing and shows a black image of one token.

    Learners that share one model have to run the same layers equally often (ZeRO): where one has no trace, or no image,
    this stands in.

    Args:
        image_id: the id that stands for a vision token.
        side: of an image of one vision token, in pixels.
    """
    return Tokens(
        ids=np.array([image_id], np.int32),
        action=np.zeros(1, bool),
        logprobs=np.zeros(1, np.float32),
        positions=np.zeros((3, 1), np.int32),
        images=(np.zeros((side, side, 3), np.uint8),),
        turn_ends=(),
    )
