"""Tasks of Inspect (https://inspect.aisi.org.uk), with every crop in its log.

Installed, `inspect eval pxr_env/visual -T env=pxr/SyntheticCount-v0 --model openai/gpt-5`; in a file of your own:

    from inspect_ai import Task, task
    from pxr_env.adapters.inspect_ai import visual

    @task
    def count() -> Task:
        return visual("pxr_env:pxr/SyntheticCount-v0", native=False, limit=50)
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from typing import Any

from anyio.to_thread import run_sync
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, ContentImage, ContentText, execute_tools, get_model
from inspect_ai.scorer import Score, Scorer, Target, accuracy, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import ToolCall, ToolDef, ToolParams

from pxr_env.messages import Content
from pxr_env.session import ToolSession


@task
def visual(env: str = "pxr_env:pxr/SyntheticSearch-v0", native: bool = True, limit: int = 200, **kwargs: Any) -> Task:
    """Questions of an environment, each played as an episode.

    Args:
        env: the id of a task, with a module before it where that registers it.
        native: whether calls come as tool calls, or written into the text in the environment's dialect.
        limit: how many samples, the first of the data; 0 for all of them.
        kwargs: of the environment, such as `coordinates` or `data`.
    """
    env = env if ":" in env else f"pxr_env:{env}"
    data = ToolSession(env, **kwargs).base.data
    every = data.sample_ids()
    chosen = [data.get(name) for name in every[: limit or None]]
    samples = [Sample(id=one.sample_id, input=one.question, target=list(one.answers)) for one in chosen]
    dataset = MemoryDataset(samples, name=f"{env} ({len(samples)} of {len(every)})")
    return Task(dataset=dataset, solver=play(env, native, **kwargs), scorer=outcome())


@solver
def play(env: str, native: bool = True, **kwargs: Any) -> Solver:
    """Plays the sample of that id. Each message of the model is a turn of the environment, with all of its tool calls;
    the environment answers for them, so that Inspect's own refusals and approvals of calls change nothing."""
    idle: list[ToolSession] = []
    first = functools.cache(lambda: ToolSession(env, **kwargs))

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        session = idle.pop() if idle else await run_sync(lambda: ToolSession(first(), images="png"))
        question = await run_sync(lambda: session.reset(sample_id=str(state.sample_id)))
        told = session.native_prompt if native else session.system_prompt
        state.messages = [ChatMessageSystem(content=told), ChatMessageUser(content=_parts(question))]
        due: dict[str, list[Content]] = defaultdict(list)
        state.tools = [_tool(schema["function"], due) for schema in session.tools] if native else []
        last, limit = "", "length"
        try:
            while not session.is_over and not last:
                state = await generate(state, tool_calls="none")
                if state.output.stop_reason == "model_length":
                    last, limit = state.output.completion or " ", "context"
                else:
                    await _answer(state, session, due)
        finally:  # Where a limit of Inspect ends the sample, too: what was played is scored.
            end = session.end(last, limit=limit)
            facts = {**end.info, "reward": end.reward, "reward_terms": end.reward_terms}
            state.store.set("pxr_env", json.loads(json.dumps(facts)))
            idle.append(session)
        return state

    return solve


async def _answer(state: TaskState, session: ToolSession, due: dict[str, list[Content]]) -> None:
    """Plays the model's last message and adds what follows it."""
    message = state.output.message
    calls = [(call.function, _arguments(call)) for call in message.tool_calls or ()]
    if not calls:
        reply = await run_sync(session.say, state.output.completion)
        state.messages += [ChatMessageUser(content=_parts(reply))] if reply else []
        return
    results = await run_sync(lambda: session.calls(calls, text=message.text))
    for (name, arguments), result in zip(calls, results, strict=True):
        due[_key(name, arguments)].append(result.content)
    # Inspect runs the tools for its transcript; the calls that it refuses by itself get the environment's words, too.
    shown = (await execute_tools(state.messages, state.tools)).messages
    for told, result in zip(shown, results, strict=True):
        told.content, told.error = _parts(result.content), None
    # Where a server takes no images of tools, Inspect moves them into a message of the user, which has to come last.
    if not get_model().api.tool_result_images():
        shown.sort(key=lambda told: any(part.type == "image" for part in told.content))
    state.messages += shown
    due.clear()


def _arguments(call: ToolCall) -> dict[str, Any] | str:
    """As the model wrote them. Of those that Inspect could not read only its complaint is left, which quotes them."""
    if not call.parse_error:
        return call.arguments
    return call.parse_error.partition("\n\n")[2].rpartition("\n\nError details:")[0] or call.parse_error


def _key(name: str, arguments: dict[str, Any] | str) -> str:
    return json.dumps([name, arguments], sort_keys=True)


def _tool(function: dict[str, Any], due: dict[str, list[Content]]) -> ToolDef:
    """The tool of a schema, which shows what came of its call."""

    async def show(**arguments: Any) -> list[ContentText | ContentImage]:
        return _parts(due[_key(function["name"], arguments)].pop(0))

    schema = ToolParams(**function["parameters"])
    return ToolDef(show, name=function["name"], description=function["description"], parameters=schema, parallel=False)


def _parts(content: Content) -> list[Any]:
    return [
        ContentText(text=part["text"]) if part["type"] == "text" else ContentImage(image=part["image_url"]["url"])
        for part in content
    ]


@scorer(metrics={"score": [accuracy()], "*": [mean(), stderr()]})
def outcome() -> Scorer:
    """The environment's score of the final answer, the episode's reward, and whether and how often operations were
    executed: `usage_rate` is the share of episodes that used one."""

    async def score(state: TaskState, target: Target) -> Score:
        facts = dict(state.store.get("pxr_env"))
        counts = {f"usage/{name}": float(count) for name, count in facts["usage"].items()}
        value = {"score": facts["score"], "reward": facts["reward"], "usage_rate": float(any(counts.values()))}
        return Score(value=value | counts, answer=facts["answer"], metadata=facts)

    return score
