"""`python -m pxr_env`: list the tasks, play, check or serve one, unpack archives, write documentation pages."""

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

#: What `pxr NAME ...` runs: the command line of a package, as `python -m PACKAGE` does.
PACKAGES = {"env": "pxr_env", "train": "pxr_training", "eval": "pxr_eval"}
#: The headings of a task's page, in this order; one that neither docstring has is left out.
HEADINGS = (
    "Description", "Observation", "Action", "Reward", "End", "Info", "Difficulty", "Certified need", "Oracle",
    "Arguments",
)  # fmt: skip


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
        ("mcp", "serve a task to MCP clients, over stdio or HTTP", "pxr_env.adapters.mcp"),
        ("unpack", "unpack an archive of images or videos safely", "pxr_env.datasets.archives"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if given[:1] == [name]:
            try:
                implementation = importlib.import_module(module)
            except ModuleNotFoundError as error:
                parser.error(f"{error}, which {name} needs. Install it: pip install 'pxr-gym[{name}]'.")
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run)

    pages = commands.add_parser("docs", help="write the documentation pages of tasks, yours included")
    about = "task ids, my_module:my/Task-v0 for your own; all registered by this package if left out"
    pages.add_argument("task", nargs="*", help=about)
    pages.add_argument("--out", type=Path, default=Path("docs/environments"), help="directory (default: %(default)s)")
    pages.set_defaults(run=_docs)

    args = parser.parse_args(given)
    status: int = args.run(args)
    return status


def pxr(arguments: Sequence[str] | None = None) -> int:
    """The console command: `pxr env|train|eval ...` is `python -m pxr_env|pxr_training|pxr_eval ...`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in PACKAGES:
        print(f"usage: pxr {'|'.join(PACKAGES)} ...: the same as python -m {'|'.join(PACKAGES.values())} ...")
        return 0 if given in (["-h"], ["--help"]) else 2
    try:
        package = importlib.import_module(f"{PACKAGES[given[0]]}.__main__")
    except ModuleNotFoundError as error:
        print(f"{error}, which pxr {given[0]} needs. Install it: pip install 'pxr-gym[{given[0]}]'.", file=sys.stderr)
        return 2
    status: int = package.main(given[1:])
    return status


def _checker(given: Sequence[str]) -> str:
    """The module that checks what is named: the id of a task ends with its version, a data set is a path."""
    is_task = any(re.fullmatch(r"(\S+:)?\S+-v\d+", word) and not Path(word).exists() for word in given[1:])
    return "pxr_env.testing.plugin" if is_task else "pxr_env.datasets.check"


def _list(args: argparse.Namespace) -> int:
    width = max(map(len, TASKS))
    for task in TASKS.values():
        print(f"{task.id:<{width}}  {task.summary}")
    return 0


def _docs(args: argparse.Namespace) -> int:
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


def page(task: Task) -> str:
    """The page of a task as Markdown, from the docstrings of its data class and of the environment, by `HEADINGS`.

    What the data class says under a heading stands before what all environments have in common.
    """
    of_data, of_environment = (sections(inspect.getdoc(it) or "") for it in (task.data_class(), VisualReasoningEnv))
    found = {"Description": of_data[""], **of_environment, **of_data, "Arguments": _arguments(task)}
    for heading in ("Observation", "Action", "Reward"):
        if heading in of_data:
            found[heading] = f"{of_data[heading]}\n\n{of_environment[heading]}"
    module = task.data.partition(":")[0]
    owner = "pxr_env" if module.startswith("pxr_env.") else module
    data = ', data="DIR"' if "data" in task.parameters() else ""
    example = (
        f'import gymnasium\n\nenv = gymnasium.make("{owner}:{task.id}"{data})\nobservation, info = env.reset(seed=0)'
    )
    summary = f"{task.summary[:1].upper()}{task.summary[1:]}."
    parts = [f"# {task.id}", summary, f"```python\n{example}\n```"]
    parts += [f"## {heading}\n{found[heading]}" for heading in HEADINGS if found.get(heading)]
    return "\n\n".join(parts) + "\n"


def sections(docstring: str) -> dict[str, str]:
    """Heading -> text of a docstring with Markdown headings; what stands before the first is under ""."""
    prose = re.split(r"^(?:Args|Raises|Attributes):$", docstring, maxsplit=1, flags=re.MULTILINE)[0]
    first, *rest = re.split(r"^## (.+)\n", prose, flags=re.MULTILINE)
    return {"": first.strip()} | {heading: text.strip() for heading, text in zip(rest[::2], rest[1::2], strict=True)}


def described_arguments(docstring: str) -> dict[str, str]:
    """Argument -> what its docstring says, on one line."""
    block = re.search(r"^Args:\n((?:(?:    .*)?\n?)+)", docstring, re.MULTILINE)
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", block.group(1), re.MULTILINE) if block else []
    return {name: " ".join(text.split()) for name, text in found}


def _arguments(task: Task) -> str:
    of_data, of_environment = (
        {
            name: text
            for base in reversed(owner.__mro__)
            for name, text in described_arguments(inspect.cleandoc(base.__doc__ or "")).items()
        }
        for owner in (task.data_class(), VisualReasoningEnv)
    )
    for name, parameter in inspect.signature(task.data_class()).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            of_data["data"] = of_data.pop(name, "where the data is.")
    meaning = of_environment | of_data
    lines = ["| argument | default | meaning |", "|---|---|---|"]
    for name, default in task.parameters().items():
        value = list(default) if isinstance(default, tuple) else default
        shown = "required" if default is inspect.Parameter.empty else f"`{value!r}`"
        text = meaning.get(name, "").replace("|", "\\|")
        lines.append(f"| `{name}` | {shown} | {text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
