"""Which runs there are below a directory, what they are, and whether they are finished."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["evaluation", "training", "quick start"]

#: Pages that a run may hold, and where.
PAGES = {"report": "report.html", "audit": "audit/audit.html"}
#: Directories inside a run that hold no runs of their own, and may hold very many files.
_NO_RUNS = frozenset({"checkpoints", "model", "episodes", "wandb", ".git", "__pycache__", "node_modules", ".venv"})
#: How deep and how wide is looked.
MAX_DEPTH, MAX_DIRECTORIES = 8, 20_000
#: Seconds for which a list of runs is taken to be current.
LIST_SECONDS = 2.0
#: Seconds after the last line for which an unfinished run counts as running.
RUNNING_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run.

    Args:
        key: its path below the directory that is served, with slashes; its name in addresses.
        path: its directory.
        kind: what wrote it.
    """

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
    """The runs below a directory.

    Args:
        root: the directory. Links to directories are not followed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._read_at = -LIST_SECONDS
        self._json: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}

    def runs(self) -> dict[str, Run]:
        """All runs by key."""
        with self._lock:
            if time.monotonic() - self._read_at >= LIST_SECONDS:
                self._runs = {run.key: run for run in find_runs(self.root)}
                self._read_at = time.monotonic()
            return self._runs

    def read(self, path: Path) -> dict[str, Any]:
        """A JSON object from a file; empty if it is not there or holds something else. Read again when it changed."""
        status = _status(path)
        if status is None:
            return {}
        signature = (status.st_mtime_ns, status.st_size)
        known = self._json.get(path)
        if known is None or known[0] != signature:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                content = {}
            known = (signature, content if isinstance(content, dict) else {})
            self._json[path] = known
        return known[1]


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
