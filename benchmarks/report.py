"""How a report and the viewer behave with many episodes.

    python -m benchmarks.report [--episodes 10000] [--scenes 500] [--all]

The oracle and the random agent play `--scenes` scenes of `pxr/SyntheticSearch-v0`; copies of their episodes, as further
repeats of the same samples, make it `--episodes` that can all be played again. Measured are

- the report: seconds to build it, its size, and in Chromium (if it is there): from the address to a list that reacts,
  a filter, a search, opening an episode whose text has to be unpacked;
- the viewer: the first page of a run that was never seen (its file is indexed), then the median of later requests for
  each kind of page, and the memory of the server's process before and after.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.metrics import evaluation_metrics
from eval.records import RunFiles, record_from_json, record_to_json
from eval.report import PICTURED, write_report
from eval.runner import evaluate
from eval.suites import Choice
from eval.view.server import ViewServer

ENV_ID = "pxr_env:pxr/SyntheticSearch-v0"
ENV_ARGS = {"split": "test", "min_pixels": 784, "max_pixels": 7056}
REQUESTS = 15
#: What is asked of the viewer.
PAGES = {
    "list, first page": "?",
    "list, last page": "?page=999999",
    "list, wrong and used": "?show=wrong&show=used",
    "list, text search": "?q=blue",
    "by question": "?view=groups",
    "group, side by side": "?group=test-{number}",
    "episode, pictures rebuilt": "?episode=test-{number}",
    "episode, seen before": "?episode=test-0",
}


def make_run(out: Path, n_episodes: int, n_scenes: int) -> None:
    """A finished run of `n_episodes`: half of the scenes' episodes by the oracle, half by the random agent."""
    parts = []
    for agent in ("oracle", "random"):
        path = out.parent / agent
        console = Console(file=io.StringIO())
        evaluate(ENV_ID, out=path, agent=agent, env_args=ENV_ARGS, choice=Choice(limit=n_scenes), console=console)
        parts.append([record_to_json(record) for record in RunFiles(path).records()])
    shutil.copytree(out.parent / "random", out)
    lines = []
    for number in range(n_episodes):
        repeat, scene = divmod(number, n_scenes)
        line = parts[repeat % 2][scene]
        lines.append(line | {"run": line["run"] | {"repeat": repeat}})
    records = [record_from_json(line) for line in lines]
    # Intervals are not what is measured.
    metrics = evaluation_metrics(records[: min(2000, n_episodes)])
    RunFiles(out).finish(records, metrics)


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def memory_mb() -> float:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    return float("nan")


def measure_report(run: Path, out: Path, n_pictured: int | None) -> dict[str, Any]:
    """Build time, size, and how a browser takes it."""
    built = seconds(lambda: write_report(run, out, n_episodes=n_pictured))
    result: dict[str, Any] = {"build_seconds": round(built, 1), "megabytes": round(out.stat().st_size / 1e6, 2)}
    path = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if path is None:
        return result
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        times: dict[str, list[float]] = {}
        for _ in range(5):
            page = browser.new_page()

            def timed(name: str, act: Callable[[], Any]) -> None:
                times.setdefault(name, []).append(1000 * seconds(act))

            def visit(page: Any = page) -> None:
                page.goto(out.as_uri())
                page.wait_for_selector("html[data-ready]", state="attached")

            timed("interactive_ms", visit)
            timed("filter_ms", lambda page=page: page.click(".pill:has([value=wrong])"))
            timed("search_ms", lambda page=page: page.fill("[name=q]", "blue"))

            def unpack(page: Any = page) -> None:
                page.locator("details.episode summary").last.click()
                page.locator("details.episode[open] .answers").last.wait_for()

            timed("open_ms", unpack)
            page.close()
        browser.close()
    return result | {name: round(statistics.median(values), 1) for name, values in times.items()}


def measure_viewer(root: Path, n_scenes: int) -> dict[str, Any]:
    """Milliseconds per page, and the memory that the server takes."""
    before = memory_mb()
    with ViewServer(root).running() as server:

        def ask(query: str) -> None:
            urllib.request.urlopen(f"{server.url}run/long{query}").read()

        result: dict[str, Any] = {"first visit, indexing": round(1000 * seconds(lambda: ask("?")), 1)}
        for name, query in PAGES.items():
            asked = [query.format(number=number % n_scenes) for number in range(1, REQUESTS + 1)]
            ask(query.format(number=0))
            result[name] = round(1000 * statistics.median(seconds(lambda one=one: ask(one)) for one in asked), 1)
    return {"milliseconds": result, "megabytes": round(memory_mb() - before, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--episodes", type=int, default=10_000, help="of the run that is shown")
    parser.add_argument("--scenes", type=int, default=500, help="that are really played, by each of two agents")
    parser.add_argument("--all", action="store_true", help="also the report with as many pictures as fit")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "runs" / "long"
        run.parent.mkdir()
        make_run(run, arguments.episodes, arguments.scenes)
        size = round((run / "episodes.jsonl").stat().st_size / 1e6, 2)
        print(json.dumps({"episodes": arguments.episodes, "episodes_jsonl_megabytes": size}), flush=True)
        print(json.dumps({"viewer": measure_viewer(run.parent, arguments.scenes)}), flush=True)
        for name, n_pictured in {"report": PICTURED, "report, as many pictures as fit": None}.items():
            if n_pictured is not None or arguments.all:
                print(json.dumps({name: measure_report(run, Path(folder) / "report.html", n_pictured)}), flush=True)


if __name__ == "__main__":
    main()
