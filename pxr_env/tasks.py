"""The table of tasks: id -> its data and its defaults. Importing `pxr_env` registers them with Gymnasium."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, cast

import gymnasium
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker

from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import choose, did_you_mean, hints_of, quote, typed_arguments

_BUDGET = ("min_pixels", "max_pixels", "size_multiple")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One registered id: what it asks about, and with which defaults.

    `gymnasium.make(id, **arguments)` takes the arguments of the data class and of `VisualReasoningEnv`; one that both
    know, such as the pixel budget of synthetic data, is given to both.

    Args:
        id: the Gymnasium id.
        summary: one line for `python -m pxr_env list`.
        data: "module:Class" of the samples, imported when the first environment is made.
        defaults: arguments that differ from the defaults of the data class and of the environment.
    """

    id: str
    summary: str
    data: str
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def data_class(self) -> Any:
        """The class of the samples."""
        module, _, name = self.data.partition(":")
        return getattr(importlib.import_module(module), name)

    def parameters(self) -> dict[str, Any]:
        """Argument -> default of everything that `gymnasium.make` takes; `inspect.Parameter.empty` is none."""
        of_data, of_environment = self._signatures()
        defaults = {name: parameter.default for name, parameter in (of_data | of_environment).items()}
        return {**defaults, **self._complete(dict(self.defaults))}

    def build(self, **arguments: Any) -> VisualReasoningEnv:
        """The environment; TypeError for an argument that is unknown, or one that is missing."""
        of_data, of_environment = self._signatures()
        known = of_data.keys() | of_environment.keys()
        for name in arguments:
            if name not in known:
                raise TypeError(
                    # The nearest one first: the list is long, and may be cut off where it is shown.
                    f'{self.id} got the argument "{quote(name)}".{did_you_mean(name, known)} Expected only '
                    f"{', '.join(sorted(known))}."
                )
        if "data" in of_data and "data" not in arguments:
            raise TypeError(f'{self.id} needs data="DIR", the directory of its data; see docs/data.md.')
        hints = hints_of(self.data_class())
        own_hints = {name: hints[parameter.name] for name, parameter in of_data.items() if parameter.name in hints}
        typed = typed_arguments({**hints_of(VisualReasoningEnv), **own_hints}, arguments)
        given = self._complete({**self.defaults, **typed})
        path = [given.pop("data")] if "data" in of_data else []
        samples = self.data_class()(*path, **{name: value for name, value in given.items() if name in of_data})
        return VisualReasoningEnv(samples, **{name: value for name, value in given.items() if name in of_environment})

    def _signatures(self) -> tuple[dict[str, inspect.Parameter], dict[str, inspect.Parameter]]:
        """The parameters of the data class, its positional one under the name "data", and of the environment."""
        of_data = {
            name if parameter.kind is inspect.Parameter.KEYWORD_ONLY else "data": parameter
            for name, parameter in inspect.signature(self.data_class()).parameters.items()
        }
        _data, *rest = inspect.signature(VisualReasoningEnv).parameters.items()
        return of_data, dict(rest)

    def _complete(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments with what the data class wants its environment to be like: its scorer, its pixel budget."""
        # Procedural images need a pixel budget that fits them, and narrow one that does not.
        data_class = self.data_class()
        wanted = {"scorer": data_class.scorer} if hasattr(data_class, "scorer") else {}
        if hasattr(data_class, "environment_defaults"):
            wanted |= data_class.environment_defaults(given)
        return {**wanted, **given, **{name: wanted[name] for name in _BUDGET if name in wanted}}


_SYNTHETIC = {
    "SyntheticSearch": "procedural images: read a letter in a coloured box, half of them only after a zoom (certified)",
    "SyntheticCount": "procedural images: count objects, some of which only a zoom shows (certified)",
    "SyntheticInfographic": "procedural infographics: text, charts and small print that only a zoom shows (certified)",
    "SyntheticVideo": (
        "procedural videos: an event in a few frames that only seeking or a closer look shows (certified)"
    ),
}
_DATASETS = {
    "VStar": "V* Bench: attributes and positions of small objects",
    "TallyQA": "TallyQA: counting in photographs",
    "InfographicVQA": "InfographicVQA: questions about infographics, scored by ANLS",
    "MVBench": "MVBench: multiple choice about videos",
    "HRBench": "HR-Bench: multiple choice about images of 4k and 8k",
    "RLData": "a directory in the released RL format (parquet, images and videos)",
    "JSONL": "your own questions about images and videos, one JSON object a line",
}
_OPERATIONS = {
    "MVBench": ("select_frames", "seek", "zoom_in"),
    "RLData": ("zoom_in", "select_frames"),
    "JSONL": ("zoom_in", "select_frames"),
}

TASKS: dict[str, Task] = {
    f"pxr/{name}-v0": Task(
        id=f"pxr/{name}-v0",
        summary=summary if name in _SYNTHETIC else f'{summary}, data="DIR"',
        data=f"pxr_env.{'synthetic' if name in _SYNTHETIC else 'datasets'}:{name}",
        defaults={"operations": _OPERATIONS[name]} if name in _OPERATIONS else {},
    )
    for name, summary in (_SYNTHETIC | _DATASETS).items()
}


def make(task: str, *, module: str | None = None, **arguments: Any) -> VisualReasoningEnv:
    """The entry point of all registered ids; `module` is imported where another process does not know the task yet."""
    if task not in TASKS and module is not None:
        importlib.import_module(module)
    return find_task(task).build(**arguments)


# Where `gymnasium.make` looks which render modes its own wrappers can make "human" and "rgb_array_list" of.
vars(make)["metadata"] = VisualReasoningEnv.metadata


def find_task(name: str) -> Task:
    """The task of an id, or of "module:id" for one of your own; ValueError if there is no such module or task."""
    advice = 'Write "my_module:ID" for one of your own, with the module that registers it.'
    return choose(TASKS, import_module_of(name), "the task ", advice)


def import_module_of(name: str) -> str:
    """Imports the module of "module:id", also of the working directory, and returns the id; ValueError if it fails."""
    module, _, task = name.rpartition(":")
    _import(module, f'the one that registers "{quote(task)}"')
    return task


def import_function(name: str) -> Callable[..., Any]:
    """What "module:function" names, also in the working directory; ValueError if there is none."""
    module_name, _, function_name = name.partition(":")
    module = _import(module_name, f'the one with the function "{quote(function_name)}"')
    function = getattr(module, function_name, None)
    if not callable(function):
        near = did_you_mean(function_name, dir(module))
        raise ValueError(f'got "{quote(name)}"; the module {module_name} has no such function.{near}')
    return cast(Callable[..., Any], function)


def _import(module: str, expected: str) -> ModuleType | None:
    # What sits beside the user's own script is importable for `python script.py`, and so it should be here.
    if "" not in sys.path:
        sys.path.insert(0, "")
    if not module:
        return None
    try:
        return importlib.import_module(module)
    except (ImportError, TypeError) as error:
        raise ValueError(
            f'the module "{quote(module)}" cannot be imported ({error}); expected {expected}. Run the command where it '
            "lies, or install it."
        ) from error


def register_task(task: Task) -> None:
    """Adds a task to the table and registers it with Gymnasium; ValueError if the id is taken.

    Call it in the module of the data class: other processes import that to know the task.
    """
    if task.id in TASKS:
        raise ValueError(f'got the task "{task.id}" a second time; expected a new id. Choose another one.')
    TASKS[task.id] = task
    register_tasks()


def siblings(first: gymnasium.Env, count: int) -> list[gymnasium.Env]:
    """The first environment and others like it, `count` in all.

    They share its data, which took time to be checked, unless it has wrappers or a class of its own: what those keep
    and do is known to `gymnasium.make` alone.
    """
    base = first
    while isinstance(base, OrderEnforcing | PassiveEnvChecker):
        base = base.env
    environments: list[gymnasium.Env] = [first][:count]
    while len(environments) < count:
        if type(base) is VisualReasoningEnv:
            environments.append(copy.copy(base))
        else:
            if first.spec is None:
                raise TypeError(
                    f"got {type(first).__name__} without a spec; expected an environment of gymnasium.make, so that "
                    "others like it can be made."
                )
            environments.append(gymnasium.make(first.spec))
    return environments


def register_tasks() -> None:
    """Registers all tasks that Gymnasium does not know yet."""
    for task in TASKS.values():
        if task.id not in gymnasium.registry:
            module = task.data.partition(":")[0]
            own = {} if module.startswith("pxr_env.") else {"module": module}
            gymnasium.register(id=task.id, entry_point="pxr_env.tasks:make", kwargs={"task": task.id, **own})
