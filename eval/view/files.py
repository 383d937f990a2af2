"""What the viewer reads: files that grow, an index over the episodes of a run, and which runs there are."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from ..facts import Facts, Selection, facts_of
from ..records import RunRecord, record_from_json

Kind = Literal["evaluation", "training", "quick start"]

#: How many files stay open. An episode's facts are a kilobyte or two, its record stays in the file.
MAX_OPEN = 12
#: Pages that a run may hold, and where.
PAGES = {"report": "report.html", "audit": "audit/audit.html"}
#: Directories inside a run that hold no runs of their own, and may hold very many files.
_NO_RUNS = frozenset({"checkpoints", "model", "episodes", "wandb", ".git", "__pycache__", "node_modules", ".venv"})
#: How deep and how wide is looked for runs, and seconds for which a list of them is taken to be current.
MAX_DEPTH, MAX_DIRECTORIES, LIST_SECONDS = 8, 20_000, 2.0
#: Seconds after the last line for which an unfinished run counts as running.
RUNNING_SECONDS = 180.0


class GrowingLines:
    """The complete lines of a file that is appended to, and may be written anew; it need not be there yet.

    `offsets` are those of every complete line that was read so far, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._end, self._inode, self._last = 0, -1, b""
        self._forget()

    def refresh(self) -> None:
        """Take in what has been written since. A line without its end is left for later."""
        with self._lock:
            try:
                file = self.path.open("rb")
            except FileNotFoundError:
                self._forget()
                return
            with file:
                status = os.fstat(file.fileno())
                # A resumed training writes its file anew in place.
                if status.st_size < self._end or status.st_ino != self._inode or self._last_line() != self._last:
                    self._forget()
                self._inode = status.st_ino
                file.seek(self._end)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self.offsets.append(self._end)
                    self._end += len(line)
                    self._last = line
                    self.add(line)

    def clear(self) -> None:
        """Forget what was made of the lines so far."""

    def add(self, line: bytes) -> None:
        """Take in one more line."""

    def read(self, index: int) -> bytes:
        """Line `index`, from the file."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            return file.readline()

    def _last_line(self) -> bytes:
        return self.read(-1) if self.offsets else b""

    def _forget(self) -> None:
        self.offsets: list[int] = []
        self._end, self._inode, self._last = 0, -1, b""
        self.clear()


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
    """The episodes of one `episodes.jsonl`, which may still grow: `facts` of each in the order of the file, and what is
    wrong with `unreadable` lines, by their number from 1."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run: its directory, what wrote it, and `key`, its path below the directory that is served, with slashes."""

    key: str
    path: Path
    kind: Kind

    @property
    def is_finished(self) -> bool:
        last = {"evaluation": "metrics.json", "training": "model", "quick start": "summary.json"}[self.kind]
        return (self.path / last).exists()

    @property
    def lines(self) -> Path:
        """The file that grows while it goes on."""
        return self.path / ("episodes.jsonl" if self.kind == "evaluation" else "metrics.jsonl")

    @property
    def changed(self) -> float:
        """When something was last written, in seconds since the epoch."""
        paths = (self.lines, self.path / "metrics.json", self.path / "manifest.json", self.path / "summary.json")
        return max((status.st_mtime for path in paths if (status := _status(path))), default=0.0)

    @property
    def is_running(self) -> bool:
        """Whether it is unfinished and was written to just now."""
        return not self.is_finished and time.time() - self.changed < RUNNING_SECONDS

    def file(self, name: str) -> Path | None:
        """One of `PAGES`, if it was written into the run and lies in it."""
        if name not in PAGES:
            return None
        path = self.path / PAGES[name]
        inside = path.resolve().is_relative_to(self.path.resolve())
        return path if path.is_file() and inside else None

    def iterations(self) -> list[int]:
        """Iterations of a training whose episodes were written down."""
        folder = self.path / "episodes"
        if not folder.is_dir():
            return []
        return sorted(int(name) for name in os.listdir(folder) if name.isascii() and name.isdecimal())


class Library:
    """The runs below a directory. Links to directories are not followed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._read_at = -LIST_SECONDS
        self._json: dict[Path, tuple[str, dict[str, Any]]] = {}

    def runs(self) -> dict[str, Run]:
        """All runs by key."""
        with self._lock:
            if time.monotonic() - self._read_at >= LIST_SECONDS:
                self._runs = {run.key: run for run in find_runs(self.root)}
                self._read_at = time.monotonic()
            return self._runs

    def read(self, path: Path) -> dict[str, Any]:
        """A JSON object from a file; empty if it is not there or holds something else. Read again when it changed."""
        state = signature(path)
        if self._json.get(path, ("", {}))[0] != state:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                content = {}
            self._json[path] = state, content if isinstance(content, dict) else {}
        return self._json[path][1]


def find_runs(root: Path) -> list[Run]:
    """The runs in `root` and below, in the order of their paths."""
    runs = []
    for number, (folder, names, files) in enumerate(os.walk(root, followlinks=False)):
        path = Path(folder)
        relative = path.relative_to(root)
        kind = kind_of(names, files)
        if kind is not None:
            # A directory that is a run itself is called by its name.
            key = relative.as_posix() if relative.parts else root.resolve().name
            runs.append(Run(key=key, path=path, kind=kind))
        if number >= MAX_DIRECTORIES or len(relative.parts) >= MAX_DEPTH:
            names.clear()
        names[:] = sorted(name for name in names if name not in _NO_RUNS)
    return sorted(runs, key=lambda run: run.key)


def kind_of(names: list[str], files: list[str]) -> Kind | None:
    """What a directory is, by the names of what it holds."""
    if "manifest.json" in files:
        return "evaluation"
    if "summary.json" in files and "arms" in names:
        return "quick start"
    return "training" if "metrics.jsonl" in files else None


def signature(*paths: Path) -> str:
    """Changes whenever one of these files does."""
    statuses = [_status(path) for path in paths]
    return "-".join("0" if status is None else f"{status.st_mtime_ns:x}.{status.st_size:x}" for status in statuses)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
