r"""Demonstrations for the warm start: real episodes of an environment, played by somebody who knows the answer.

Three kinds (arXiv 2505.15966, section 4): *direct* (answer at once), *single pass* (the right operation, then the
answer) and *error-induced self-correction* (a wrong operation first, then the right ones). The tokens of the
deliberately wrong operation are context, never target.

A file has one JSON object per line, without pixels, replies and token ids: it fits every model, and what the
environment answers is played again on use, so that a trace is exactly what the policy will see. `train` (true if
absent) says whether a turn is a target or only context.

    {"env": {"id": "pxr_env:pxr/SyntheticSearch-v0", "kwargs": {"coordinates": "pixel"}}, "sample_id": "train-7",
     "turns": [{"text": "<tool_call>...</tool_call>", "train": false}, {"text": "\\boxed{A}"}]}
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents.chat import ChatFormat, Conversation
from pxr_agents.types import Tokens
from pxr_env.datasets.fields import RowError
from pxr_env.datasets.readers import JSONLines
from pxr_env.env import VisualReasoningEnv, shows_evidence
from pxr_env.env import oracle_turns as base_oracle_turns
from pxr_env.errors import DataError, show
from pxr_env.media import Box, VideoSource
from pxr_env.types import OperationCall, Sample
from .config import RECIPE, EnvRecipe, TracesRecipe
from .run_directory import SampleCursor

FORMAT = '{"env": {"id": ..., "kwargs": {...}}, "sample_id": ..., "turns": [{"text": ..., "train": true}]}'
WITHOUT = "demonstrations without corrections (correction=0)"


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class ScriptedTurn:
    """A demonstrated turn; `train=False` keeps it as context without loss."""

    text: str
    train: bool = True


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class TraceLine:
    """One demonstration, as a line of a file has it."""

    env: EnvRecipe
    sample_id: str
    turns: tuple[ScriptedTurn, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trace(TraceLine):
    """One demonstration; `origin` says where it was read, for messages."""

    origin: str = ""


_LINE = TypeAdapter(TraceLine)


class NoMistakeError(ValueError):
    """There is nothing beside the evidence that an operation could show by mistake."""


def demonstrate(
    env: gymnasium.Env[Any, Any], chat: ChatFormat, sample_id: str, turns: Sequence[ScriptedTurn]
) -> Tokens:
    """Play scripted turns in the environment and record them token for token.

    Raises:
        ValueError: if the environment ends the episode before the last turn, or answers a turn with an error.
    """
    observation, info = env.reset(options={"sample_id": sample_id})
    conversation = Conversation()
    chat.prompt(conversation, info["system_prompt"], observation, info.get("image_places"))
    for k, turn in enumerate(turns):
        conversation.append_turn((*chat.encode_text(turn.text), chat.stop_id), train=turn.train)
        observation, _, terminated, truncated, info = env.step(turn.text)
        if any(info["failures"].values()):
            raise ValueError(f"Turn {k + 1} of a trace of sample {sample_id!r} failed: {observation['text']}")
        last = k == len(turns) - 1
        if (terminated or truncated) and not last:
            raise ValueError(
                f"The episode of sample {sample_id!r} ended after turn {k + 1} of {len(turns)}: {turn.text!r}; "
                f"expected only the last turn of a trace to answer (and max_turns to be large enough)"
            )
        if not last:
            chat.reply(conversation, observation, info.get("image_places"))
    return conversation.tokens()


def zoom_turn(env: gymnasium.Env[Any, Any], box: Sequence[float], *, train: bool = True) -> ScriptedTurn:
    """A zoom into a box given in source pixels, written in the environment's dialect and frame."""
    base: Any = env.unwrapped
    numbers = base.frame.from_source(tuple(box), base.views[0])
    call = OperationCall(name="zoom_in", arguments={"bbox_2d": numbers, "target_image": 1})
    return ScriptedTurn(text=base.dialect.render_call(call), train=train)


def answer_turn(env: gymnasium.Env[Any, Any], answer: str, *, train: bool = True) -> ScriptedTurn:
    base: Any = env.unwrapped
    return ScriptedTurn(text=base.dialect.render_answer(answer), train=train)


def oracle_turns(env: gymnasium.Env[Any, Any], kind: str, rng: np.random.Generator) -> list[ScriptedTurn]:
    """The turns of a demonstration of the sample that `env` was reset to. It is played, and reset to that sample again.

    Args:
        env: an environment of `VisualReasoningEnv`, whose samples know what the kind needs.
        kind: "direct" (the answer), "single-pass" (the operations of `pxr_env.oracle`, then the answer) or
            "self-correction" (the same after a wrong operation, which carries no loss).
        rng: draws what is wrong.

    Raises:
        NoMistakeError: nothing of the sample could be shown by mistake (self-correction).
        ValueError: the kind is unknown, or needs what the sample, its environment or its limits do not have.
    """
    base: Any = env.unwrapped
    sample: Sample = base.sample
    if kind == "direct":
        return [answer_turn(env, sample.answers[0])]
    if kind not in ("single-pass", "self-correction"):
        raise ValueError(f"got kind={kind!r}, expected 'direct', 'single-pass' or 'self-correction'")
    turns, first = [], _first_call(base)
    if kind == "self-correction":
        turns.append(ScriptedTurn(text=base.dialect.render_call(wrong_call(base, first, rng)), train=False))
        _play(env, turns[0])
    for text in base_oracle_turns(base):
        turns.append(ScriptedTurn(text=text))
        _play(env, turns[-1])
    env.reset(options={"sample_id": sample.sample_id})
    return turns


def _first_call(env: VisualReasoningEnv) -> OperationCall:
    """The operation that an oracle begins with; raises ValueError if it would answer at once."""
    call = next(iter(env.dialect.parse(next(base_oracle_turns(env))).calls), None)
    if not isinstance(call, OperationCall):
        raise ValueError(
            f"Sample {env.sample.sample_id!r} has no evidence box, time or call that an operation of its environment "
            f"shows; expected a task whose samples have one, or demonstrations without operations (zoom=0)"
        )
    return call


def _play(env: gymnasium.Env[Any, Any], turn: ScriptedTurn) -> None:
    observation, *_, info = env.step(turn.text)
    if any(info["failures"].values()):
        raise ValueError(
            f"The oracle's turn {turn.text!r} on sample {info['sample_id']!r} failed: {observation['text']} "
            f"A correction takes one operation and one turn more: raise max_operations and max_turns, or set "
            f"correction=0."
        )


def oracle_traces(recipe: TracesRecipe) -> list[Trace]:
    """Demonstrations by somebody who knows the answers (see `oracle_turns`).

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


def wrong_call(env: VisualReasoningEnv, right: OperationCall, rng: np.random.Generator) -> OperationCall:
    """A call of the same operation as `right`, well written, that does not show the evidence of the running sample.

    Raises:
        NoMistakeError: nobody has said how this operation goes wrong (`WRONG`), or there is no room to go wrong in.
    """
    if right.name not in WRONG:
        raise NoMistakeError(
            f"No wrong call of {right.name!r} is known; expected one of {', '.join(WRONG)}, or {WITHOUT}"
        )
    changes = WRONG[right.name](env, right.arguments, rng)
    return OperationCall(name=right.name, arguments={**right.arguments, **changes})


def _zoom_elsewhere(env: VisualReasoningEnv, right: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A box of the same size that shares no pixel with the evidence."""
    evidence = env.sample.evidence_box
    assert evidence is not None, "an oracle zooms into the evidence box"
    box = wrong_box(env.sample.sources[0].size, evidence, rng)
    return {"bbox_2d": env.frame.from_source(box, env.views[right["target_image"] - 1])}


def _seek_elsewhere(env: VisualReasoningEnv, right: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A span of as many frames, before or after the right one, drawn evenly from the longer side."""
    video = env.sample.sources[right.get("target_video", 1) - 1]
    assert isinstance(video, VideoSource), "seek is for videos"
    found = video.frames_between(right["start"], right["end"])
    before, after = found[0], video.n_frames - 1 - found[-1]
    n_frames = min(len(found), max(before, after))
    if not n_frames:
        raise NoMistakeError(
            f"The evidence of sample {env.sample.sample_id!r} fills its video; expected frames before or after it, or "
            f"{WITHOUT}"
        )
    low = 0 if before >= after else found[-1] + 1
    first = low + int(rng.integers(max(before, after) - n_frames + 1))
    times = [*video.times, video.duration]
    # Rounded down to the three decimals that are written.
    start, end = (math.floor(times[k] * 1000 + 1e-6) / 1000 for k in (first, first + n_frames))
    return {"start": start, "end": end}


def _select_others(env: VisualReasoningEnv, right: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """As many other frames of the video, none of which shows the evidence."""
    chosen = right["target_frames"]
    frames = [view for view in env.views if view.frame is not None and view.index not in chosen]
    others = [view.index for view in frames if not shows_evidence(view, env)]
    if not others:
        raise NoMistakeError(
            f"All frames that are shown of sample {env.sample.sample_id!r} show its evidence; expected others, or "
            f"{WITHOUT}"
        )
    picked = rng.choice(others, size=min(len(chosen), len(others)), replace=False)
    return {"target_frames": sorted(int(number) for number in picked)}


#: Operation -> which arguments make a call of it go wrong.
WRONG: dict[str, Callable[[VisualReasoningEnv, Mapping[str, Any], np.random.Generator], dict[str, Any]]] = {
    "zoom_in": _zoom_elsewhere,
    "seek": _seek_elsewhere,
    "select_frames": _select_others,
}


def wrong_box(size: tuple[int, int], box: Box, rng: np.random.Generator) -> Box:
    """A box as large as `box` in an image of `size` (width, height) that shares no pixel with it, drawn evenly from the
    side of the box with most room; raises NoMistakeError if there is none."""
    (width, height), (x1, y1, x2, y2) = size, box
    w, h = x2 - x1, y2 - y1
    # Ranges of the upper left corner: left of the box, right of it, above and below.
    anywhere_x, anywhere_y = (0.0, width - w), (0.0, height - h)
    ranges = [
        ((0.0, x1 - w), anywhere_y),
        ((x2, width - w), anywhere_y),
        (anywhere_x, (0.0, y1 - h)),
        (anywhere_x, (y2, height - h)),
    ]
    room = [min(high - low for low, high in ends) for ends in ranges]
    if max(room) < 0:
        raise NoMistakeError(
            f"The evidence box {box} leaves no room for a wrong one of its size in {width}x{height} pixels; expected "
            f"a smaller box, or {WITHOUT}"
        )
    (left, right), (top, bottom) = ranges[int(np.argmax(room))]
    x, y = float(np.floor(rng.uniform(left, right))), float(np.floor(rng.uniform(top, bottom)))
    return (max(x, left), max(y, top), max(x, left) + w, max(y, top) + h)


class Demonstrations:
    """Traces as token rows for one model. They are replayed when asked for: a file of any size fits into memory."""

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
            f"`pxr train traces` writes one."
        )
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    traces = [_read_trace(row.values, f"{file}, {row.place}") for file in files for row in JSONLines(file).rows()]
    if not traces:
        raise DataError(f'traces="{path}" holds no trace; expected lines such as {FORMAT}')
    return traces


def _read_trace(value: object, origin: str) -> Trace:
    if isinstance(value, RowError):
        raise DataError(f"{origin}: {value}, such as {FORMAT}") from value
    try:
        # As JSON: lists become tuples, and nothing else is converted.
        line = _LINE.validate_json(json.dumps(value))
    except ValidationError as error:
        mistake = error.errors()[0]
        place, got = ".".join(map(str, mistake["loc"])) or "the line", show(mistake["input"])
        raise DataError(f"{origin}: {place} is {got} ({mistake['msg']}); expected {FORMAT}") from error
    if not any(turn.train for turn in line.turns):
        raise DataError(f"{origin}: no turn is to be trained on; expected at least one without train=false")
    return Trace(env=line.env, sample_id=line.sample_id, turns=line.turns, origin=origin)


def write_traces(path: str | Path, traces: Iterable[Trace]) -> None:
    """Write a JSONL file; its directory is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for trace in traces:
            line = dataclasses.asdict(trace)
            del line["origin"]
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
