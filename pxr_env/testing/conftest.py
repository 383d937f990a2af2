"""Fixtures of the checks: what is checked, and how it was played. Whatever plays is made once and shared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gymnasium.envs.registration import EnvSpec

from pxr_env.env import oracle_turns
from pxr_env.errors import quote
from pxr_env.testing.playing import Environment, PlayedTurn, Playthrough, base, play
from pxr_env.testing.plugin import OPERATION, TASK
from pxr_env.testing.subject import OperationSubject, TaskSubject
from pxr_env.testing.turns import PROSE, executed_turns, malformed_turns, mixed_turns
from pxr_env.types import OperationCall, Sample


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out the checks of tasks where no task is given, and those of operations where no operation is."""
    if TASK not in config.stash and OPERATION not in config.stash:
        raise pytest.UsageError("expected --task my_module:my/Task-v0 or --operation my_module:name to check.")
    if collection_path.suffix != ".py":
        return None
    of_operations = collection_path.stem == "test_operation"
    return OPERATION not in config.stash if of_operations else TASK not in config.stash


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a check that asks for a `sample_id` for every sample that is looked at."""
    if "sample_id" in metafunc.fixturenames:
        try:
            ids = list(metafunc.config.stash[TASK].sample_ids)
        except Exception:
            ids = []  # The first check says why there are none.
        metafunc.parametrize("sample_id", ids, scope="session")


def pytest_exception_interact(node: pytest.Item) -> None:
    """Ends the run where no environment can be made: all other checks need one."""
    if node.name == "test_environments_can_be_made":
        node.session.shouldfail = "no environment for the other checks"


@pytest.fixture(scope="session")
def task(pytestconfig: pytest.Config) -> Iterator[TaskSubject]:
    """The task that is checked."""
    subject = pytestconfig.stash[TASK]
    yield subject
    subject.close()


@pytest.fixture(scope="session")
def operation(pytestconfig: pytest.Config) -> OperationSubject:
    """The operation that is checked."""
    return pytestconfig.stash[OPERATION]


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
    """The spec of the environments."""
    if plain.spec is None:
        pytest.skip("made by a function, so there is no spec; register the task and check its id.")
    return plain.spec


@pytest.fixture(scope="session")
def sample(plain: Environment, sample_id: str) -> Sample:
    """A sample that is looked at."""
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
    """All of these."""
    return [oracle, mixed, silent]


@pytest.fixture(scope="session")
def steps(episodes: list[Playthrough]) -> list[PlayedTurn]:
    """All their steps."""
    return [step for episode in episodes for step in episode.steps]


@pytest.fixture(scope="session")
def executed(task: TaskSubject, roomy: Environment, sample_id: str) -> list[str]:
    """Up to two turns with different calls that are executed one after the other."""
    roomy.reset(options={"sample_id": sample_id})
    return executed_turns(roomy, 2, task.rng("executed", sample_id))


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
