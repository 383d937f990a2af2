"""A server of OpenEnv, and an episode from another process. Known messages stand where a model belongs."""

import sys
import time
from multiprocessing import Process

import httpx
import uvicorn

from pxr_env.adapters.openenv import PixelAction, PixelClient, build_app

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000


def serve() -> None:
    uvicorn.run(build_app("pxr_env:pxr/SyntheticSearch-v0", max_turns=6), port=PORT, log_level="warning")


def play() -> None:
    with PixelClient(base_url=f"http://127.0.0.1:{PORT}").sync() as client:
        messages = client.reset(seed=0).observation.messages
        call = '{"name": "zoom_in", "arguments": {"bbox_2d": [0.0, 0.0, 0.5, 0.5], "target_image": 1}}'
        for text in (f"A look. <tool_call>{call}</tool_call>", r"It is \boxed{T}."):
            result = client.step(PixelAction(content=text))
            messages += [{"role": "assistant", "content": text}, *result.observation.messages]
        print([message["role"] for message in messages])
        print(result.reward, result.observation.reward_terms)


if __name__ == "__main__":
    server = Process(target=serve)
    server.start()
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{PORT}/health")
            break
        except httpx.ConnectError:
            time.sleep(0.2)
    play()
    server.terminate()
