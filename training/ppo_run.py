"""What belongs to a run of PPO, whichever trainer runs it: its books, and its way from the newest checkpoint on."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pxr_agents.statistics import episode_statistics
from pxr_agents.types import CONTEXT, Episode
from .alarm import GAP, AlarmRule, AlarmState, Notice, usage_rates, watch_gap, watch_usage
from .arms import ArmPlanner
from .batch import is_masked
from .config import PPORecipe
from .doctor import check_start
from .env_recipe import EnvRecipe, name_in
from .environments import n_bad_rows, sample_cursor
from .habit import watch_habit
from .logs import RunLog, WandbLog, open_wandb
from .rewards import reward_faults
from .run_directory import (
    RESUME,
    Fault,
    Interrupted,
    NonFiniteError,
    RunDirectory,
    TrainingError,
    samples_named,
    stop_signal,
)

# What may change between the starts of one run.
FREE_KEYS = frozenset({
    "iterations", "checkpoint_every", "wandb", "episode_table_every", "episode_table_size", "alarm_rate",
    "alarm_iterations", "alarm_habit", "alarm_gap", "num_env_runners", "num_learners", "max_envs_per_runner",
    "num_cpus_per_env_runner", "num_cpus_per_learner", "num_gpus_per_learner", "learner.gradient_checkpointing",
    "learner.micro_batch_tokens", "learner.attn_implementation", "learner.feature_bytes", "learner.prefetch",
    "rollout_timeout", "engine.timeout", "engine.turn_timeout", "env_timeout", "learner_timeout", "max_restarts",
    "reward_timeout", "reward_kwargs.base_url",
    "engine.num_engines", "engine.num_cpus_per_engine", "engine.num_gpus_per_engine", "engine.colocate",
    "engine.vllm.tensor_parallel_size", "engine.vllm.gpu_memory_utilization", "engine.vllm.kv_cache_memory_bytes",
    "engine.vllm.block_size", "engine.vllm.enforce_eager", "engine.vllm.max_num_seqs",
    "engine.vllm.max_num_batched_tokens", "engine.vllm.weight_transfer",
})  # fmt: skip
# What may become more: episodes that would have ended for it go on.
GROWING_KEYS = frozenset({"engine.vllm.max_model_len", "engine.vllm.images_per_prompt"})

OnIteration = Callable[[dict[str, float]], None]


class Books:
    """What a trainer remembers between iterations: which samples had their turn, what was used, and the alarm.

    Args:
        recipe: of the run.
        env: the environment, for its data and its operations.

    Attributes:
        notices: what the alarm has to say of the latest iteration (see `training.alarm`).
        faults: what was lost, hung or was left out in it; of one under way, so far.
    """

    def __init__(self, recipe: PPORecipe, env: Any) -> None:
        self._rule = AlarmRule(rate=recipe.alarm_rate, iterations=recipe.alarm_iterations, habit=recipe.alarm_habit)
        self.cursor = sample_cursor(env, recipe.env, seed=recipe.seed)
        self.arms = ArmPlanner(recipe, env)
        self.alarm = AlarmState()
        self._alarms: dict[str, AlarmState] = {}
        if not isinstance(recipe.env, EnvRecipe):
            self._alarms = dict.fromkeys(recipe.envs, AlarmState())
        self.notices: list[Notice] = []
        self.faults: list[Fault] = []
        self._recipe = recipe
        self._n_bad_rows = n_bad_rows(env)

    def count(self, episodes: Sequence[Episode], learned: Mapping[str, float], iteration: int) -> dict[str, float]:
        """Count the episodes of an iteration (from 0) and what learners say of it; returns all that is to be said."""
        self.arms.count(episodes, iteration)
        self.notices = []
        of_each: dict[str, float] = {}
        for name in self._alarms:
            of_each |= self._count_env(name, episodes, iteration)
        if self._alarms:
            # An operation that only some environments have is no rarer for that.
            warned = frozenset(name for alarm in self._alarms.values() for name in alarm.warned)
            history = {name: () for alarm in self._alarms.values() for name in alarm.history}
            self.alarm = replace(self.alarm, history=history, warned=warned | (self.alarm.warned & {GAP}))
        else:
            self.alarm = self._watch(self.alarm, episodes, iteration)
        gap = learned.get("logprob_gap_mean")
        self.alarm, more = watch_gap(self.alarm, gap, iteration=iteration + 1, recipe=self._recipe)
        self.notices += more
        if skipped := int(learned.get("skipped_steps", 0)):
            text = f"{skipped} steps were left out, whose gradients have no finite norm"
            self.faults.append(Fault("skipped step", text))
        self.faults += reward_faults(episodes)
        self.faults += _without_room(episodes)
        masked = [is_masked(episode, self._recipe.mask_truncated) for episode in episodes]
        kinds = Counter(fault.kind for fault in self.faults)
        return {
            "iteration": float(iteration + 1),
            **self.arms.metrics(),
            **episode_statistics(episodes),
            **usage_rates(episodes),
            **self.alarm.flags(),
            **of_each,
            **({} if self._recipe.mask_truncated == "never" else {"masked_rate": sum(masked) / max(len(masked), 1)}),
            **({"data/bad_rows": float(self._n_bad_rows)} if self._n_bad_rows else {}),
            **{f"learner/{name}": value for name, value in learned.items()},
            **{f"faults/{kind.replace(' ', '_')}": float(n) for kind, n in kinds.items()},
        }

    def _count_env(self, name: str, episodes: Sequence[Episode], iteration: int) -> dict[str, float]:
        """The numbers of one of several environments: `env/NAME/...`, as those of all are called."""
        own = [episode for episode in episodes if name_in(self._recipe.env, episode.sample_id) == name]
        state = self._alarms[name] = self._watch(self._alarms[name], own, iteration, f"{name}: ")
        numbers = {**episode_statistics(own), **usage_rates(own), **state.flags()}
        return {f"env/{name}/{key}": value for key, value in numbers.items()}

    def _watch(self, state: AlarmState, episodes: Sequence[Episode], iteration: int, prefix: str = "") -> AlarmState:
        """Add an iteration to what is known of usage, note what is to be said, return the new state."""
        for watch in (watch_usage, watch_habit):
            state, notices = watch(state, episodes, iteration=iteration + 1, rule=self._rule)
            self.notices += [replace(notice, text=prefix + notice.text) for notice in notices]
        return state

    def state_dict(self) -> dict[str, Any]:
        alarms = {name: alarm.to_dict() for name, alarm in self._alarms.items()}
        return {
            "cursor": self.cursor.state_dict(),
            "arms": self.arms.state_dict(),
            "alarm": self.alarm.to_dict(),
            **({"alarms": alarms} if alarms else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.cursor.load_state_dict(state["cursor"])
        self.arms.load_state_dict(state["arms"])
        self.alarm = AlarmState.from_dict(state["alarm"])
        self._alarms = {name: AlarmState.from_dict(alarm) for name, alarm in state.get("alarms", {}).items()}


def _without_room(episodes: Sequence[Episode]) -> list[Fault]:
    """One fault for all episodes that ran out of the model's context, if any did."""
    full = [episode for episode in episodes if episode.truncated_by == CONTEXT]
    if not full:
        return []
    text = f"{len(full)} of {len(episodes)} episodes ended without room for another turn, of "
    text += samples_named([episode.sample_id for episode in full])
    # The members of a group begin alike: one without a turn is a sample without a turn.
    if mute := [episode.sample_id for episode in full if not episode.steps]:
        text += (
            f"; not even the first turn has room in {samples_named(mute)}: leave out what can teach nothing, show "
            f"smaller images (env.kwargs.max_pixels), or raise the engine's max_model_len or images_per_prompt"
        )
    return [Fault("context", text)]


class Trainer(Protocol):
    """What a `PPORun` runs: `train` is one iteration, `export` writes the model as a plain checkpoint.

    Attributes:
        iteration: how many are done.
        last_iteration: numbers of the latest one, unsmoothed.
        last_episodes: its episodes.
        books: its books.
    """

    iteration: int
    last_iteration: dict[str, float]
    last_episodes: list[Episode]
    books: Books

    def train(self) -> Any: ...
    def save_to_path(self, path: str) -> Any: ...
    def restore_from_path(self, path: str) -> None: ...
    def export(self, path: Path) -> None: ...


@dataclass
class PPORun:
    """A run in its directory; open one with `open_run`. `iteration` is the one under way, from 1."""

    recipe: PPORecipe
    directory: RunDirectory
    wandb: WandbLog
    stop_requested: Callable[[], bool]
    on_iteration: OnIteration | None
    iteration: int = 0
    _told: int = 0

    def train(self, trainer: Trainer) -> None:
        """Go on from the newest checkpoint, if there is one, to the end.

        Raises:
            TrainingError: it would come to the same point again.
            Interrupted: it was asked to stop.
        """
        newest = self.directory.newest_checkpoint()
        if newest is not None:
            trainer.restore_from_path(str(newest.absolute()))
        with self.directory.writing(self.directory.metrics):
            opened = RunLog(self.recipe, self.directory.out, wandb=self.wandb, keep=trainer.iteration)
        try:
            with closing(opened) as log:
                for past in log.past:
                    self._tell(past)
                while trainer.iteration < self.recipe.iterations:
                    self._iterate(trainer, log)
            self.directory.finish(trainer.export)
        except NonFiniteError as error:
            raise self._not_finite(error) from error
        finally:
            self.write(trainer.books.faults)

    def write(self, faults: Sequence[Fault]) -> None:
        """Append to OUT/faults.jsonl, and warn of them. Earlier lines stay, in runs that are resumed, too."""
        for fault in faults:
            logging.getLogger(__name__).warning("%s: %s", fault.kind, fault.text)
            row = {"iteration": self.iteration, "time": time.time(), "kind": fault.kind, "text": fault.text}
            sample = {} if fault.sample_id is None else {"sample_id": fault.sample_id}
            with self.directory.faults.open("a") as file:
                file.write(json.dumps(row | sample) + "\n")

    def _iterate(self, trainer: Trainer, log: RunLog) -> None:
        recipe, run = self.recipe, self.directory
        self.iteration = trainer.iteration + 1
        trainer.train()
        with run.writing(run.metrics):
            self.write(trainer.books.faults)
            trainer.books.faults = []
            metrics = log.write(trainer.last_iteration, trainer.last_episodes, trainer.books.notices)
        self._tell(metrics)
        done = trainer.iteration >= recipe.iterations
        if done or self.stop_requested() or trainer.iteration % recipe.checkpoint_every == 0:
            with log.watch.part("checkpoint"):
                run.save_checkpoint(trainer.iteration, lambda path: _save(trainer, path))
        if self.stop_requested() and not done:
            raise Interrupted(
                f"Stopped after iteration {trainer.iteration} of {recipe.iterations}; the checkpoint is in "
                f"{run.checkpoints}. {RESUME}"
            )

    def _tell(self, metrics: dict[str, float]) -> None:
        """Iterations that come again after a restart are told once."""
        if self.on_iteration is not None and metrics["iteration"] > self._told:
            self._told = int(metrics["iteration"])
            self.on_iteration(metrics)

    def _not_finite(self, error: NonFiniteError) -> TrainingError:
        path = self.directory.out / "failed_batch.json"
        told = {"iteration": self.iteration, "problem": str(error), "batches": error.batches}
        path.write_text(json.dumps(told, indent=1))
        newest = self.directory.newest_checkpoint()
        model = f"model={newest}/model" if newest else "the same model"
        return TrainingError(
            f"{error}. No step was made with it; {path} has the whole batch, and {self.directory.newest_saved()}. "
            f"The same command would come to the same point: start a new run from {model} with a lower lr or "
            f"max_grad_norm, or without what is wrong with these samples."
        )


def _save(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint to resume from, and in its folder `model` one that everything loads."""
    trainer.save_to_path(str(path))
    trainer.export(path / "model")


@contextmanager
def open_run(recipe: PPORecipe, on_iteration: OnIteration | None = None) -> Iterator[PPORun]:
    """Claim the directory of a run, and let Ctrl-C and SIGTERM stop it after an iteration, or at once the second time.
    `on_iteration` is called with the metrics of every iteration, those of earlier starts of this run first.

    Raises:
        FinishedRunError: the run is finished already.
        ValueError: the directory holds an unfinished run of another recipe, or as `check_start` does.
        FileNotFoundError: there is no such model.
    """
    run = RunDirectory(recipe.out)
    run.claim(recipe, free_keys=FREE_KEYS, growing_keys=GROWING_KEYS)
    check_start(recipe)
    with run.interruptible(), stop_signal() as stop_requested, open_wandb(recipe) as wandb:
        yield PPORun(recipe, run, wandb, stop_requested, on_iteration)
