"""Inspect asks 50 questions of a task: `inspect eval examples/adapters/with_inspect_ai.py --model openai/gpt-5`."""

from inspect_ai import Task, task

from pxr_env.adapters.inspect_ai import visual


@task
def search() -> Task:
    return visual("pxr/SyntheticSearch-v0", limit=50)
