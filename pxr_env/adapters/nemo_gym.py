"""A task in NeMo Gym: a resources server whose sessions are episodes, and an agent that shows a model their images.

>>> PixelServer.run_webserver()    # the whole of resources_servers/pxr/app.py
>>> PixelAgent.run_webserver()    # the whole of responses_api_agents/pxr_agent/app.py
"""

from __future__ import annotations

from asyncio import to_thread
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from nemo_gym import base_resources_server as base
from nemo_gym.base_responses_api_agent import BaseResponsesAPIAgentConfig, SimpleResponsesAPIAgent
from nemo_gym.config_types import ModelServerRef, ResourcesServerRef
from nemo_gym.openai_utils import NeMoGymResponse, NeMoGymResponseCreateParamsNonStreaming, accumulate_response_usage
from nemo_gym.server_utils import SESSION_ID_KEY, get_response_json, raise_for_status
from pydantic import ConfigDict, Field, PrivateAttr

from pxr_env.session import ToolSession


class PixelServerConfig(base.BaseResourcesServerConfig):
    """The id of a task, arguments of its environment, and whether calls are native or written into the text."""

    task: str
    env_kwargs: dict[str, Any] = Field(default_factory=dict)
    native: bool = True


class PixelRow(base.BaseRunRequest):
    """A row of the data. Its prompt and tools are replaced, the rest of `responses_create_params` goes to the model."""

    model_config = ConfigDict(extra="allow")
    sample_id: str | None = None
    seed: int | None = None


class PixelVerifyResponse(base.BaseMultiRewardVerifyResponse):
    """How an episode ended, `term_NAME` and `used_NAME` for NeMo Gym's averages. Nothing in it is for the model."""

    model_config = ConfigDict(extra="allow")


class PixelServer(base.SimpleResourcesServer):
    """Plays an episode for each session cookie. They are in the memory of the process: it takes one worker."""

    ray_enabled = False
    config: PixelServerConfig
    _first: ToolSession = PrivateAttr()
    _sessions: dict[str, ToolSession] = PrivateAttr(default_factory=dict)

    def setup_webserver(self) -> FastAPI:
        """NeMo Gym's routes, and `/step`; opens the data, which all sessions share."""
        self._first = ToolSession(self.config.task, **self.config.env_kwargs)
        app = super().setup_webserver()
        app.post("/step")(self.step)
        return app

    async def seed_session(self, request: Request, body: PixelRow) -> dict[str, Any]:
        """Begins an episode; returns what the model is asked with. Errors are those of the environment."""
        session = await to_thread(ToolSession, self._first, images="png")
        question = await to_thread(session.reset, sample_id=body.sample_id, seed=body.seed)
        self._sessions[request.session[SESSION_ID_KEY]] = session
        native = self.config.native
        prompt, offered = (session.native_prompt, session.tools) if native else (session.system_prompt, [])
        tools = [{"type": "function", "strict": False, **tool["function"]} for tool in offered]
        return {"instructions": prompt, "input": [_item({"role": "user", "content": question})], "tools": tools}

    async def step(self, request: Request, body: NeMoGymResponse) -> dict[str, Any]:
        """Plays a message; returns the `input` after it and `done`. A native or cut one without calls is the last."""
        session, called = self._session(request), [item for item in body.output if item.type == "function_call"]
        calls = [{"id": one.call_id, "function": {"name": one.name, "arguments": one.arguments}} for one in called]
        said = {"content": body.output_text, "tool_calls": calls}
        if not calls and (self.config.native or body.incomplete_details):
            await to_thread(session.end, body.output_text)
        reply = [] if session.is_over else await to_thread(session.respond, said, images_apart=True)
        return {"input": [_item(message) for message in reply], "done": session.is_over}

    async def verify(self, request: Request, body: base.BaseVerifyRequest) -> PixelVerifyResponse:
        """Ends the session. An episode that is not over then has no answer."""
        session = self._session(request)
        end = await to_thread(session.end)
        facts = {name: session.info.get(name) for name in ("sample_id", "answer", "truncated_by")}
        facts |= {f"term_{name}": value for name, value in end.reward_terms.items()}
        facts |= {f"used_{name}": count for name, count in session.info["usage"].items()}
        await self.close_resources_session(request)
        return PixelVerifyResponse(**body.model_dump(), reward=end.reward, reward_components=end.reward_terms, **facts)

    async def close_resources_session(self, request: Request) -> None:
        """Gives an episode up, if there is one."""
        self._sessions.pop(request.session[SESSION_ID_KEY], None)

    def _session(self, request: Request) -> ToolSession:
        if session := self._sessions.get(request.session[SESSION_ID_KEY]):
            return session
        raise HTTPException(409, "got a cookie without an episode; expected that of /seed_session, before /verify")


class PixelAgentConfig(BaseResponsesAPIAgentConfig):
    """The servers that play."""

    resources_server: ResourcesServerRef
    model_server: ModelServerRef


class PixelAgent(SimpleResponsesAPIAgent):
    """Lets a model play: calls return texts, and their images come after them in a message of the user."""

    ray_enabled = False
    config: PixelAgentConfig

    async def responses(self, request: Request, body: NeMoGymResponseCreateParamsNonStreaming) -> NeMoGymResponse:
        """A message of the model, without an episode."""
        return await self._post(self.config.model_server, self.url_path_for_request("/v1/responses", request), body, {})

    async def run(self, request: Request, body: PixelRow) -> PixelVerifyResponse:
        """Plays an episode. Its `response` has every item after the question, as the model wrote and saw them."""
        server, path = self.config.resources_server, self.url_path_for_run("/v1/responses", body)
        cookies, of_model = dict(request.cookies), dict(request.cookies)
        asked = body.responses_create_params.model_dump(exclude_unset=True)
        asked |= await self._post(server, "/seed_session", body.model_dump(), cookies)
        output: list[dict[str, Any]] = []
        response: dict[str, Any] = {}
        usage, reply = None, {"done": False}
        try:
            while not reply["done"]:
                sent = {**asked, "input": asked["input"] + output}
                response = await self._post(self.config.model_server, path, sent, of_model)
                usage = accumulate_response_usage(usage, NeMoGymResponse(**response).usage)
                reply = await self._post(server, "/step", response, cookies)
                output += response["output"] + reply["input"]
            response |= {"output": output, "usage": usage and usage.model_dump()}
            played = body.model_dump() | {"responses_create_params": asked, "response": response}
            return await self._post(server, "/verify", played, cookies)
        except Exception:
            await self._post(server, "/close_session", {}, cookies)
            raise

    async def _post(self, server: Any, path: str, body: Any, cookies: dict[str, Any]) -> Any:
        response = await self.server_client.post(server_name=server.name, url_path=path, json=body, cookies=cookies)
        await raise_for_status(response)
        cookies.update(response.cookies)
        return await get_response_json(response)


def _item(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}
    return {"type": "message", "role": message["role"], "content": [_part(part) for part in message["content"]]}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    return {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "auto"}
