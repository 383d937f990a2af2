"""The directory of a training run: it can be interrupted, resumed, watched and read, and a finished one stays as it is.

OUT/recipe.json         what was asked for
OUT/metrics.jsonl       one line per iteration (PPO) or some steps (SFT)
OUT/faults.jsonl        what was lost, hung or was left out, and what was done about it; only if there was something
OUT/checkpoints/N/      everything after iteration or step N: weights, optimizer, where it was; the last two
OUT/model/              the trained checkpoint, as everything loads it; its presence marks a finished run
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from training.config import PPORecipe, SFTRecipe, to_dict
from training.errors import RESUME, TrainingError


class Interrupted(Exception):
    """The run was asked to stop; its message says what is written. The same command resumes it."""


class FinishedRunError(Exception):
    """The directory holds a finished run, which is never overwritten."""


class RunDirectory:
    """Paths and checkpoints of one run; `claim` makes the directory."""

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self.metrics = self.out / "metrics.jsonl"
        self.faults = self.out / "faults.jsonl"
        self.checkpoints = self.out / "checkpoints"
        self.model = self.out / "model"

    def claim(self, recipe: PPORecipe | SFTRecipe, *, free_keys: Collection[str]) -> None:
        """Write the recipe down on the first start; once there is a checkpoint, later ones must ask for the same.

        Args:
            recipe: what is asked for now.
            free_keys: what may differ between starts. `out` may, too: directories can be moved.

        Raises:
            FinishedRunError: if the run is finished already.
            ValueError: if it was started with another recipe; names the keys that differ.
        """
        if self.model.exists():
            raise FinishedRunError(
                f"{self.out} holds a finished run (its model is {self.model}). Choose another out=..., or remove the "
                f"directory."
            )
        path, wanted = self.out / "recipe.json", to_dict(recipe)
        if path.exists() and self.newest_checkpoint() is not None:
            before, now = _flat(json.loads(path.read_text())), _flat(wanted)
            keys = sorted(key for key in {*before, *now} - {*free_keys, "out"} if before.get(key) != now.get(key))
            if keys:
                changes = ", ".join(f"{key}: {before.get(key)!r} before, {now.get(key)!r} now" for key in keys)
                raise ValueError(
                    f"{self.out} holds an unfinished run of another recipe ({changes}). Use the recipe it was started "
                    f"with, or choose another out=..."
                )
        self.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=2) + "\n")

    def newest_checkpoint(self) -> Path | None:
        return self._saved()[-1] if self._saved() else None

    def save_checkpoint(self, number: int, save: Callable[[Path], object], *, keep: int = 2) -> None:
        """Let `save` fill the directory of checkpoint `number`, and remove all but the newest `keep`.

        It is written beside and then renamed: a checkpoint with a number for a name is always whole.

        Raises:
            TrainingError: it could not be written; older ones are as they were.
        """
        for left in self.checkpoints.glob("*.partial"):  # by a process that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        with self.writing(self.checkpoints / str(number)) as path:
            write_whole(path, save)
        for old in self._saved()[:-keep]:
            shutil.rmtree(old)

    def finish(self, save: Callable[[Path], object]) -> None:
        """Let `save` write the trained model; from then on the run is finished.

        Raises:
            TrainingError: it could not be written.
        """
        with self.writing(self.model) as path:
            write_whole(path, save)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Turns a Ctrl-C inside into an `Interrupted` that says what is left. In a finished run it changes nothing.

        Once the model is written only processes are left to be shut down, and they end with this one.

        Raises:
            Interrupted: the run is not finished.
        """
        try:
            yield
        except KeyboardInterrupt:
            if not self.model.exists():
                raise Interrupted(f"Interrupted; {self.newest_saved()}. {RESUME}") from None

    def newest_saved(self) -> str:
        """Half a sentence that says where the newest checkpoint is."""
        newest = self.newest_checkpoint()
        return f"the newest whole checkpoint is {newest}" if newest else "there is no checkpoint yet"

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
        found = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return sorted((path for path in found if path.name.isdigit()), key=lambda path: int(path.name))


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
