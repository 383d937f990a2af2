"""Fixtures of the checks: what is checked, and how it was played. Whatever plays is made once and shared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gymnasium.envs.registration import EnvSpec

from pxr_env.env import oracle_turns
from pxr_env.errors import quote
from pxr_env.testing.playing import (
    PROSE,
    TRIES,
    Environment,
    OperationSubject,
    PlayedTurn,
    Playthrough,
    TaskSubject,
    base,
    draw_call,
    malformed_turns,
    mixed_turns,
    play,
    written,
)
from pxr_env.testing.plugin import OPERATION, TASK
from pxr_env.types import OperationCall, Sample


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out the checks of tasks where no task is given, and those of operations where no operation is."""
    task, operation = (config.pluginmanager.get_plugin(name) for name in (TASK, OPERATION))
    if task is operation is None:
        raise pytest.UsageError("expected --task my_module:my/Task-v0 or --operation my_module:name to check.")
    if collection_path.suffix != ".py":
        return None
    return (operation if collection_path.stem == "test_operation" else task) is None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a check that asks for a `sample_id` for every sample that is looked at."""
    if "sample_id" in metafunc.fixturenames:
        subject: Any = metafunc.config.pluginmanager.get_plugin(TASK)
        try:
            ids = list(subject.sample_ids)
        except Exception:
            ids = []  # The first check says why there are none.
        metafunc.parametrize("sample_id", ids, scope="session")


def pytest_exception_interact(node: pytest.Item) -> None:
    """Ends the run where no environment can be made: all other checks need one."""
    if node.name == "test_environments_can_be_made":
        node.session.shouldfail = "no environment for the other checks"


@pytest.fixture(scope="session")
def task(pytestconfig: pytest.Config) -> Iterator[TaskSubject]:
    subject: Any = pytestconfig.pluginmanager.get_plugin(TASK)
    yield subject
    subject.close()


@pytest.fixture(scope="session")
def operation(pytestconfig: pytest.Config) -> OperationSubject:
    subject: Any = pytestconfig.pluginmanager.get_plugin(OPERATION)
    return subject


@pytest.fixture(scope="session")
def plain(task: TaskSubject) -> Environment:
    """An environment with the limits of the task."""
    return task.make()


@pytest.fixture(scope="session")
def roomy(task: TaskSubject) -> Environment:
    """An environment with limits that no check reaches."""
    return task.roomy()


@pytest.fixture
def env(roomy: Environment, sample_id: str) -> Environment:
    """The roomy environment, when the episode of a sample has just begun."""
    roomy.reset(options={"sample_id": sample_id})
    return roomy


@pytest.fixture(scope="session")
def spec(plain: Environment) -> EnvSpec:
    if plain.spec is None:
        pytest.skip("made by a function, so there is no spec; register the task and check its id.")
    return plain.spec


@pytest.fixture(scope="session")
def sample(plain: Environment, sample_id: str) -> Sample:
    return base(plain).data.get(sample_id)


@pytest.fixture(scope="session")
def oracle(plain: Environment, sample_id: str) -> Playthrough:
    """The episode of the oracle, within the limits of the task."""
    return play(plain, oracle_turns(base(plain)), sample_id=sample_id)


@pytest.fixture(scope="session")
def mixed(task: TaskSubject, roomy: Environment, sample_id: str) -> Playthrough:
    """An episode with drawn calls of every operation, a mistake and an answer."""
    roomy.reset(options={"sample_id": sample_id})
    return play(roomy, mixed_turns(base(roomy), task.rng("mixed", sample_id)), sample_id=sample_id)


@pytest.fixture(scope="session")
def silent(plain: Environment, sample_id: str) -> Playthrough:
    """An episode without an answer, until the task's limit of turns ends it."""
    return play(plain, [PROSE] * base(plain).limits.max_turns, sample_id=sample_id)


@pytest.fixture(scope="session")
def episodes(oracle: Playthrough, mixed: Playthrough, silent: Playthrough) -> list[Playthrough]:
    return [oracle, mixed, silent]


@pytest.fixture(scope="session")
def steps(episodes: list[Playthrough]) -> list[PlayedTurn]:
    return [step for episode in episodes for step in episode.steps]


@pytest.fixture(scope="session")
def executed(task: TaskSubject, roomy: Environment, sample_id: str) -> list[str]:
    """Up to two turns with different calls that are executed one after the other."""
    roomy.reset(options={"sample_id": sample_id})
    rng, inner = task.rng("executed", sample_id), base(roomy)
    found: list[str] = []
    for operation in [*inner.operations.values()] * TRIES:
        text = written(inner, draw_call(inner, operation, rng))
        if text is not None and sum(roomy.step(text)[-1]["usage"].values()) > len(found):
            found.append(text)
        if len(found) == 2:
            break
    return found


@pytest.fixture(scope="session")
def call(executed: list[str]) -> str:
    """A turn with a call that is executed."""
    if not executed:
        pytest.skip("found no call that is executed.")
    return executed[0]


@pytest.fixture(scope="session")
def malformed(roomy: Environment, sample_id: str, executed: list[str]) -> list[tuple[str, Playthrough]]:
    """What is wrong with a turn, and the episode in which it follows the reset."""
    roomy.reset(options={"sample_id": sample_id})
    calls = base(roomy).dialect.parse(executed[0]).calls if executed else ()
    call = calls[0] if calls and isinstance(calls[0], OperationCall) else None
    turns = malformed_turns(base(roomy), call).items()
    return [(f'{wrong} "{quote(turn, 60)}"', play(roomy, [turn], sample_id=sample_id)) for wrong, turn in turns]
