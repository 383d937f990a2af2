"""A training run on disk and in time: it can be interrupted, resumed, watched and read, and a finished one stays.

OUT/recipe.json         what was asked for
OUT/metrics.jsonl       one line per iteration (PPO) or some steps (SFT)
OUT/faults.jsonl        what was lost, hung or was left out, and what was done about it; only if there was something
OUT/checkpoints/N/      everything after iteration or step N: weights, optimizer, where it was; the last two
OUT/model/              the trained checkpoint, as everything loads it; its presence marks a finished run
"""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np

from .config import PPORecipe, SFTRecipe, to_dict

RESUME = "Start the same command again to resume."

CHECKPOINTS = 2
"""So many checkpoints are kept."""

NAMED = 8
"""Samples that an error names."""


class Interrupted(Exception):
    """The run was asked to stop; its message says what is written. The same command resumes it."""


class FinishedRunError(Exception):
    """The directory holds a finished run, which is never overwritten."""


class TrainingError(ValueError):
    """Training cannot go on: the message says what happened, what was saved and what to do."""


class LostProcessError(TrainingError):
    """Processes that the run cannot do without died, or do not answer. What they knew is in the newest checkpoint, so a
    run goes on from there by itself, as often as its `max_restarts` allows."""


class NonFiniteError(TrainingError):
    """Something that would be learned from is no finite number; the weights are as they were before.

    Args:
        message: what is wrong, where.
        batches: what was to be learned from, as it is written to OUT/failed_batch.json.
    """

    def __init__(self, message: str, batches: Sequence[Mapping[str, Any]] = ()) -> None:
        # All of it in `args`, or it would get lost between processes.
        super().__init__(message, list(batches))
        self.batches = [dict(batch) for batch in batches]

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Fault:
    """What was lost, hung or was left out in a run that goes on: a line of OUT/faults.jsonl.

    Attributes:
        kind: "env runner" and "engine" for processes that were lost, "stuck" for an environment that did not come back
            or cannot show its sample, "given up" for a sample that is left out, "too old" for groups that are sampled
            again, "context" for episodes that ran out of the model's context, "skipped step" of the optimizer,
            "restart" of the whole run from a checkpoint, "reward" for episodes whose reward is unknown.
        text: what happened, and what was done.
        sample_id: the sample it is about, if it is about one.
    """

    kind: Literal[
        "env runner", "engine", "stuck", "given up", "too old", "context", "skipped step", "restart", "reward"
    ]
    text: str
    sample_id: str | None = None


def samples_named(sample_ids: Sequence[str]) -> str:
    """ "sample a", or "samples a, b and 3 more"."""
    different = list(dict.fromkeys(sample_ids))
    more = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
    return f"sample {different[0]}" if len(different) == 1 else f"samples {', '.join(different[:NAMED])}{more}"


def first_line(error: BaseException) -> str:
    """What an error says, in short."""
    lines = str(getattr(error, "cause", None) or error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")


class RunDirectory:
    """Paths and checkpoints of one run; `claim` makes the directory."""

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self.metrics = self.out / "metrics.jsonl"
        self.faults = self.out / "faults.jsonl"
        self.checkpoints = self.out / "checkpoints"
        self.model = self.out / "model"

    def claim(
        self, recipe: PPORecipe | SFTRecipe, *, free_keys: Collection[str], growing_keys: Collection[str] = ()
    ) -> None:
        """Write the recipe down on the first start; once there is a checkpoint, later ones must ask for the same.

        `free_keys` may differ between starts, and so may `out`: directories can be moved. `growing_keys` are limits
        that may become larger; 0 is none.

        Raises:
            FinishedRunError: the run is finished already.
            ValueError: it was started with another recipe; names the keys that differ.
        """
        if self.model.exists():
            raise FinishedRunError(
                f"{self.out} holds a finished run (its model is {self.model}). Choose another out=..., or remove the "
                f"directory."
            )
        path, wanted = self.out / "recipe.json", to_dict(recipe)
        if path.exists() and self.newest_checkpoint() is not None:
            before, now = _flat(json.loads(path.read_text())), _flat(wanted)
            grown = {key for key in growing_keys if (before.get(key) or math.inf) <= (now.get(key) or math.inf)}
            fixed = {*before, *now} - {*free_keys, *grown, "out"}
            keys = sorted(key for key in fixed if before.get(key) != now.get(key))
            if keys:
                named = {key: f"{key} (may grow)" if key in growing_keys else key for key in keys}
                changes = ", ".join(f"{named[key]}: {before.get(key)!r} before, {now.get(key)!r} now" for key in keys)
                raise ValueError(
                    f"{self.out} holds an unfinished run of another recipe ({changes}). Use the recipe it was started "
                    f"with, or choose another out=..."
                )
        self.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=2) + "\n")

    def newest_checkpoint(self) -> Path | None:
        return self._saved()[-1] if self._saved() else None

    def newest_saved(self) -> str:
        """Half a sentence that says where the newest checkpoint is."""
        newest = self.newest_checkpoint()
        return f"the newest whole checkpoint is {newest}" if newest else "there is no checkpoint yet"

    def save_checkpoint(self, number: int, save: Callable[[Path], object]) -> None:
        """Let `save` fill the directory of checkpoint `number`, and remove all but the newest `CHECKPOINTS`.

        It is written beside and then renamed: a checkpoint with a number for a name is always whole.

        Raises:
            TrainingError: it could not be written; older ones are as they were.
        """
        for left in self.checkpoints.glob("*.partial"):  # by a process that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        with self.writing(self.checkpoints / str(number)) as path:
            write_whole(path, save)
        for old in self._saved()[:-CHECKPOINTS]:
            shutil.rmtree(old)

    def finish(self, save: Callable[[Path], object]) -> None:
        """Let `save` write the trained model, which finishes the run; raises TrainingError as `save_checkpoint`."""
        with self.writing(self.model) as path:
            write_whole(path, save)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Turns a Ctrl-C inside into an `Interrupted` that says what is left. In a finished run it changes nothing:
        only processes are left to be shut down, and they end with this one."""
        try:
            yield
        except KeyboardInterrupt:
            if not self.model.exists():
                raise Interrupted(f"Interrupted; {self.newest_saved()}. {RESUME}") from None

    @contextmanager
    def writing(self, what: Path) -> Iterator[Path]:
        """Says of `what` that it could not be written, and what is left; half of a directory is removed.

        Raises:
            TrainingError: the disk is full, or what is written there cannot be.
        """
        try:
            yield what
        except Exception as error:
            # torch (RuntimeError) and safetensors report a full disk in their own ways.
            if not isinstance(error, OSError | RuntimeError) and type(error).__name__ != "SafetensorError":
                raise
            shutil.rmtree(_partial(what), ignore_errors=True)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TrainingError(
                f"{what} could not be written ({reason}); {self.newest_saved()}. Is the disk full? Free some, and "
                f"start the same command again to resume."
            ) from error

    def _saved(self) -> list[Path]:
        """Whole checkpoints, the newest last."""
        return sorted((path for path in self.checkpoints.glob("*") if path.name.isdigit()), key=lambda p: int(p.name))


def write_whole(final: Path, save: Callable[[Path], object]) -> None:
    """Let `save` fill a directory beside `final`, which then takes its place: what has its name is always whole."""
    partial = _partial(final)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


def _partial(final: Path) -> Path:
    return final.with_name(f"{final.name}.partial").absolute()


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request; a second one interrupts at once."""
    requested = False

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    try:
        previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # Only a main thread may set handlers; elsewhere whoever runs the thread decides when to stop.
        previous = {}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class SampleCursor:
    """Which samples come next: every one once per epoch, in an order that follows from the seed. Its state is one
    number."""

    def __init__(self, sample_ids: Sequence[str], *, seed: int) -> None:
        if not len(sample_ids):
            raise ValueError("The data has no samples; expected at least one to train on")
        self._ids, self._seed, self._taken = sample_ids, seed, 0
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def take(self, n: int, besides: Sequence[str] = ()) -> list[str]:
        """The next `n` ids, all different and none of `besides`; raises ValueError if the data has fewer."""
        if n + len(set(besides)) > len(self._ids):
            raise ValueError(
                f"got data of {len(self._ids)} samples, expected {n + len(set(besides))} different ones at a time; set "
                f"groups_per_iteration (or batch_size) to at most {len(self._ids)}, times oversample and what is "
                f"sampled ahead (max_staleness)"
            )
        taken: list[str] = []
        while len(taken) < n:
            epoch, place = divmod(self._taken, len(self._ids))
            if epoch != self._epoch:
                self._epoch = epoch
                self._order = np.random.default_rng([self._seed, 5, epoch]).permutation(len(self._ids))
            sample_id = str(self._ids[int(self._order[place])])
            self._taken += 1
            # At the seam of two epochs an id could come twice; its second turn is skipped.
            if sample_id not in taken and sample_id not in besides:
                taken.append(sample_id)
        return taken

    def state_dict(self) -> dict[str, int]:
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._taken = state["taken"]
