"""What is played: drawn calls, calls that are executed, and what models write when they mean to call or to answer."""

from __future__ import annotations

from typing import Any

import numpy as np

from pxr_env.env import VisualReasoningEnv
from pxr_env.media import VideoSource
from pxr_env.operations import Operation
from pxr_env.operations.registry import Scale
from pxr_env.operations.registry import draw_call as draw_on_scale
from pxr_env.testing.playing import Environment, base
from pxr_env.types import OperationCall

#: An answer that occurs in no tag and no message.
MARKER = "zqxj"
#: A turn that neither calls nor answers.
PROSE = "I am not sure."
_DEEP = 2000
_TRIES = 20


def written(env: VisualReasoningEnv, call: OperationCall) -> str | None:
    """Returns a call as the dialect writes it, or None if it cannot."""
    try:
        return env.dialect.render_call(call)
    except ValueError:
        return None


def draw_call(env: VisualReasoningEnv, operation: Operation, rng: np.random.Generator) -> OperationCall:
    """Draws a call of an operation whose numbers suit the first view."""
    width, height = env.frame.extent(env.views[0].size)
    durations = [source.duration for source in env.sample.sources if isinstance(source, VideoSource)]
    seconds = max(durations, default=1.0)
    return draw_on_scale(
        operation, Scale(width=width, height=height, seconds=seconds, integers=env.frame.decimals == 0), rng
    )


def drawn_turns(env: VisualReasoningEnv, count: int, rng: np.random.Generator) -> list[str]:
    """Returns so many drawn calls of every operation, of those that the dialect can write."""
    calls = [draw_call(env, operation, rng) for _ in range(count) for operation in env.operations.values()]
    return [text for call in calls if (text := written(env, call)) is not None]


def mixed_turns(env: VisualReasoningEnv, rng: np.random.Generator) -> list[str]:
    """Returns turns for the sample of an environment: drawn calls of every operation, a mistake and an answer."""
    return [*drawn_turns(env, 2, rng), PROSE, env.dialect.render_answer(env.sample.answers[0])]


def executed_turns(env: Environment, count: int, rng: np.random.Generator) -> list[str]:
    """Returns turns with different calls that are executed one after the other, or fewer where none are found.

    Args:
        env: an environment whose episode has just begun; the turns are played in it.
        count: how many are wanted.
        rng: draws them.
    """
    found: list[str] = []
    n_executed = 0
    for operation in [*base(env).operations.values()] * (_TRIES * count):
        text = written(base(env), draw_call(base(env), operation, rng))
        if text is None:
            continue
        *_, info = env.step(text)
        if sum(info["usage"].values()) > n_executed:
            n_executed = sum(info["usage"].values())
            found.append(text)
        if len(found) == count:
            break
    return found


def malformed_turns(env: VisualReasoningEnv, call: OperationCall | None) -> dict[str, str]:
    """Returns what is wrong -> a turn of which nothing counts: no call is executed and no answer is final.

    Args:
        env: whose dialect and operations they are written for.
        call: a call that would be executed, or None for a task without one.
    """
    answer = env.dialect.render_answer(MARKER)
    turns: dict[str, str | None] = {
        "nothing": "",
        "blanks": " \n\t\n",
        "prose": "I do not know, let me think about the picture once more.",
        "prose in Chinese": "左上角有一个红色的盒子。",
        "a lone surrogate": "\ud800",
        "a null character": "\x00",
        "half an answer": answer[: answer.index(MARKER) + 2],
        "an empty answer": answer.replace(MARKER, ""),
        "two answers": f"{answer} or {env.dialect.render_answer(MARKER[::-1])}",
        "closing tags only": "</tool_call></answer></think>}}]]",
        "braces only": "{" * _DEEP,
        "an unknown operation": written(env, OperationCall(name="no_such_operation", arguments={})),
    }
    if call is not None and (text := written(env, call)) is not None:
        turns |= {
            "half a call": text[: len(text) // 2],
            "a call and an answer": f"{text}\n{answer}",
            "an answer and a call": f"{answer}\n{text}",
        }
        for name, changes in _wrong_arguments(call).items():
            turns[name] = written(env, OperationCall(name=call.name, arguments={**call.arguments, **changes}))
    return {name: turn for name, turn in turns.items() if turn is not None}


def _wrong_arguments(call: OperationCall) -> dict[str, dict[str, Any]]:
    """What is wrong -> changes of a call's arguments that no schema admits."""
    wrong: dict[str, dict[str, Any]] = {"an unknown argument": {"no_such_argument": 1}}
    for name in call.arguments:
        wrong |= {
            f"an object as {name}": {name: {"x": [1]}},
            f"null as {name}": {name: None},
            f"lists in lists as {name}": {name: [[[[]]]]},
        }
    return wrong


def surrounded(text: str) -> dict[str, str]:
    """Returns what stands around -> a turn in which a call is surrounded by what models write beside it."""
    return {
        "nothing": text,
        "a line break after it": f"{text}\n",
        "blanks around it": f"  \n{text} \t\n\n",
        "prose before it": f"I look closer, at about (3, 4):\n{text}",
        "prose after it": f"{text}\nThis should show it.",
        "Chinese around it": f"我再看一下。{text}好的。",
        "braces and quotes before it": f"A set {{1, 2}} and a \"quote\" and 'another'.\n{text}",
        "a smaller-than sign before it": f"Since 3 < 4 and 5 > 2, {text}",
    }
