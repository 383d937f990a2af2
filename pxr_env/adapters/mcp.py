"""A task as a server of the Model Context Protocol: its operations are tools that return images.

>>> from mcp import Client, StdioServerParameters
>>> command = StdioServerParameters(command="python", args=["-m", "pxr_env", "mcp", "pxr/SyntheticSearch-v0"])
>>> async with Client(command) as client:
...     question = await client.call_tool("reset", {"seed": 0})
...     crop = await client.call_tool("zoom_in", {"bbox_2d": [0.0, 0.0, 0.5, 0.5], "target_image": 1})
...     reward = (await client.call_tool("answer", {"text": "T"})).meta[OUTCOME]["reward"]
"""

from __future__ import annotations

import argparse
import sys
from functools import lru_cache
from typing import Any

import anyio
import gymnasium
import uvicorn
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS

from pxr_env.messages import Content
from pxr_env.play import read_settings
from pxr_env.session import AsyncToolSession, Outcome, ToolSession
from pxr_env.tasks import import_module_of

#: In `_meta` of the result that ends an episode, which clients do not show to models: `reward`, `reward_terms`,
#: `answer`, `truncated_by`, `usage` and `failures`.
OUTCOME = "pxr/outcome"
#: Over HTTP, beyond so many clients those that were quiet for longest lose their episodes.
MAX_CLIENTS = 256
_TEXT = {"type": "string", "description": "The bare answer; empty to give up."}
_SAMPLE = {"type": "string", "description": "The sample to ask about; one is drawn if left out."}
_SEED = {"type": "integer", "minimum": 0, "description": "Of the draw."}


def build_server(task: str, **kwargs: Any) -> Server:
    """A server of the SDK, for stdio or `streamable_http_app()`: each session of a client has an episode of its own.

    Its tools are the operations, `reset(sample_id, seed)`, which shows a question, and `answer(text)`. What is wrong
    with a call stands in a result with `is_error`.

    Args:
        task: the id of a task.
        kwargs: of its environment. What is wrong with them is an error now, see `ToolSession`.
    """
    first = ToolSession(task, **kwargs)
    session_of = lru_cache(MAX_CLIENTS)(lambda client: AsyncToolSession(first, images="png"))
    asks = {"properties": {"sample_id": _SAMPLE, "seed": _SEED}}
    tools = [
        _tool("reset", "Begin an episode: shows a question with its images. Call it first.", asks),
        *(_tool(**tool["function"]) for tool in first.tools),
        _tool("answer", "Give the final answer and end the episode.", {"properties": {"text": _TEXT}}),
    ]
    instructions = f"{first.native_prompt}\n\n`reset` shows a question; `answer` takes its final answer."

    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        # Over stdio the process is the client's own; over HTTP its session has an id.
        client = "" if context.request is None else context.request.headers.get("mcp-session-id")
        if client is None:
            return _result("Error: got no session; expected one that began with initialize.", ok=False)
        return await _play(session_of(client), params.name, params.arguments or {})

    async def discover(context: Any, params: Any) -> types.DiscoverResult:
        found = await own_discover(context, params)
        # The newest protocol has no sessions over HTTP. Clients that do not find it here begin one with `initialize`.
        versions = list(HANDSHAKE_PROTOCOL_VERSIONS)
        return found if context.request is None else found.model_copy(update={"supported_versions": versions})

    server: Server = Server("pxr", instructions=instructions, on_list_tools=list_tools, on_call_tool=call_tool)
    own_discover = server.get_request_handler("server/discover").handler
    server.add_request_handler("server/discover", types.RequestParams, discover)
    return server


async def _play(session: AsyncToolSession, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
    try:
        if name == "reset":
            return _result(await session.reset(**arguments))
        if name != "answer":
            played = await session.call(name, arguments)
            return _result(played.content, ok=played.ok, outcome=session.session.outcome)
        if set(arguments) != {"text"}:
            return _result(f"Error: got {', '.join(arguments) or 'nothing'}; expected text.", ok=False)
        text = str(arguments["text"])
        return _result("The episode is over.", outcome=await (session.answer(text) if text else session.end()))
    except gymnasium.error.ResetNeeded:
        return _result("Error: no episode is running. Call reset first.", ok=False)
    except (ValueError, TypeError) as error:
        return _result(f"Error: {error}", ok=False)


def _tool(name: str, description: str, parameters: dict[str, Any]) -> types.Tool:
    return types.Tool(name=name, description=description, input_schema={"type": "object", **parameters})


def _result(content: Content | str, *, ok: bool = True, outcome: Outcome | None = None) -> types.CallToolResult:
    parts: Content = [{"type": "text", "text": content}] if isinstance(content, str) else content
    blocks = [
        types.TextContent(text=part["text"])
        if part["type"] == "text"
        else types.ImageContent(data=part["image_url"]["url"].partition(",")[2], mime_type="image/png")
        for part in parts
    ]
    meta = None
    if outcome is not None:
        told = {name: outcome.info.get(name) for name in ("answer", "truncated_by", "usage", "failures")}
        meta = {OUTCOME: {"reward": outcome.reward, "reward_terms": outcome.reward_terms, **told}}
    return types.CallToolResult(content=blocks, is_error=not ok, _meta=meta)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    add = parser.add_argument
    add("task", metavar="ID", help="id of the task; `python -m pxr_env list` lists them")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="arguments of the task")
    add("--http", type=int, metavar="PORT", help="serve http://127.0.0.1:PORT/mcp instead of stdin and stdout")


def run(args: argparse.Namespace) -> int:
    """Serves until the client leaves, or Ctrl-C; returns 0, or 2 for wrong arguments."""
    try:
        server = build_server(args.task, **read_settings(import_module_of(args.task), args.set))
    except (ValueError, TypeError, OSError, gymnasium.error.Error) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if args.http is None:
        anyio.run(_serve_stdio, server)
    else:
        uvicorn.run(server.streamable_http_app(), port=args.http, log_level="warning")
    return 0


async def _serve_stdio(server: Server) -> None:
    async with stdio_server() as streams:
        await server.run(*streams, server.create_initialization_options())
