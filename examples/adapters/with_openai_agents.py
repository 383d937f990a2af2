"""An agent of the OpenAI Agents SDK: pip install pxr-gym openai-agents"""

import asyncio

from agents import Agent, FunctionTool, Runner, ToolOutputImage, ToolOutputText

from pxr_env import AsyncToolSession


def tools_of(player):
    def tool(name, description, parameters):
        async def run(context, arguments):
            result = await player.call(name, arguments)
            return [
                ToolOutputText(text=part["text"])
                if part["type"] == "text"
                else ToolOutputImage(image_url=part["image_url"]["url"])
                for part in result.content
            ]

        return FunctionTool(name, description, parameters, run, strict_json_schema=False)

    return [tool(**schema["function"]) for schema in player.session.tools]


async def play(model, player, **which):
    """Plays one episode; `player` is a session with images="png"."""
    shown = await player.reset(**which)
    content = [
        {"type": "input_text", "text": part["text"]}
        if part["type"] == "text"
        else {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "auto"}
        for part in shown
    ]
    agent = Agent("looker", instructions=player.session.native_prompt, tools=tools_of(player), model=model)
    done = await Runner.run(agent, [{"role": "user", "content": content}])
    return await player.end(done.final_output)


if __name__ == "__main__":
    player = AsyncToolSession("pxr_env:pxr/SyntheticSearch-v0", images="png")
    print(asyncio.run(play("gpt-5-mini", player, seed=0)).reward)
