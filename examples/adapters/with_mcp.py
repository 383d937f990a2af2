"""An episode over the Model Context Protocol. A client that knows the answer sits where a model belongs."""

import sys

import anyio
from mcp import Client, StdioServerParameters


async def main() -> None:
    command = StdioServerParameters(command=sys.executable, args=["-m", "pxr_env", "mcp", "pxr/SyntheticSearch-v0"])
    async with Client(command) as client:
        print([tool.name for tool in (await client.list_tools()).tools])
        question = await client.call_tool("reset", {"seed": 0})
        print([block.type for block in question.content], question.content[-1].text)
        crop = await client.call_tool("zoom_in", {"bbox_2d": [0.0, 0.0, 0.5, 0.5], "target_image": 1})
        print([block.type for block in crop.content], crop.content[-1].text)
        end = await client.call_tool("answer", {"text": "T"})
        print(end.content[0].text, end.meta["pxr/outcome"]["reward"])


anyio.run(main)
