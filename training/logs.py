"""Where numbers and episodes of a run go: files in its directory, wandb if wanted and there, bars in a terminal."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pxr_agents.types import Episode
from .alarm import Notice
from .config import PPORecipe, SFTRecipe, to_dict
from .episode_table import Illustrator, PicturedEpisode, choose_episodes, table_row, write_episodes

Report = Callable[[int, int, dict[str, float]], None]
"""Is told of progress: steps done, of how many, latest measurements."""

LOG_SECONDS = 30.0
"""Where bars cannot be drawn (a log file, a Ray job), a line comes this often."""

SHOWN = ("accuracy", "usage_rate", "localization", "direct", "box", "hit_rate", "usage_plain", "usage_curiosity")
"""The numbers that stand behind a bar."""


def combine_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One dict out of those of several minibatches or learners: means over the rows that have a key, and the largest
    of what is called `..._max`."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: max(v) if name.endswith("_max") else sum(v) / len(v) for name, v in values.items()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON objects, none without a file. Half a line, where a process was killed or the
    disk was full, is left out."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


class MetricsLog:
    """Appends one JSON line per iteration (or step), numbered by `counter`.

    Lines beyond `keep`, written after the checkpoint that a run resumes from, are dropped; `past` are those that stay.
    """

    def __init__(self, path: Path, *, keep: int, counter: str = "iteration") -> None:
        self._path = path
        self.past: list[dict[str, float]] = [row for row in read_lines(path) if row[counter] <= keep]
        # Written beside and then renamed: a process that is killed here, or a full disk, costs no line.
        beside = path.with_name(f"{path.name}.partial")
        beside.write_text("".join(json.dumps(row) + "\n" for row in self.past))
        beside.replace(path)

    def write(self, metrics: Mapping[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(dict(metrics)) + "\n")


class Stopwatch:
    """Seconds spent in named parts of a loop, as they are: not smoothed, not averaged."""

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}
        self._since = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside counts as `name`; several visits add up."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] = self._parts.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """`seconds/NAME` of the parts since the last call, and "seconds/total", all the time since then."""
        parts, since = self._parts, self._since
        self._parts, self._since = {}, time.perf_counter()
        return {**{f"seconds/{name}": seconds for name, seconds in parts.items()}, "seconds/total": self._since - since}


class WandbLog:
    """Logs to a wandb run, or nowhere without one. Called with metrics it logs them under their counter."""

    def __init__(self, run: Any, *, counter: str = "iteration") -> None:
        self._run, self._counter = run, counter

    def __call__(self, metrics: Mapping[str, float]) -> None:
        if self._run is not None:
            self._run.log(dict(metrics), step=int(metrics[self._counter]))

    def episodes(self, pictured: Sequence[PicturedEpisode], *, iteration: int) -> None:
        """A table named "episodes", with a picture in every row."""
        if self._run is None:
            return
        import wandb

        rows = [table_row(each, iteration=iteration) for each in pictured]
        table = wandb.Table(columns=list(rows[0]) if rows else [])
        for row in rows:
            picture = None if row["picture"] is None else wandb.Image(row["picture"])
            table.add_data(*{**row, "picture": picture}.values())
        self._run.log({"episodes": table}, step=iteration)

    def alert(self, notice: Notice) -> None:
        """An alert by mail or Slack, as the owner of the project has set it."""
        if self._run is not None:
            level = "INFO" if notice.kind == "recovered" else "WARN"
            self._run.alert(title=notice.headline, text=notice.text, level=level, wait_duration=0)


class RunLog:
    """Everything that is written of a PPO run beside its checkpoints and its model.

    Attributes:
        past: the metrics of iterations that were done before (see `MetricsLog`).
        watch: for what happens between the lines. It goes into the next line: "seconds/log" and
            "seconds/checkpoint" of line N were spent after iteration N - 1.
    """

    def __init__(self, recipe: PPORecipe, out: Path, *, wandb: WandbLog, keep: int) -> None:
        self._every, self._size = recipe.episode_table_every, recipe.episode_table_size
        self._folder, self._wandb = out / "episodes", wandb
        self._metrics = MetricsLog(out / "metrics.jsonl", keep=keep)
        self._illustrator = Illustrator(recipe.env)
        self.past = self._metrics.past
        self.watch = Stopwatch()

    def write(
        self, metrics: Mapping[str, float], episodes: Sequence[Episode], notices: Sequence[Notice]
    ) -> dict[str, float]:
        """Write one iteration; returns its line, the metrics and the seconds since the line before."""
        line = {"seconds/log": 0.0, "seconds/checkpoint": 0.0, **metrics, **self.watch.take()}
        with self.watch.part("log"):
            self._metrics.write(line)
            self._wandb(line)
            for notice in notices:
                level = logging.WARNING if notice.kind != "recovered" else logging.INFO
                logging.getLogger(__name__).log(level, "%s", notice.text)
                self._wandb.alert(notice)
            iteration = int(metrics["iteration"])
            if self._every and iteration % self._every == 0:
                chosen = choose_episodes(episodes, self._size)
                pictured = [PicturedEpisode(episode=each, picture=self._illustrator.draw(each)) for each in chosen]
                write_episodes(self._folder / str(iteration), pictured, iteration=iteration)
                self._wandb.episodes(pictured, iteration=iteration)
        return line

    def close(self) -> None:
        """Free what pictures are drawn with."""
        self._illustrator.close()


@contextmanager
def open_wandb(recipe: PPORecipe | SFTRecipe, *, counter: str = "iteration") -> Iterator[WandbLog]:
    """A log to wandb: online with an API key, offline without, nowhere if not wanted or not installed.

    A run that cannot be opened is a warning: training does not depend on it. A resumed run goes on under its old id.
    """
    # wandb keeps the pictures of tables in the home directory until they are synced; an offline run is whole only with
    # them, wherever it is copied to.
    elsewhere = "WANDB_DATA_DIR" in os.environ
    os.environ.setdefault("WANDB_DATA_DIR", str((Path(recipe.out) / "wandb" / "data").absolute()))
    run = None
    try:
        run = _open_run(recipe) if recipe.wandb else None
        yield WandbLog(run, counter=counter)
    finally:
        if run is not None:
            run.finish()
        if not elsewhere:
            del os.environ["WANDB_DATA_DIR"]


def _open_run(recipe: PPORecipe | SFTRecipe) -> Any:
    try:
        import wandb
    except ImportError:
        return None
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    id_file = Path(recipe.out) / "wandb_id"
    try:
        run = wandb.init(
            project="pxr",
            id=id_file.read_text().strip() if id_file.exists() else None,
            resume="allow" if mode == "online" else None,
            dir=recipe.out,
            config=to_dict(recipe),
            mode=mode,
            # Its capture of the console would fight with progress bars.
            settings=wandb.Settings(silent=True, console="off"),
        )
    except (wandb.Error, OSError) as error:
        logging.getLogger(__name__).warning("wandb is left out: %s. WANDB_MODE=offline logs to disk.", error)
        return None
    id_file.write_text(f"{run.id}\n")
    return run


def note(measured: Mapping[str, float]) -> str:
    """What stands behind a bar: the numbers of `SHOWN`, and what is alarming (see `training.alarm`)."""
    parts = [f"{key.replace('_', ' ')} {measured[key]:.2f}" for key in SHOWN if key in measured]
    low = [key.removeprefix("alarm/") for key, flag in measured.items() if key.startswith("alarm/") and flag]
    return ", ".join(parts + ([f"alarm: {' '.join(low)}"] if low else []))


class StageProgress:
    """A bar with remaining time for each stage: begun, advanced, ended (or skipped because its result is there)."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<28}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"), console=console,
        )  # fmt: skip
        self._task = self._progress.add_task("", visible=False, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, title: str, total: int) -> Report:
        """A new bar; returns the function that moves it."""
        task = self._task = self._progress.add_task(title, total=total, note="")
        said = time.monotonic()

        def report(done: int, total: int, measured: dict[str, float]) -> None:
            nonlocal said
            text = note(measured)
            self._progress.update(task, completed=done, total=total, note=text)
            if not self._progress.console.is_terminal and time.monotonic() - said > LOG_SECONDS:
                said = time.monotonic()
                self._progress.console.print(f"{title}: {done} of {total}; {text}", highlight=False)

        return report

    def end(self, note: str) -> None:
        """The stage is over, wherever its bar stands. Where bars cannot be drawn, it gets a line."""
        task = self._progress.tasks[self._task]
        if not self._progress.console.is_terminal:
            seconds = f"{task.elapsed:.0f} s" if task.elapsed is not None else ""
            self._progress.console.print(f"{task.description}: {int(task.completed)} steps, {seconds}; {note}")
        self._progress.update(self._task, total=task.completed or 1, completed=task.completed or 1, note=note)

    def skip(self, title: str) -> None:
        self._progress.add_task(title, total=1, completed=1, note="already there")
