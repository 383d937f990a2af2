"""The documentation page of a task, made from the docstrings of its data class and of the environment."""

from __future__ import annotations

import inspect
import re

from pxr_env.env import VisualReasoningEnv
from pxr_env.tasks import Task

#: The headings of a page, in this order; one that neither docstring has is left out.
HEADINGS = (
    "Description",
    "Observation",
    "Action",
    "Reward",
    "End",
    "Info",
    "Difficulty",
    "Certified need",
    "Oracle",
    "Arguments",
)

_SECTION = re.compile(r"^## (.+)\n", re.MULTILINE)
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n     +.*)*)", re.MULTILINE)


def page(task: Task) -> str:
    """Returns the page of a task as Markdown, with the headings of `HEADINGS`.

    What the data class says under a heading stands before what all environments have in common.
    """
    of_data, of_environment = (sections(inspect.getdoc(owner) or "") for owner in _owners(task))
    found = {**of_environment, **of_data, "Arguments": _arguments(task)}
    if "Description" not in of_data:
        found["Description"] = of_data[""]
    for heading in ("Observation", "Action", "Reward"):
        if heading in of_data:
            found[heading] = f"{of_data[heading]}\n\n{of_environment[heading]}"
    parts = [f"# {task.id}\n\n{_first_letter_up(task.summary)}.\n\n{_example(task)}"]
    parts += [f"## {heading}\n{found[heading]}" for heading in HEADINGS if found.get(heading)]
    return "\n\n".join(parts) + "\n"


def sections(docstring: str) -> dict[str, str]:
    """Returns heading -> text of a docstring with Markdown headings; what stands before the first is under ""."""
    prose = re.split(r"^(?:Args|Raises|Attributes):$", docstring, maxsplit=1, flags=re.MULTILINE)[0]
    first, *rest = _SECTION.split(prose)
    return {"": first.strip()} | {heading: text.strip() for heading, text in zip(rest[::2], rest[1::2], strict=True)}


def described_arguments(docstring: str) -> dict[str, str]:
    """Returns argument -> what its docstring says, on one line."""
    block = re.search(r"^Args:\n((?:(?:    .*)?\n?)+)", docstring, re.MULTILINE)
    if block is None:
        return {}
    return {name: " ".join(text.split()) for name, text in _ARGUMENT.findall(block.group(1))}


def _described(owner: type) -> dict[str, str]:
    """Argument -> what the docstrings of a class and of its bases say."""
    described: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        described |= described_arguments(inspect.cleandoc(base.__doc__ or ""))
    return described


def _owners(task: Task) -> tuple[type, type]:
    return task.data_class(), VisualReasoningEnv


def _arguments(task: Task) -> str:
    of_data, of_environment = (_described(owner) for owner in _owners(task))
    for name, parameter in inspect.signature(task.data_class()).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            of_data["data"] = of_data.pop(name, "where the data is.")
    meaning = of_environment | of_data
    lines = ["| argument | default | meaning |", "|---|---|---|"]
    for name, default in task.parameters().items():
        shown = "required" if default is inspect.Parameter.empty else f"`{_literal(default)}`"
        text = meaning.get(name, "").replace("|", "\\|")
        lines.append(f"| `{name}` | {shown} | {text} |")
    return "\n".join(lines)


def _literal(value: object) -> str:
    return repr(list(value)) if isinstance(value, tuple) else repr(value)


def _example(task: Task) -> str:
    data = ', data="DIR"' if "data" in task.parameters() else ""
    module = task.data.partition(":")[0]
    owner = "pxr_env" if module.startswith("pxr_env.") else module
    return (
        f'```python\nimport gymnasium\n\nenv = gymnasium.make("{owner}:{task.id}"{data})\n'
        "observation, info = env.reset(seed=0)\n```"
    )


def _first_letter_up(text: str) -> str:
    return text[:1].upper() + text[1:]
