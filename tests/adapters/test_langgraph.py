"""A graph of LangGraph plays the 20 episodes with a chat model that follows a script."""

import json
import runpy
from pathlib import Path
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool

from pxr_env import ToolSession
from pxr_env.messages import read_observation
from tests.adapters.episodes import ENV_ID, EPISODES, assert_no_leak, equal_seen

EXAMPLE = Path(__file__).parents[2] / "examples" / "adapters" / "with_langgraph.py"
play = runpy.run_path(str(EXAMPLE))["play"]


class Script(BaseChatModel):
    """Says what an episode has, and keeps what it was shown."""

    turns: Any
    heard: Any = ()
    schemas: Any = ()

    @property
    def _llm_type(self):
        return "script"

    def bind_tools(self, tools, **kwargs):
        self.schemas = [convert_to_openai_tool(tool) for tool in tools]
        return self

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.heard = messages
        said = next(self.turns)
        calls = [
            {"name": name, "args": json.loads(arguments), "id": f"{len(messages)}-{k}"}
            for k, (name, arguments) in enumerate(said.calls)
        ]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(said.text, tool_calls=calls))])


def test_the_20_episodes_are_those_of_step():
    for episode in EPISODES:
        calls = [call for said in episode.turns for call in said.calls]
        if any(name == "look" or arguments[-1] != "}" for name, arguments in calls):
            continue  # LangGraph itself answers unknown tools, and no chat model of it hands broken JSON to a tool
        if any(len(said.calls) > 1 for said in episode.turns):
            continue  # parallel calls are handed over one by one
        session, model = ToolSession(ENV_ID, images="png"), Script(turns=iter(episode.turns))
        outcome = play(model, session, sample_id=episode.sample_id)
        told = [message for message in model.heard if message.type in ("human", "tool")]
        seen = [read_observation({"content": message.content})[0] for message in told]
        assert equal_seen([(one["text"], list(one["images"])) for one in seen], episode.seen)
        assert (outcome.reward, outcome.info["usage"]) == (episode.reward, episode.info["usage"])
        assert_no_leak((model.schemas, [message for message in model.heard if message.type != "ai"]))
