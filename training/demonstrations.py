"""Traces on disk: what a demonstration says, turn by turn. What the environment answers is played again on use.

One JSON object per line:

    {"env": {"id": "pxr_env:pxr/SyntheticSearch-v0", "kwargs": {"coordinates": "pixel"}}, "sample_id": "train-7",
     "turns": [{"text": "<tool_call>...</tool_call>", "train": false}, {"text": "\\boxed{A}"}]}

`train` (true if absent) says whether the turn is a target or only context. No pixels, no replies, no token ids: a file
fits every model, and an observation in training is exactly what the policy will see.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents.chat import ChatFormat
from pxr_agents.types import Tokens
from pxr_env.datasets.fields import RowError
from pxr_env.datasets.readers import JSONLines
from pxr_env.errors import DataError, show
from training.config import EnvRecipe, TracesRecipe
from training.mistakes import NoMistakeError
from training.run_directory import SampleCursor
from training.traces import ScriptedTurn, demonstrate, oracle_turns

FORMAT = '{"env": {"id": ..., "kwargs": {...}}, "sample_id": ..., "turns": [{"text": ..., "train": true}]}'


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One demonstration; `origin` says where it was read, for messages."""

    env: EnvRecipe
    sample_id: str
    turns: tuple[ScriptedTurn, ...]
    origin: str = ""


class Demonstrations:
    """Traces as token rows for one model. They are replayed when asked for: a file of any size fits into memory.

    Args:
        traces: what to replay.
        chat: the model's chat format.
    """

    def __init__(self, traces: Sequence[Trace], chat: ChatFormat) -> None:
        self._traces, self._chat = traces, chat
        self._envs: dict[str, gymnasium.Env[Any, Any]] = {}

    def __len__(self) -> int:
        return len(self._traces)

    def name(self, index: int) -> str:
        """Where trace `index` was read."""
        return self._traces[index].origin

    def row(self, index: int) -> Tokens:
        """Trace `index`, played and recorded.

        Raises:
            DataError: the environment does not know the sample, or does not take the turns.
        """
        trace = self._traces[index]
        key = json.dumps([trace.env.id, trace.env.kwargs], sort_keys=True)
        if key not in self._envs:
            self._envs[key] = gymnasium.make(trace.env.id, **trace.env.kwargs)
        try:
            return demonstrate(self._envs[key], self._chat, trace.sample_id, trace.turns)
        except ValueError as error:
            raise DataError(f"{trace.origin}: {error}") from error


def read_traces(path: str | Path) -> list[Trace]:
    """Read a JSONL file, or all *.jsonl of a directory in the order of their names.

    Raises:
        DataError: there is no such file, it has no trace, or a line is none; names the file and the line.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(
            f'got traces="{path}", which does not exist; expected a JSONL file or a directory of them. '
            f"`python -m training traces` writes one."
        )
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    traces: list[Trace] = []
    for file in files:
        traces += [_trace(row.values, f"{file}, {row.place}") for row in JSONLines(file).rows()]
    if not traces:
        raise DataError(f'traces="{path}" holds no trace; expected lines such as {FORMAT}')
    return traces


def write_traces(path: str | Path, traces: Iterable[Trace]) -> None:
    """Write a JSONL file; its directory is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for trace in traces:
            turns = [{"text": turn.text, "train": turn.train} for turn in trace.turns]
            env = {"id": trace.env.id, "kwargs": trace.env.kwargs}
            file.write(
                json.dumps({"env": env, "sample_id": trace.sample_id, "turns": turns}, ensure_ascii=False) + "\n"
            )


def oracle_traces(recipe: TracesRecipe) -> list[Trace]:
    """Demonstrations by somebody who knows the answers (see `training.traces.oracle_turns`).

    A sample that leaves no room for a mistake, because its evidence fills the image, is shown without a correction.
    """
    env = gymnasium.make(recipe.env.id, **recipe.env.kwargs)
    base: Any = env.unwrapped
    rng = np.random.default_rng([recipe.seed, 6])
    cursor = SampleCursor(base.data.sample_ids(), seed=recipe.seed)
    traces = []
    for _ in range(recipe.count):
        [sample_id] = cursor.take(1)
        env.reset(options={"sample_id": sample_id})
        zooms = bool(base.sample.needs_operation) or rng.random() < recipe.zoom
        corrects = zooms and rng.random() < recipe.correction
        kind = "self-correction" if corrects else "single-pass" if zooms else "direct"
        try:
            turns = oracle_turns(env, kind, rng)
        except NoMistakeError:
            turns = oracle_turns(env, "single-pass", rng)
        traces.append(Trace(env=recipe.env, sample_id=sample_id, turns=tuple(turns)))
    env.close()
    return traces


def _trace(value: object, origin: str) -> Trace:
    if isinstance(value, RowError):
        raise DataError(f"{origin}: {value}, such as {FORMAT}") from value
    if not isinstance(value, dict) or value.keys() != {"env", "sample_id", "turns"}:
        got = f"the keys {', '.join(value)}" if isinstance(value, dict) else show(value)
        raise DataError(f"{origin}: got {got}, expected {FORMAT}")
    env, turns = value["env"], value["turns"]
    if not isinstance(env, dict) or not isinstance(env.get("id"), str) or not isinstance(env.get("kwargs", {}), dict):
        raise DataError(f'{origin}: env is {show(env)}; expected {{"id": ..., "kwargs": {{...}}}}')
    if not isinstance(value["sample_id"], str):
        raise DataError(f"{origin}: sample_id is {show(value['sample_id'])}; expected text")
    if not isinstance(turns, list) or not all(map(_is_turn, turns)):
        raise DataError(
            f'{origin}: turns are {show(turns)}; expected a list of {{"text": ..., "train": true or false}}'
        )
    scripted = tuple(ScriptedTurn(text=turn["text"], train=turn.get("train", True)) for turn in turns)
    if not any(turn.train for turn in scripted):
        raise DataError(f"{origin}: no turn is to be trained on; expected at least one without train=false")
    recipe = EnvRecipe(id=env["id"], kwargs=env.get("kwargs", {}))
    return Trace(env=recipe, sample_id=value["sample_id"], turns=scripted, origin=origin)


def _is_turn(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"text", "train"}
        and isinstance(value.get("text"), str)
        and isinstance(value.get("train", True), bool)
    )
