"""Files that grow, and an index over the episodes of a run: where each begins in the file, and the facts that lists
and filters need."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from eval.facts import Facts, Selection, facts_of
from eval.records import RunRecord, record_from_json

#: How many files stay open. An episode's facts are a kilobyte or two, its record stays in the file.
MAX_OPEN = 12


class GrowingLines:
    """The complete lines of a file that is appended to, and may be written anew.

    Args:
        path: the file; it need not be there yet.

    Attributes:
        offsets: of every complete line that was read so far, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets: list[int] = []
        self._lock = threading.Lock()
        self._end = 0
        self._inode: int | None = None
        self._last = b""
        self.clear()

    def refresh(self) -> None:
        """Take in what has been written since."""
        with self._lock:
            if self.is_rewritten():
                self.clear()
            for line in self.new():
                self.add(line)

    def clear(self) -> None:
        """Forget what was made of the lines so far."""

    def add(self, line: bytes) -> None:
        """Take in one more line."""

    def is_rewritten(self) -> bool:
        """Whether what was read before does not stand there any more; then everything is read again."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            rewritten = self._end > 0
        else:
            rewritten = bool(self._end) and (
                status.st_size < self._end
                or status.st_ino != self._inode
                # A resumed training writes its file anew in place.
                or self.read(len(self.offsets) - 1) != self._last
            )
        if rewritten:
            self.offsets, self._end, self._inode, self._last = [], 0, None, b""
        return rewritten

    def new(self) -> Iterator[bytes]:
        """The complete lines that have come since the last call. A line without its end is left for later."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            self._inode = self._inode or self.path.stat().st_ino
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offsets.append(self._end)
                self._end += len(line)
                self._last = line
                yield line

    def read(self, index: int) -> bytes:
        """Line `index`, from the file."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            return file.readline()


LinesT = TypeVar("LinesT", bound=GrowingLines)


class OpenFiles(Generic[LinesT]):
    """Growing files that are open, always up to date; the one that was not used for longest is closed first."""

    def __init__(self, kind: Callable[[Path], LinesT]) -> None:
        self._open = lru_cache(maxsize=MAX_OPEN)(kind)

    def get(self, path: Path) -> LinesT:
        file = self._open(path)
        file.refresh()
        return file


class EpisodeIndex(GrowingLines):
    """The episodes of one `episodes.jsonl`, which may still grow.

    Attributes:
        facts: one for every episode, in the order of the file.
        unreadable: what is wrong with lines that hold no episode, by their number from 1.
    """

    def clear(self) -> None:
        self.facts: list[Facts] = []
        self.unreadable: dict[int, str] = {}
        self._line_of: list[int] = []
        self._by_sample: dict[str, list[int]] = {}

    def add(self, line: bytes) -> None:
        number = len(self.offsets)
        try:
            record = _parse(line)
            facts = facts_of(record)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self.unreadable[number] = f"{type(error).__name__}: {error}"
            return
        of_sample = self._by_sample.setdefault(facts.sample_id, [])
        if any(self.facts[index].repeat == facts.repeat for index in of_sample):
            # A training does not number the episodes of a group.
            facts = replace(facts, repeat=len(of_sample))
        of_sample.append(len(self.facts))
        self.facts.append(facts)
        self._line_of.append(number - 1)

    def __len__(self) -> int:
        return len(self.facts)

    def record(self, index: int) -> RunRecord:
        """The whole episode, read from the file."""
        return _parse(self.read(self._line_of[index]))

    def group(self, sample_id: str) -> list[int]:
        """The episodes of a sample, in the order of their repeats; empty if there are none."""
        return sorted(self._by_sample.get(sample_id, []), key=lambda index: self.facts[index].repeat)

    def find(self, sample_id: str, nth: int) -> int | None:
        """The index of the `nth` episode of a sample, from 0; None if there is none."""
        group = self.group(sample_id)
        return group[nth] if 0 <= nth < len(group) else None

    def nth(self, index: int) -> int:
        """Which episode of its sample it is, from 0: what `find` takes."""
        return self.group(self.facts[index].sample_id).index(index)

    def select(self, selection: Selection) -> list[int]:
        """The episodes that pass, in the order of the file."""
        return [index for index, facts in enumerate(self.facts) if selection.matches(facts)]

    def samples(self) -> dict[str, list[int]]:
        """The episodes of every sample, in the order of the file."""
        # A copy of the keys: another request may be adding to them.
        return {sample_id: self.group(sample_id) for sample_id in list(self._by_sample)}

    def grouped(self) -> list[str]:
        """The samples with several episodes, in the order of the file."""
        return [sample_id for sample_id, members in list(self._by_sample.items()) if len(members) > 1]

    def operations(self) -> list[str]:
        """The names of operations that were executed."""
        return sorted({name for facts in self.facts for name in facts.usage})

    def categories(self) -> list[str]:
        """The categories, with the most frequent first."""
        counts = Counter(facts.category for facts in self.facts if facts.category is not None)
        return [category for category, _ in counts.most_common()]


def accuracy_so_far(facts: Sequence[Facts]) -> tuple[int, int]:
    """How many are correct, out of how many that have a score."""
    scored = [each for each in facts if each.outcome != "error"]
    return sum("correct" in each.tags for each in scored), len(scored)


def _parse(line: bytes) -> RunRecord:
    content = json.loads(line)
    if not isinstance(content, dict):
        raise TypeError(f"got a JSON {type(content).__name__}, expected an object")
    return record_from_json(content)
