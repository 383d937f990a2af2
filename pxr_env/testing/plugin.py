"""The conformance suite from Python, as `python -m pxr_env check my_module:my/Task-v0`, and as a pytest plugin:

    pytest --pyargs pxr_env.testing --task my_module:my/Task-v0

The checks are the tests beside this file, and their fixtures are in `conftest.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from pxr_env.errors import did_you_mean, quote
from pxr_env.play import read_settings
from pxr_env.tasks import import_module_of
from pxr_env.testing.playing import OperationSubject, TaskSubject
from pxr_env.types import Sample, SampleSource

if TYPE_CHECKING:
    import pytest

HERE = Path(__file__).parent
#: Names under which pytest's plugin manager knows what is checked.
TASK, OPERATION = "pxr_env.testing task", "pxr_env.testing operation"
#: The checks that start Python processes.
PROCESS_CHECKS = (
    "test_determinism.py::test_another_process_gives_the_same_episode",
    "test_determinism.py::test_vector_environments_in_processes_work",
)
_QUICK = [f"--deselect={check}" for check in PROCESS_CHECKS]
_SAMPLES = 4
#: Options of the command; those of pytest begin with "--task-".
_OPTIONS: dict[str, dict[str, Any]] = {
    "samples": {"type": int, "default": _SAMPLES, "metavar": "N", "help": f"samples to look at (default: {_SAMPLES})"},
    "seed": {"type": int, "default": 0, "help": "seed of what is drawn (default: 0)"},
    "set": {
        "nargs": "+",
        "action": "extend",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "arguments of the task, such as data=DIR or operations=zoom_in,rotate",
    },
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of the suite to those of pytest."""
    group = parser.getgroup("pxr_env.testing", "conformance of a task or an operation to what pxr promises")
    group.addoption("--task", metavar="ID", help="the task to check, such as my_module:my/Task-v0")
    group.addoption("--operation", metavar="NAME", help="the operation to check, such as my_module:upper_half")
    for name, settings in _OPTIONS.items():
        group.addoption(f"--task-{name}", **settings)


def pytest_configure(config: pytest.Config) -> None:
    """Finds what the options name."""
    import pytest

    task, operation = config.getoption("--task"), config.getoption("--operation")
    samples, seed, settings = (config.getoption(f"--task-{name}") for name in ("samples", "seed", "set"))
    try:
        if task:
            config.pluginmanager.register(_find_task(task, samples=samples, seed=seed, settings=settings), TASK)
        if operation:
            config.pluginmanager.register(OperationSubject(import_module_of(operation), seed=seed), OPERATION)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


class Report:
    """What the checks found. `str(report)` is pytest's own report.

    Attributes:
        subject: what the report calls that which was checked.
        failed: the checks that failed, by name -> what pytest says, with the sample, what was got and expected.
        skipped: the checks that found nothing to look at -> why.
        n_passed: tests that passed: a check has one for every sample.
    """

    def __init__(self, subject: TaskSubject | OperationSubject, subject_name: str) -> None:
        self._subject, self.subject = subject, subject_name
        self.failed: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.n_passed = 0
        self.text = ""

    @property
    def passed(self) -> bool:
        """Whether no check failed; some may have been skipped."""
        return not self.failed

    def raise_if_failed(self) -> None:
        """Raises AssertionError with all failures if there is one."""
        if not self.passed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        return f"{self.subject}: {self.text.strip()}"

    def pytest_configure(self, config: pytest.Config) -> None:
        """Tells the fixtures what is checked. pytest calls this and the next one: a report is one of its plugins."""
        config.pluginmanager.register(self._subject, TASK if isinstance(self._subject, TaskSubject) else OPERATION)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes what became of a test."""
        name = report.nodeid.partition("::")[2].partition("[")[0].removeprefix("test_")
        if report.failed:
            self.failed[name] = f"{self.failed.get(name, '')}{report.longreprtext}\n"
        elif report.skipped and isinstance(report.longrepr, tuple):
            self.skipped[name] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.when == "call":
            self.n_passed += 1


def check_task(
    task: str | gymnasium.Env[Any, Any] | Callable[..., gymnasium.Env[Any, Any]],
    *,
    samples: int | Sequence[str] = _SAMPLES,
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
    processes: bool = False,
) -> Report:
    """Checks a task with a few of its samples; a failure of one check hides no other.

    Args:
        task: an id such as "my_module:my/Task-v0", an environment that `gymnasium.make` made (new ones are made from
            its spec), or a function that returns a new environment.
        samples: how many samples to look at (the first, the last and drawn ones), or their ids.
        seed: seed of everything that is drawn.
        arguments: those of the task, as for `gymnasium.make` or for the function.
        processes: whether to run also the checks that start Python processes. They take some seconds; a script that
            runs them needs `if __name__ == "__main__":`.

    Raises:
        ValueError: `task` is none of these.
        ImportError: pytest is not installed.
    """
    subject = TaskSubject.of(task, arguments=arguments or {}, samples=samples, seed=seed)
    return _report(Report(subject, subject.name), [] if processes else _QUICK)


def check_operation(name: str, *, data: SampleSource | Sequence[Sample] = (), seed: int = 0) -> Report:
    """Checks a registered operation with drawn arguments, in every coordinate frame.

    It is tried on the first of the samples in `data`, by default one with two images and a video, of noise.

    Raises:
        ValueError: there is no operation of that name.
        ImportError: pytest is not installed.
    """
    return _report(Report(OperationSubject(name, data=data, seed=seed), f'operation "{name}"'), [])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `python -m pxr_env check` to a parser."""
    parser.add_argument("task", metavar="ID", help="id of the task, or my_module:my/Task-v0 for your own")
    parser.add_argument("--quick", action="store_true", help="leave out the checks that start Python processes")
    for name, settings in _OPTIONS.items():
        parser.add_argument(f"--{name}", **settings)


def run(args: argparse.Namespace) -> int:
    """Checks a task and prints pytest's report.

    Returns 0 if all checks passed, 1 if one failed, 2 if task, arguments or pytest are missing.
    """
    try:
        subject = _find_task(args.task, samples=args.samples, seed=args.seed, settings=args.set)
        return min(_pytest(Report(subject, args.task), ["--durations=5", *(_QUICK if args.quick else [])]), 2)
    except (ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2


def _find_task(target: str, *, samples: int, seed: int, settings: Sequence[str]) -> TaskSubject:
    """The task of an id as it is given on a command line, with its key=value; ValueError if there is none."""
    task_id = import_module_of(target)
    if task_id not in gymnasium.registry:
        known = [name for name in gymnasium.registry if name.startswith("pxr/")]
        raise ValueError(
            f'got the task "{quote(task_id)}"; expected a registered id, such as one of {", ".join(known)}.'
            f"{did_you_mean(task_id, gymnasium.registry)} Name the module of your own: my_module:{quote(task_id)}."
        )
    return TaskSubject.of(target, arguments=read_settings(task_id, settings), samples=samples, seed=seed)


def _report(report: Report, options: Sequence[str]) -> Report:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = _pytest(report, options)
    report.text = output.getvalue()
    if code > 1:
        raise RuntimeError(f"pytest ended with exit code {code}; expected it to run the checks. {report}")
    return report


def _pytest(report: Report, options: Sequence[str]) -> int:
    """Runs the checks as if no pytest were configured where the caller is, and returns the exit code of pytest."""
    try:
        import pytest
    except ImportError as error:
        raise ImportError('the checks are pytest tests; expected pytest. Install "pxr-gym[testing]".') from error
    # Collecting garbage of the caller's process for unraisable exceptions takes a fifth of the time.
    left_out = [f"-pno:{name}" for name in ("cacheprovider", "unraisableexception")]
    alone = ["-c", os.devnull, f"--rootdir={HERE}", *left_out, "-p", __name__]
    shown = ["-q", "--no-header", "--tb=short", "-rs"]
    return int(pytest.main([*alone, *shown, *options, str(HERE)], plugins=[report]))
