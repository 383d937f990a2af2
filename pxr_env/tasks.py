"""The table of tasks: id -> its data and its defaults. Importing `pxr_env` registers them with Gymnasium."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import choose, did_you_mean, hints_of, quote, typed_arguments


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
        """Returns the class of the samples."""
        module, _, name = self.data.partition(":")
        return getattr(importlib.import_module(module), name)

    def parameters(self) -> dict[str, Any]:
        """Returns argument -> default of everything that `gymnasium.make` takes; `inspect.Parameter.empty` is none."""
        of_data, of_environment = self._signatures()
        defaults = {name: parameter.default for name, parameter in (of_data | of_environment).items()}
        return {**defaults, **self._complete(dict(self.defaults))}

    def build(self, **arguments: Any) -> VisualReasoningEnv:
        """Builds the environment.

        Raises:
            TypeError: an unknown argument, or one that is missing.
        """
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
        given = self._complete({**self.defaults, **typed_arguments(self._hints(), arguments)})
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

    def _hints(self) -> dict[str, Any]:
        """Argument -> annotation; that of the data class where both have one."""
        of_data = dict(hints_of(self.data_class()))
        for name, parameter in inspect.signature(self.data_class()).parameters.items():
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY and name in of_data:
                of_data["data"] = of_data.pop(name)
        return {**hints_of(VisualReasoningEnv), **of_data}

    def _complete(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments with what the data class wants its environment to be like: its scorer, its pixel budget.

        Procedural images need a pixel budget that fits them, and narrow one that does not.
        """
        data_class = self.data_class()
        wanted = {"scorer": data_class.scorer} if hasattr(data_class, "scorer") else {}
        if hasattr(data_class, "environment_defaults"):
            wanted |= data_class.environment_defaults(given)
        budget = {name: wanted[name] for name in _BUDGET if name in wanted}
        return {**wanted, **given, **budget}


_BUDGET = ("min_pixels", "max_pixels", "size_multiple")
_SYNTHETIC = "pxr_env.synthetic"
_DATASETS = "pxr_env.datasets"
_VIDEO_OPERATIONS = ("select_frames", "seek", "zoom_in")

TASKS: dict[str, Task] = {
    task.id: task
    for task in (
        Task(
            id="pxr/SyntheticSearch-v0",
            summary="procedural images: read a letter in a coloured box, half of them only after a zoom (certified)",
            data=f"{_SYNTHETIC}:SyntheticSearch",
        ),
        Task(
            id="pxr/SyntheticCount-v0",
            summary="procedural images: count objects, some of which only a zoom shows (certified)",
            data=f"{_SYNTHETIC}:SyntheticCount",
        ),
        Task(
            id="pxr/SyntheticInfographic-v0",
            summary="procedural infographics: text, charts and small print that only a zoom shows (certified)",
            data=f"{_SYNTHETIC}:SyntheticInfographic",
        ),
        Task(
            id="pxr/SyntheticVideo-v0",
            summary="procedural videos: an event in a few frames that only seeking or a closer look shows (certified)",
            data=f"{_SYNTHETIC}:SyntheticVideo",
        ),
        Task(
            id="pxr/VStar-v0",
            summary='V* Bench: attributes and positions of small objects, data="DIR"',
            data=f"{_DATASETS}:VStar",
        ),
        Task(
            id="pxr/TallyQA-v0",
            summary='TallyQA: counting in photographs, data="DIR"',
            data=f"{_DATASETS}:TallyQA",
        ),
        Task(
            id="pxr/InfographicVQA-v0",
            summary='InfographicVQA: questions about infographics, scored by ANLS, data="DIR"',
            data=f"{_DATASETS}:InfographicVQA",
        ),
        Task(
            id="pxr/MVBench-v0",
            summary='MVBench: multiple choice about videos, data="DIR"',
            data=f"{_DATASETS}:MVBench",
            defaults={"operations": _VIDEO_OPERATIONS},
        ),
        Task(
            id="pxr/HRBench-v0",
            summary='HR-Bench: multiple choice about images of 4k and 8k, data="DIR"',
            data=f"{_DATASETS}:HRBench",
        ),
        Task(
            id="pxr/RLData-v0",
            summary='a directory in the released RL format (parquet, images and videos), data="DIR"',
            data=f"{_DATASETS}:RLData",
            defaults={"operations": ("zoom_in", "select_frames")},
        ),
        Task(
            id="pxr/JSONL-v0",
            summary='your own questions about images and videos, one JSON object a line, data="DIR"',
            data=f"{_DATASETS}:JSONL",
            defaults={"operations": ("zoom_in", "select_frames")},
        ),
    )
}


def make(task: str, *, module: str | None = None, **arguments: Any) -> VisualReasoningEnv:
    """Builds the environment of a task of the table: the entry point of all registered ids.

    Args:
        task: the id.
        module: what to import where the task is not in the table yet, as in another process.
        arguments: those of its data class and of `VisualReasoningEnv`.

    Raises:
        TypeError: an unknown argument, or one that is missing.
        ValueError: the task is not in the table.
    """
    if task not in TASKS and module is not None:
        importlib.import_module(module)
    return find_task(task).build(**arguments)


def find_task(name: str) -> Task:
    """Returns the task of an id, or of "module:id" for one of your own.

    Raises:
        ValueError: the module cannot be imported, or the task is not in the table.
    """
    advice = 'Write "my_module:ID" for one of your own, with the module that registers it.'
    return choose(TASKS, import_module_of(name), "the task ", advice)


def import_module_of(name: str) -> str:
    """Imports the module of "module:id", also one in the working directory, and returns the id.

    Raises:
        ValueError: the module cannot be imported.
    """
    module, _, task = name.rpartition(":")
    # What sits beside the user's own script is importable for `python script.py`, and so it should be here.
    if "" not in sys.path:
        sys.path.insert(0, "")
    if module:
        try:
            importlib.import_module(module)
        except (ImportError, TypeError) as error:
            raise ValueError(
                f'the module "{quote(module)}" cannot be imported ({error}); expected the one that registers '
                f'"{quote(task)}". Run the command where it lies, or install it.'
            ) from error
    return task


def register_task(task: Task) -> None:
    """Adds a task to the table and registers it with Gymnasium.

    Call it in the module of the data class: other processes import that to know the task.

    Raises:
        ValueError: the id is taken.
    """
    if task.id in TASKS:
        raise ValueError(f'got the task "{task.id}" a second time; expected a new id. Choose another one.')
    TASKS[task.id] = task
    register_tasks()


def register_tasks() -> None:
    """Registers all tasks that Gymnasium does not know yet."""
    for task in TASKS.values():
        if task.id not in gymnasium.registry:
            module = task.data.partition(":")[0]
            own = {} if module.startswith("pxr_env.") else {"module": module}
            gymnasium.register(id=task.id, entry_point="pxr_env.tasks:make", kwargs={"task": task.id, **own})
