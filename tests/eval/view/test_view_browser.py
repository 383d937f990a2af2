"""The viewer in a headless browser: keys, filters, fresh numbers, light and dark, and hostile runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from eval.records import RunFiles
from eval.report import write_report
from eval.view.server import ViewServer
from tests.browser import ATTACKS, Watcher
from tests.eval.view.conftest import Client, metrics_line, write_training

pytestmark = pytest.mark.browser


def test_from_the_table_to_an_episode_by_keyboard(watcher: Watcher, server: ViewServer) -> None:
    page = watcher.open(server.url + "?sort=name")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.textContent") == "eval/groups"
    page.keyboard.press("o")
    page.wait_for_url("**/run/eval/groups")
    watcher.ready(page)
    for _ in range(3):
        page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/run/eval/groups?episode=test-0&nth=2")
    watcher.ready(page)
    assert page.locator(".walk").inner_text().startswith("all episodes")
    page.keyboard.press("j")
    page.wait_for_url("**?episode=test-0&nth=3")
    watcher.ready(page)
    page.keyboard.press("k")
    page.wait_for_url("**?episode=test-0&nth=2")
    watcher.ready(page)
    page.keyboard.press("g")
    page.wait_for_url("**?group=test-0")
    watcher.ready(page)
    assert page.locator(".group-grid section").count() == 4
    page.keyboard.press("j")
    page.wait_for_url("**?group=test-1")
    watcher.ready(page)
    page.keyboard.press("u")
    page.wait_for_url("**?view=groups")
    watcher.ready(page)
    page.keyboard.press("?")
    assert page.locator("dialog[open]").is_visible()
    watcher.check(page)


def test_filters_apply_at_once_and_stand_in_the_address(watcher: Watcher, server: ViewServer, runs: Path) -> None:
    records = RunFiles(runs / "eval" / "groups").records()
    page = watcher.open(server.url + "run/eval/groups")
    page.keyboard.press("f")
    assert page.evaluate("document.activeElement.value") == "wrong"
    page.keyboard.press("Space")
    page.wait_for_url("**?show=wrong")
    watcher.ready(page)
    page.click("label.pill:has(input[value=unused])")
    page.wait_for_url("**?show=wrong&show=unused")
    watcher.ready(page)
    page.keyboard.press("/")
    page.keyboard.type("test-2")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=test-2**")
    watcher.ready(page)
    expected = [r for r in records if r.key[0] == "test-2" and not r.episode.correct and not r.episode.n_operations]
    assert page.locator("a.episode-row").count() == len(expected)
    page.click("text=clear")
    page.wait_for_url("**/run/eval/groups?")
    assert page.locator("a.episode-row").count() == 24


def test_an_episode_page_has_sharp_pictures_and_boxes(watcher: Watcher, server: ViewServer, runs: Path) -> None:
    record = next(r for r in RunFiles(runs / "eval" / "oracle").records() if r.episode.n_operations)
    page = watcher.open(f"{server.url}run/eval/oracle?episode={record.episode.sample_id}")
    for image in page.locator(".views img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    box = page.locator("rect.mark.view").evaluate("box => getComputedStyle(box).stroke")
    badge = page.locator("g.number rect").evaluate("badge => getComputedStyle(badge).fill")
    border = page.locator(".message.model.t1").evaluate("turn => getComputedStyle(turn).borderLeftColor")
    assert box == badge == border


def test_light_dark_and_narrow(watcher: Watcher, server: ViewServer) -> None:
    paths = ("", "run/eval/groups", "run/eval/groups?episode=test-1", "run/eval/groups?view=groups", "run/ppo")
    colours = []
    for scheme in ("light", "dark"):
        page = watcher.open(server.url, color_scheme=scheme, viewport={"width": 390, "height": 844})
        for path in paths:
            watcher.go(page, server.url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(set(colours)) == 2


def test_a_page_is_fresh_while_a_run_goes_on(
    watcher: Watcher, runs: Path, tmp_path: Path, serve: Callable[..., Client]
) -> None:
    write_training(tmp_path / "ppo", runs / "eval" / "groups" / "episodes.jsonl", lines=2)
    page = watcher.open(serve(tmp_path).url + "run/ppo")
    assert "iteration 2 of 8" in page.locator(".lead").inner_text()
    with (tmp_path / "ppo" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics_line(3)) + "\n")
    page.wait_for_selector("text=iteration 3 of 8")
    assert page.locator("g.span").count() == 1
    # It ends: nothing is asked for any more.
    (tmp_path / "ppo" / "model").mkdir()
    page.wait_for_selector("main:not([data-live])", state="attached")


def test_a_report_inside_works_in_its_sandbox(
    watcher: Watcher, runs: Path, tmp_path: Path, serve: Callable[..., Client]
) -> None:
    shutil.copytree(runs / "eval" / "oracle", tmp_path / "run")
    write_report(tmp_path / "run", tmp_path / "run" / "report.html", n_episodes=2)
    page = watcher.open(serve(tmp_path).url + "run/run?file=report")
    assert page.locator("details.episode").count() == 12
    assert page.evaluate("origin") == "null"


def hostile_runs(root: Path, runs: Path) -> list[str]:
    """Writes runs in which every text is an attack; returns the addresses of their pages."""
    name = "<img src=x onerror=window.hacked=10>"
    shutil.copytree(runs / "eval" / "groups", root / name)
    lines = [json.loads(line) for line in (root / name / "episodes.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        attack = ATTACKS[number % len(ATTACKS)]
        if number >= 4:
            line |= {"sample_id": attack, "prompt": attack, "error": attack if number % 3 else None}
            line["steps"] = [{**step, "turn": attack, "reply": attack} for step in line["steps"]]
        line |= {"answer": attack, "target": attack, "category": attack, "usage": {attack: 1}, "failures": {attack: 2}}
    (root / name / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = json.loads((root / name / "manifest.json").read_text())
    manifest |= {"agent": ATTACKS[1], "model": ATTACKS[3], "seed": ATTACKS[0], ATTACKS[2]: ATTACKS[5]}
    (root / name / "manifest.json").write_text(json.dumps(manifest))
    (root / "ppo" / "episodes" / "1").mkdir(parents=True)
    shutil.copy(root / name / "episodes.jsonl", root / "ppo" / "episodes" / "1" / "episodes.jsonl")
    row = metrics_line(1) | {f"{kind}/{attack}": 1.0 for kind in ("usage", "alarm") for attack in ATTACKS}
    (root / "ppo" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (root / "ppo" / "recipe.json").write_text(json.dumps({"env": {"id": ATTACKS[0]}, "model": ATTACKS[3]}))
    shutil.copytree(runs / "eval" / "oracle", root / "plain")
    run = "run/" + quote(name)
    pages = [
        "",
        "?baseline=plain",
        run,
        f"{run}?view=groups",
        f"{run}?episode=test-0",
        f"{run}?group=test-0",
        "run/ppo",
    ]
    pages += [f"{run}?{urlencode({'episode': attack[:200]}, errors='surrogatepass')}" for attack in ATTACKS]
    pages += [
        f"run/ppo?iteration=1&{urlencode({'group': attack[:200]}, errors='surrogatepass')}" for attack in ATTACKS[:3]
    ]
    pages += [
        f"run/plain?{urlencode({'q': attack, 'category': attack}, errors='surrogatepass')}" for attack in ATTACKS[:2]
    ]
    return [*pages, "run/" + quote(ATTACKS[1])]


def test_hostile_runs_run_nothing(watcher: Watcher, runs: Path, tmp_path: Path, serve: Callable[..., Client]) -> None:
    pages = hostile_runs(tmp_path, runs)
    client = serve(tmp_path)
    page: Any = watcher.open(client.url)
    for path in pages:
        watcher.go(page, client.url + path)
        assert page.locator("h1").count() == 1, path
        page.keyboard.press("f")
        watcher.check(page)
