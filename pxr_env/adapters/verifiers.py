"""An environment of verifiers (v1): each reply is a message of the user with its crops, each reward term a reward.

Installed, `vf-eval pxr_verifiers -m MODEL -n 20 -r 4 --env.taskset.task-id pxr/SyntheticCount-v0`; in Python:

    from pxr_verifiers import VisualEnv, VisualEnvConfig

    taskset = {"id": "pxr_verifiers", "env_id": "pxr/SyntheticCount-v0", "kwargs": {"coordinates": "pixel"}}
    env = VisualEnv(VisualEnvConfig(taskset=taskset))
    async with env.serving():
        episodes = [await env.run_slot(slot, context) for task in env.taskset.take(20) for slot in env.slots(task)]
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf
from openai import APIStatusError, AsyncOpenAI
from pydantic import Field
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.harnesses.utils.compaction import is_context_overflow

from pxr_env.session import AsyncToolSession, Outcome, shared_session


class VisualTasksetConfig(vf.TasksetConfig):
    """Whose samples are asked about."""

    env_id: str = "pxr/SyntheticSearch-v0"
    """The id of a task, with a module before it ("mine:my/Task-v0") where that registers it."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Of the environment, such as {"coordinates": "pixel"}."""

    def session(self) -> AsyncToolSession:
        """Plays episodes of it."""
        env_id = self.env_id if ":" in self.env_id else f"pxr_env:{self.env_id}"
        return AsyncToolSession(shared_session(env_id, **self.kwargs), images="png")


class VisualTask(vf.Task[vf.TaskData]):
    """A sample, by its id alone: what is asked comes with the first turn, and no answer is written beside it."""


class VisualTaskset(vf.Taskset[VisualTask, VisualTasksetConfig]):
    """All samples of an environment, in their order."""

    def load(self) -> Iterator[VisualTask]:
        """Yields a task for each sample."""
        session = self.config.session().session
        for name in session.base.data.sample_ids():
            yield VisualTask(vf.TaskData(id=name, name=name, system_prompt=session.system_prompt), self.config.task)


class ChatHarness(vf.Harness[vf.HarnessConfig]):
    """Asks the model once a turn, in this process: an episode runs no code of the model, and needs no sandbox."""

    APPENDS_SYSTEM_PROMPT = SUPPORTS_RESUME = True
    EXECUTES_CODE = NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Sends the conversation; verifiers' server between us and the model writes the trace."""
        messages: list[Any] = [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []
        messages += [message_to_wire(message) for message in data.prompt]
        try:
            async with AsyncOpenAI(base_url=endpoint, api_key=secret) as client:
                await client.chat.completions.create(model=ctx.model, messages=messages)
        except APIStatusError as error:
            # A full context ends the conversation and is no fault. Of faults verifiers' server knows the cause.
            return vf.ProgramResult(exit_code=int(not is_context_overflow(error)), stdout="", stderr=str(error))
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


class VisualEnvConfig(vf.EnvConfig):
    """Of `VisualEnv`."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    """The model that plays."""


class VisualEnv(vf.Env[VisualEnvConfig]):
    """Plays a task as an episode, with calls in the text of the model, in the environment's dialect."""

    def __init__(self, config: VisualEnvConfig) -> None:
        super().__init__(config)
        self._idle: list[AsyncToolSession] = []

    async def run(self, task: VisualTask, agents: vf.Agents) -> None:
        """Plays; rewards are the terms of the environment, metrics the score and what operations were used."""
        session = self._idle.pop() if self._idle else await asyncio.to_thread(self.config.taskset.session)
        reply, limit = await session.reset(sample_id=task.data.id), "length"
        async with agents.agent.interaction(task) as interaction:
            while reply:
                segment = await interaction.turn([{"role": "user", "content": reply}])
                if segment.terminated:  # By a limit or a fault, which the trace names, or else by a full context.
                    limit = "length" if interaction.trace.stop_condition else "context"
                    break
                reply = await session.say(segment.messages[-1].content or "")
        record(interaction.trace, await session.end(limit=limit))
        self._idle.append(session)


def record(trace: vf.Trace, outcome: Outcome) -> None:
    """Writes an outcome to a trace: `usage_rate` is 1 where an operation was executed, `usage/NAME` how often."""
    for name, value in (outcome.reward_terms or {"correct": 0.0}).items():
        trace.record_reward(name, value)
    usage = outcome.info["usage"]
    trace.record_metrics({"score": outcome.info["score"], "usage_rate": float(any(usage.values()))})
    trace.record_metrics({f"usage/{name}": float(count) for name, count in usage.items()})
    trace.info["pxr_env"] = outcome.info
