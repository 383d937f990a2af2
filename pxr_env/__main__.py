"""`python -m pxr_env`: list the tasks, play one, check data and tasks, unpack archives, write documentation pages."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pxr_env.env import VisualReasoningEnv
from pxr_env.tasks import TASKS, Task, find_task

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 1 where something was found, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m pxr_env", description="Pixel-space reasoning environments.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the registered tasks").set_defaults(run=_list)

    # What a command needs is imported when it is given: `list` stays quick.
    given = list(sys.argv[1:] if arguments is None else arguments)
    for name, text, module in (
        ("play", "take the agent's seat, in the terminal or in a browser", "pxr_env.play"),
        ("check", "check every row of a data set (DIR), or a task (my_module:my/Task-v0)", _checker(given)),
        ("unpack", "unpack an archive of images or videos safely", "pxr_env.datasets.archives"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if given[:1] == [name]:
            implementation = importlib.import_module(module)
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run)

    pages = commands.add_parser("docs", help="write the documentation pages of tasks, yours included")
    pages.add_argument(
        "task",
        nargs="*",
        help="task ids, my_module:my/Task-v0 for your own; all registered by this package if left out",
    )
    pages.add_argument("--out", type=Path, default=Path("docs/environments"), help="directory (default: %(default)s)")
    pages.set_defaults(run=_docs)

    args = parser.parse_args(arguments)
    status: int = args.run(args)
    return status


def _checker(given: Sequence[str]) -> str:
    """The module that checks what is named: the id of a task ends with its version, a data set is a path."""
    names_task = any(
        re.fullmatch(r"(\S+:)?\S+-v\d+", argument) and not Path(argument).exists() for argument in given[1:]
    )
    return "pxr_env.testing.plugin" if names_task else "pxr_env.datasets.check"


def _list(args: argparse.Namespace) -> int:
    width = max(map(len, TASKS))
    for task in TASKS.values():
        print(f"{task.id:<{width}}  {task.summary}")
    return 0


def _docs(args: argparse.Namespace) -> int:
    from pxr_env.__main__ import page

    try:
        for task in [find_task(name) for name in args.task or TASKS]:
            path = args.out / f"{task.id.rpartition('/')[2]}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page(task), encoding="utf-8")
            print(path)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


#: What `pxr NAME ...` runs: the command line of a package, as `python -m PACKAGE` does.
PACKAGES = {"env": "pxr_env", "train": "training", "eval": "eval"}


def pxr(arguments: Sequence[str] | None = None) -> int:
    """The console command: `pxr env|train|eval ...` is `python -m pxr_env|training|eval ...`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in PACKAGES:
        print(f"usage: pxr {'|'.join(PACKAGES)} ...: the same as python -m {'|'.join(PACKAGES.values())} ...")
        return 0 if given in (["-h"], ["--help"]) else 2
    status: int = importlib.import_module(f"{PACKAGES[given[0]]}.__main__").main(given[1:])
    return status


if __name__ == "__main__":
    raise SystemExit(main())
