"""A directory of runs of every kind, small and made by hand where numbers matter, and a server that shows it."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from eval.view.server import ViewServer
from tests.eval.conftest import ENV_ARGS, ENV_ID, run_evaluation

Change = Callable[[int, dict[str, Any]], dict[str, Any]]

#: Usage falls below the alarm in iterations 3 and 4, and recovers.
USAGE = (0.5, 0.25, 0.0, 0.0, 0.125)
ALARM = (0.0, 0.0, 1.0, 1.0, 0.0)


def metrics_line(iteration: int) -> dict[str, Any]:
    usage = USAGE[iteration - 1]
    return {
        "iteration": float(iteration),
        "n_episodes": 16.0,
        "accuracy": 0.5 + iteration / 16,
        "usage_rate": usage,
        "usage/zoom_in": usage,
        "alarm/any": ALARM[iteration - 1],
        "reward": 0.5,
        "reward/correct": 0.5,
        "learner/entropy": 0.25 * iteration,
        "learner/logprob_gap_mean": 1e-6,
        "learner/logprob_gap_max": 1e-5,
        "seconds/sample": 2.0,
        "seconds/learn": 1.0,
        "seconds/total": 3.5,
    }


def write_training(out: Path, episodes: Path, *, lines: int = 5) -> None:
    """A training run with the episodes of iteration 2: the lines of `episodes` as a training writes them."""
    folder = out / "episodes" / "2"
    folder.mkdir(parents=True)
    (out / "metrics.jsonl").write_text("".join(json.dumps(metrics_line(k + 1)) + "\n" for k in range(lines)))
    env = {"id": ENV_ID, "kwargs": ENV_ARGS}
    (out / "recipe.json").write_text(json.dumps({"iterations": 8, "model": "/models/warm", "env": env}))
    records = [json.loads(line) for line in episodes.read_text().splitlines()]
    # A training knows nothing of repeats, scores and seconds.
    plain = [{name: value for name, value in record.items() if name != "run"} for record in records]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(record) + "\n" for record in plain))


def interrupt(run: Path, *, keep: int) -> None:
    """Leave a run as if it had been killed while it wrote an episode."""
    (run / "metrics.json").unlink()
    lines = (run / "episodes.jsonl").read_text().splitlines(keepends=True)
    (run / "episodes.jsonl").write_text("".join(lines[:keep]) + lines[keep][:40])


@pytest.fixture(scope="session")
def groups_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the random agent, four episodes for each of six scenes."""
    out = tmp_path_factory.mktemp("runs") / "groups"
    run_evaluation(out, agent="random", limit=6, repeats=4)
    return out


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, oracle_run: Path, groups_run: Path) -> Path:
    """A directory with two evaluations, an interrupted one and a training; nobody may write into it."""
    root = tmp_path_factory.mktemp("many")
    shutil.copytree(oracle_run, root / "eval" / "oracle")
    shutil.copytree(groups_run, root / "eval" / "groups")
    shutil.copytree(oracle_run, root / "eval" / "interrupted")
    interrupt(root / "eval" / "interrupted", keep=5)
    write_training(root / "ppo", groups_run / "episodes.jsonl")
    return root


class Client:
    """Asks a server for pages, with any headers."""

    def __init__(self, server: ViewServer) -> None:
        self.url, self.port = server.url, server.port

    def ask(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        return connection.getresponse()

    def text(self, path: str, status: int = 200) -> str:
        answer = self.ask(path)
        content = answer.read().decode("utf-8")
        assert answer.status == status, content
        return content


@pytest.fixture(scope="session")
def server(runs: Path) -> Iterator[ViewServer]:
    with ViewServer(runs).running() as started:
        yield started


@pytest.fixture(scope="session")
def client(server: ViewServer) -> Client:
    return Client(server)


@pytest.fixture
def serve() -> Iterator[Callable[..., Client]]:
    """Serves another directory until the end of the test."""
    with ExitStack() as stack:
        yield lambda root, **options: Client(stack.enter_context(ViewServer(root, **options).running()))


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies a run to `tmp_path / name`, with episodes changed by `how(number, record)` and fields of its manifest."""

    def make(name: str = "run", of: str = "oracle", how: Change | None = None, **manifest: Any) -> Path:
        run = tmp_path / name
        shutil.copytree(runs / "eval" / of, run)
        if how is not None:
            records = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
            lines = [json.dumps(how(number, record)) + "\n" for number, record in enumerate(records)]
            (run / "episodes.jsonl").write_text("".join(lines))
        if manifest:
            before = json.loads((run / "manifest.json").read_text())
            (run / "manifest.json").write_text(json.dumps(before | manifest))
        return run

    return make
