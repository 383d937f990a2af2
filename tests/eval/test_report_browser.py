"""The report in a headless browser: filters, keys, links, and texts that would like to be scripts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eval.facts import Selection, facts_of
from eval.records import RunFiles
from eval.report import write_report
from tests.browser import ATTACKS, Watcher
from tests.eval.conftest import run_evaluation

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """230 episodes of the random agent, with pictures of four."""
    out = tmp_path_factory.mktemp("long") / "run"
    run_evaluation(out, agent="random", limit=23, repeats=10)
    write_report(out, out / "report.html", n_episodes=4)
    return out


@pytest.fixture
def address(long_run: Path) -> str:
    return (long_run / "report.html").as_uri()


def shown(page: Any) -> list[int]:
    return page.eval_on_selector_all("details.episode", "all => all.map((one) => Number(one.dataset.index))")


def test_filters_pages_and_search(watcher: Watcher, address: str, long_run: Path) -> None:
    facts = [facts_of(record) for record in RunFiles(long_run).records()]

    def passing(**conditions: Any) -> list[int]:
        return [k for k, each in enumerate(facts) if Selection(**conditions).matches(each)]

    page = watcher.open(address)
    assert shown(page) == list(range(50))
    assert page.locator(".count").inner_text() == "230 episodes"
    page.click(".pager button:last-child")
    assert shown(page) == list(range(50, 100))
    page.click(".pill:has([value=wrong])")
    page.click(".pill:has([value=failed])")
    expected = passing(tags=("wrong", "failed"))
    assert 0 < len(expected) < 230
    assert shown(page) == expected[:50]
    assert page.locator(".count").inner_text() == f"{len(expected)} of 230"
    page.click(".pill:has([value=failed])")
    page.click(".pill:has([value=wrong])")
    page.select_option("[name=category]", "easy")
    page.fill("[name=q]", "TEST-3")
    assert shown(page) == passing(category="easy", text="test-3")
    page.fill("[name=q]", "nowhere")
    assert shown(page) == []
    page.fill("[name=q]", "")
    page.select_option("[name=category]", "")
    page.click(".pill:has([value=pictured])")
    assert len(shown(page)) == 4


def test_keys(watcher: Watcher, address: str) -> None:
    page = watcher.open(address)

    def focused() -> int:
        return page.evaluate("Number(document.activeElement.closest('details.episode')?.dataset.index ?? -1)")

    page.keyboard.press("j")
    page.keyboard.press("j")
    assert focused() == 1
    page.keyboard.press("k")
    assert focused() == 0
    page.keyboard.press("j")
    page.keyboard.press("o")
    page.wait_for_selector("[data-index='1'][open] .conversation")
    page.keyboard.press("Escape")
    assert page.locator("[data-index='1'][open]").count() == 0
    page.keyboard.press("n")
    assert shown(page)[0] == 50
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert focused() == 49
    page.keyboard.press("j")
    assert focused() == 50
    page.keyboard.press("/")
    page.keyboard.type("jok?")
    assert page.input_value("[name=q]") == "jok?"
    assert page.locator(".count").inner_text() == "0 of 230"
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    assert page.evaluate("document.activeElement.value") == "wrong"
    page.keyboard.press("?")
    assert page.locator("dialog[open] .keys").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_an_episode_without_pictures_is_unpacked_and_has_an_address(
    watcher: Watcher, address: str, long_run: Path
) -> None:
    records = RunFiles(long_run).records()
    number = next(k for k in range(120, 230) if records[k].episode.n_operations)
    page = watcher.open(address)
    pictured = page.eval_on_selector_all("template[data-episode]", "all => all.map((t) => Number(t.dataset.episode))")
    assert number not in pictured
    episode = records[number]
    fragment = f"#episode={episode.episode.sample_id}" + (f"&repeat={episode.repeat}" if episode.repeat else "")
    page = watcher.open(address + fragment)
    page.wait_for_selector(f"[data-index='{number}'][open] .conversation")
    turns = page.locator(f"[data-index='{number}'] .message.model pre").all_text_contents()
    assert turns == [step.turn for step in episode.episode.steps]
    assert page.locator(f"[data-index='{number}'] .source.empty rect.mark.view").count() > 0
    assert page.locator(f"[data-index='{number}'] a.link").get_attribute("href") == fragment
    # Another one: the address follows what is opened.
    page.keyboard.press("j")
    page.keyboard.press("o")
    after = records[number + 1]
    page.wait_for_function("id => location.hash.startsWith('#episode=' + id)", arg=after.episode.sample_id)


def test_a_pictured_episode_shows_its_pictures(watcher: Watcher, address: str) -> None:
    page = watcher.open(address)
    page.click(".pill:has([value=pictured])")
    page.click("details.episode:first-child summary")
    image = page.locator("details.episode:first-child .views img").first
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 84


def test_light_dark_and_narrow(watcher: Watcher, address: str) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page = watcher.open(address, color_scheme=scheme, viewport={"width": 390, "height": 844})
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.locator("details.episode summary").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert len(set(colours)) == 2


def test_hostile_texts_run_nothing(watcher: Watcher, tmp_path: Path, oracle_run: Path) -> None:
    shutil.copytree(oracle_run, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        attack = ATTACKS[number % len(ATTACKS)]
        # Most cannot be replayed, and the reason quotes them; the last two keep their id and have pictures.
        if number < len(ATTACKS):
            line |= {"sample_id": attack, "prompt": attack}
            line["steps"] = [{**step, "turn": attack, "reply": attack} for step in line["steps"]]
        line |= {"answer": attack, "target": attack, "category": attack, "usage": {attack: 1}, "failures": {attack: 2}}
    (tmp_path / "run" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("manifest", "metrics"):
        content = json.loads((tmp_path / "run" / f"{name}.json").read_text())
        content |= {"agent": ATTACKS[1], "model": ATTACKS[3], "interval_method": ATTACKS[0]}
        content["by_category"] = {attack: {"statistics": {"accuracy": 0.5, "usage_rate": 0.5}} for attack in ATTACKS}
        (tmp_path / "run" / f"{name}.json").write_text(json.dumps(content))
    write_report(tmp_path / "run", tmp_path / "report.html")
    page = watcher.open((tmp_path / "report.html").as_uri())
    assert len(shown(page)) == 12
    for number in range(12):
        episode = page.locator(f"[data-index='{number}']")
        if not episode.get_attribute("open") is not None:
            episode.locator("summary").click()
        episode.locator(".answers").wait_for()
        assert page.evaluate("location.hash").startswith("#") or number == 0
        watcher.check(page)
    for choice in page.locator("[name=operation] option").all():
        page.select_option("[name=operation]", choice.get_attribute("value") or choice.inner_text())
    for attack in ATTACKS[:4]:
        page.fill("[name=q]", attack)
    watcher.check(page)


def test_the_attacks_would_be_noticed(chromium: Any) -> None:
    page = chromium.new_page()
    for number in (1, 2, 3, 4, 6):
        page.set_content(f"<p>{ATTACKS[number - 1]}")
        page.wait_for_function("n => window.hacked === n", arg=number)
    page.close()
