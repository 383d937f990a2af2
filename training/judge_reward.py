"""A judge model as a reward: `reward = "judge"` (docs/rewards.md)."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

from pxr_agents.chat_client import Retries, Server
from pxr_agents.judge import JudgeModel
from pxr_agents.types import Episode


async def judge(
    episode: Episode,
    *,
    base_url: str,
    model: str,
    weight: float = 1.0,
    cache: str | None = None,
    concurrency: int = 8,
    timeout: float = 60.0,
    total: float = 300.0,
    api_key_env: str = "OPENAI_API_KEY",
) -> dict[str, float]:
    """The term "judge": `weight` for an answer that the environment's rule did not find correct and the judge does.

    What the rule finds correct is paid already, and where there is no answer there is nothing to judge: neither is
    asked about, and both get 0. The judge sees the question, the accepted answer and the answer, no image.

    Args:
        base_url, model, api_key_env: the OpenAI-compatible server, up to and with its version, the model's name there,
            and the environment variable of its key.
        cache: a JSONL file that keeps what was said, for other starts and processes; by default each process knows what
            it has asked.
        concurrency: questions of one process at once.
        timeout, total: seconds for one attempt, and after which none is repeated.

    Raises:
        Unanswered: it did not answer, or stated no verdict when it was asked three times.
        ServerRefused: the key, the address or the name of the model is wrong.
    """
    if episode.answer is None or episode.correct:
        return {"judge": 0.0}
    server = Server(
        base_url=base_url, model=model, api_key_env=api_key_env, timeout=timeout, retries=Retries(total=total)
    )
    asked = _model(server, cache, concurrency).ask(episode.prompt, [episode.target or ""], episode.answer)
    _, correct = await asyncio.wrap_future(asked)
    return {"judge": weight * correct}


@functools.cache
def _model(server: Server, cache: str | None, concurrency: int) -> JudgeModel:
    """One for all episodes of this process."""
    return JudgeModel(server, cache=None if cache is None else Path(cache), concurrency=concurrency)
