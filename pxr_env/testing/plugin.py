"""The pytest plugin of the conformance suite: its options, and what they ask to check.

    pytest --pyargs pxr_env.testing --task my_module:my/Task-v0

The checks are the tests beside this file, and their fixtures are in `conftest.py`.
"""

from __future__ import annotations

import pytest

from pxr_env.tasks import import_module_of
from pxr_env.testing.run import OPTIONS, find_task_subject
from pxr_env.testing.subject import OperationSubject, TaskSubject

#: What is checked; `check_task` and `check_operation` put it there themselves.
TASK = pytest.StashKey[TaskSubject]()
OPERATION = pytest.StashKey[OperationSubject]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of the suite to those of pytest."""
    group = parser.getgroup("pxr_env.testing", "conformance of a task or an operation to what pxr promises")
    group.addoption("--task", metavar="ID", help="the task to check, such as my_module:my/Task-v0")
    group.addoption("--operation", metavar="NAME", help="the operation to check, such as my_module:upper_half")
    for name, settings in OPTIONS.items():
        group.addoption(f"--task-{name}", **settings)


def pytest_configure(config: pytest.Config) -> None:
    """Finds what the options name."""
    task, operation = config.getoption("--task"), config.getoption("--operation")
    samples, seed, settings = (config.getoption(f"--task-{name}") for name in ("samples", "seed", "set"))
    try:
        if task:
            config.stash[TASK] = find_task_subject(task, samples=samples, seed=seed, settings=settings)
        if operation:
            config.stash[OPERATION] = OperationSubject(import_module_of(operation), seed=seed)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
