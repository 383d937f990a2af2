"""The runner of the OpenAI Agents SDK plays the 20 episodes with a model that follows a script."""

import asyncio
import runpy
from pathlib import Path

from agents import Model, ModelResponse, Usage, set_tracing_disabled
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from pxr_env import AsyncToolSession
from pxr_env.messages import read_observation
from tests.adapters.episodes import ENV_ID, EPISODES, assert_no_leak, equal_seen

EXAMPLE = Path(__file__).parents[2] / "examples" / "adapters" / "with_openai_agents.py"
play = runpy.run_path(str(EXAMPLE))["play"]
set_tracing_disabled(True)


class Script(Model):
    """Says what an episode has, and keeps what it was shown."""

    def __init__(self, episode):
        self.turns, self.inputs, self.handed = iter(episode.turns), [], []

    async def get_response(self, system_instructions, input, model_settings, tools, *rest, **others):
        self.inputs = list(input)
        self.handed.append((system_instructions, [tool.params_json_schema for tool in tools]))
        said = next(self.turns)
        output = [
            ResponseFunctionToolCall(type="function_call", call_id=f"{len(input)}-{k}", name=name, arguments=arguments)
            for k, (name, arguments) in enumerate(said.calls)
        ]
        if said.text:
            text = ResponseOutputText(type="output_text", text=said.text, annotations=[])
            message = ResponseOutputMessage(
                id="m", type="message", role="assistant", status="completed", content=[text]
            )
            output.insert(0, message)
        return ModelResponse(output=output, usage=Usage(), response_id=None)

    def stream_response(self, *args, **kwargs):
        raise NotImplementedError


def shown(items):
    """Text and pixels of the question and of each result, from the items of the Responses API."""
    seen = []
    for item in items:
        parts = item.get("content") if item.get("role") == "user" else item.get("output")
        if not parts:
            continue
        message = [
            {"type": "text", "text": part["text"]}
            if part["type"] == "input_text"
            else {"type": "image_url", "image_url": {"url": part["image_url"]}}
            for part in parts
        ]
        observation = read_observation({"content": message})[0]
        seen.append((observation["text"], list(observation["images"])))
    return seen


def test_the_20_episodes_are_those_of_step():
    for episode in EPISODES:
        calls = [name for said in episode.turns for name, _ in said.calls]
        if "look" in calls or any(len(said.calls) > 1 for said in episode.turns):
            continue  # the SDK itself refuses unknown tools, and hands parallel calls over one by one
        model, player = Script(episode), AsyncToolSession(ENV_ID, images="png")
        outcome = asyncio.run(play(model, player, sample_id=episode.sample_id))
        assert equal_seen(shown(model.inputs), episode.seen)
        assert outcome.reward == episode.reward
        assert outcome.info["usage"] == episode.info["usage"]
        assert_no_leak((model.handed, [item for item in model.inputs if item.get("role") != "assistant"]))
