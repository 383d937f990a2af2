"""An index over the episodes of a run: where each begins in the file, and the facts that lists and filters need."""

from __future__ import annotations

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.facts import Facts, Selection, facts_of
from eval.records import Record, record_from_json
from eval.view.lines import GrowingLines

#: How many runs stay indexed. An episode's facts are a kilobyte or two, its record stays in the file.
MAX_INDEXES = 12


class EpisodeIndex:
    """The episodes of one `episodes.jsonl`, which may still grow.

    Args:
        path: the file.

    Attributes:
        facts: one for every episode, in the order of the file.
        unreadable: what is wrong with lines that hold no episode, by their number from 1.
    """

    def __init__(self, path: Path) -> None:
        self._lines = GrowingLines(path)
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self.facts: list[Facts] = []
        self.unreadable: dict[int, str] = {}
        self._line_of: list[int] = []
        self._by_sample: dict[str, list[int]] = {}

    def refresh(self) -> None:
        """Take in what has been written since."""
        with self._lock:
            if self._lines.is_rewritten():
                self._clear()
            for line in self._lines.new():
                self._add(line)

    def _add(self, line: bytes) -> None:
        number = len(self._lines.offsets)
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

    def record(self, index: int) -> Record:
        """The whole episode, read from the file."""
        return _parse(self._lines.read(self._line_of[index]))

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


class Indexes:
    """The indexes that are open; the one that was not used for longest is forgotten first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, EpisodeIndex] = OrderedDict()

    def get(self, path: Path) -> EpisodeIndex:
        """The index of a file, up to date."""
        with self._lock:
            index = self._open.setdefault(path, EpisodeIndex(path))
            self._open.move_to_end(path)
            while len(self._open) > MAX_INDEXES:
                self._open.popitem(last=False)
        index.refresh()
        return index


def accuracy_so_far(facts: Sequence[Facts]) -> tuple[int, int]:
    """How many are correct, out of how many that have a score."""
    scored = [each for each in facts if each.outcome != "error"]
    return sum("correct" in each.tags for each in scored), len(scored)


def _parse(line: bytes) -> Record:
    content = json.loads(line)
    if not isinstance(content, dict):
        raise TypeError(f"a JSON {type(content).__name__} came; expected an object")
    return record_from_json(content)
