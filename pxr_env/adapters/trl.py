"""TRL's GRPOTrainer on our environments, images out of tools included.

from pxr_env.adapters.trl import GRPOTask, score

task = GRPOTask("pxr_env:pxr/SyntheticSearch-v0", coordinates="permille", size_multiple=32)
config = GRPOConfig("runs/grpo", max_completion_length=4096, max_tool_calling_iterations=5)
dataset = task.dataset(512)
GRPOTrainer(MODEL, score, config, dataset, environment_factory=task).train()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from datasets import Dataset
from gymnasium.envs.registration import EnvSpec

from pxr_env.messages import Content
from pxr_env.session import Outcome, ToolSession
from pxr_env.types import find_id


class GRPOEnvironment:
    """An environment as TRL wants it: the functions of its class are its tools. `GRPOTask` makes them."""

    def __init__(self, session: ToolSession) -> None:
        self._session = session

    def reset(self, sample_id: str, **row: Any) -> Content:
        """Begins the episode of a row of the dataset; returns the question, which TRL appends to the row's prompt."""
        return self._session.reset(sample_id=sample_id)

    def _end(self, completion: Sequence[Mapping[str, Any]]) -> Outcome:
        last = completion[-1]
        # The calls of a last message were cut off, before or after they were played: it was no answer.
        said = last["content"] if last["role"] == "assistant" and not last.get("tool_calls") else ""
        return self._session.end(said)


class GRPOTask:
    """A task for `GRPOTrainer`: its `environment_factory`, and its dataset.

    For several tasks at once give the trainer a dict of them, and `datasets.concatenate_datasets` of their datasets,
    each with its key as `environment`.

    Args:
        env: the id of a task, or its spec.
        kwargs: of the environment. `size_multiple`, `min_pixels` and `max_pixels` have to be those of the model's image
            processor, or it resizes what the environment shows.
    """

    def __init__(self, env: str | EnvSpec, **kwargs: Any) -> None:
        self._first = ToolSession(env, images="pil", **kwargs)

    def __call__(self) -> GRPOEnvironment:
        """A new environment, for one episode at a time."""
        session = ToolSession(self._first, images="pil")
        tools = {function.__name__: function for function in session.functions}
        for function in tools.values():
            # It would stand in the schema that the model is shown.
            del function.__annotations__["return"]
        made = type("Environment", (GRPOEnvironment,), {name: staticmethod(tool) for name, tool in tools.items()})
        return made(session)

    def dataset(self, samples: int | Sequence[str], *, environment: str | None = None) -> Dataset:
        """Rows with "prompt" (the system prompt, and a turn of the user that `reset` fills), "sample_id" and, of
        several tasks, "environment".

        Args:
            samples: ids, or how many, from the first one on.
            environment: the key of this task among several.

        Raises:
            ValueError: there are not so many samples.
            DataError: there is no sample of that id.
        """
        known = self._first.base.data.sample_ids()
        if isinstance(samples, int):
            if not 0 < samples <= len(known):
                raise ValueError(f"got samples={samples}; expected 1 to {len(known)}, which the task has.")
            samples = [known[number] for number in range(samples)]
        prompt = [{"role": "system", "content": self._first.native_prompt}, {"role": "user", "content": ""}]
        route = {} if environment is None else {"environment": environment}
        return Dataset.from_list([{"prompt": prompt, "sample_id": find_id(i, known), **route} for i in samples])


def score(
    completions: Sequence[Sequence[Mapping[str, Any]]],
    environments: Sequence[Any],
    log_metric: Callable[[str, float], None],
    **row: Any,
) -> list[float | None]:
    """The reward function: ends every episode with the model's last message, of which TRL tells nobody else.

    Logs what `pxr_agents.statistics` names so: "accuracy", "usage_rate", "truncated_rate" and "reward/TERM", means of a
    batch.

    Returns:
        A reward for each episode, None for environments that are not ours.
    """
    outcomes = [
        environment._end(completion) if isinstance(environment, GRPOEnvironment) else None
        for completion, environment in zip(completions, environments, strict=True)
    ]
    ours = [outcome for outcome in outcomes if outcome is not None]
    if ours:
        log_metric("accuracy", fmean(outcome.info["correct"] for outcome in ours))
        log_metric("usage_rate", fmean(bool(sum(outcome.info["usage"].values())) for outcome in ours))
        log_metric("truncated_rate", fmean("truncated_by" in outcome.info for outcome in ours))
        for term in sorted({term for outcome in ours for term in outcome.reward_terms}):
            log_metric(f"reward/{term}", fmean(outcome.reward_terms.get(term, 0.0) for outcome in ours))
    return [outcome if outcome is None else outcome.reward for outcome in outcomes]
