"""Where numbers and episodes of a run go: files in its directory always, wandb if it is wanted and there."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pxr_agents.types import Episode
from training.alarm import Notice
from training.config import PPORecipe, SFTRecipe, to_dict
from training.episode_table import Illustrator, PicturedEpisode, choose_episodes, table_row, write_episodes


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
    """Appends one JSON line per iteration (or step).

    Args:
        path: the file.
        keep: iterations that are done; lines of later ones (written after the checkpoint that a run resumes from)
            are dropped.
        counter: the key that numbers the lines.

    Attributes:
        past: the lines that were kept.
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
    """Seconds spent in named parts of a loop, as they are: not smoothed, not averaged.

    watch = Stopwatch()
    with watch.part("checkpoint"):
        ...
    watch.take()    # {"seconds/checkpoint": 0.8, "seconds/total": 12.3}
    """

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
        """The parts since the last call, and "seconds/total", all the time since then."""
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
            level = "WARN" if notice.kind == "low" else "INFO"
            self._run.alert(title=notice.headline, text=notice.text, level=level, wait_duration=0)


class RunLog:
    """Everything that is written of a PPO run beside its checkpoints and its model.

    Args:
        recipe: of the run.
        out: its directory.
        wandb: where it is logged, too.
        keep: iterations that are done (see `MetricsLog`).

    Attributes:
        past: the metrics of iterations that were done before.
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
                level = logging.WARNING if notice.kind == "low" else logging.INFO
                logging.getLogger("training").log(level, "%s", notice.text)
                self._wandb.alert(notice)
            iteration = int(metrics["iteration"])
            if self._every and iteration % self._every == 0:
                self._show(episodes, iteration)
        return line

    def _show(self, episodes: Sequence[Episode], iteration: int) -> None:
        chosen = choose_episodes(episodes, self._size)
        pictured = [PicturedEpisode(episode=each, picture=self._illustrator.draw(each)) for each in chosen]
        write_episodes(self._folder / str(iteration), pictured, iteration=iteration)
        self._wandb.episodes(pictured, iteration=iteration)

    def close(self) -> None:
        """Free what pictures are drawn with."""
        self._illustrator.close()


@contextmanager
def open_wandb(recipe: PPORecipe | SFTRecipe, *, counter: str = "iteration") -> Iterator[WandbLog]:
    """A log to wandb: online with an API key, offline without, nowhere if not wanted or not installed.

    A run that cannot be opened is a warning: training does not depend on it. A resumed run goes on under its old id.

    Args:
        recipe: its `wandb` says whether it is wanted, its `out` where offline files go.
        counter: the metric that numbers the rows.
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
