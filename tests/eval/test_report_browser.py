"""The report and the viewer in a headless browser: filters, keys, links, pictures at full size, charts that say their
values, and texts that would like to be scripts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.charts import HEIGHT, WIDTH
from eval.facts import Selection, facts_of
from eval.records import RunFiles
from eval.report import write_report
from eval.runner import evaluate
from eval.suites import Choice
from eval.view.server import ViewServer
from tests.browser import ATTACKS, Watcher
from tests.eval.conftest import run_evaluation
from tests.eval.view.conftest import write_training

pytestmark = pytest.mark.browser

TEMPLATES = Path(__file__).parents[2] / "eval" / "templates"
#: Where pictures are looked at: both have the same ones.
PLACES = ("report", "viewer")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation with large views, one with 230 episodes of the random agent and pictures of four; a training."""
    root = tmp_path_factory.mktemp("figures")
    evaluate(
        "pxr_env:pxr/SyntheticInfographic-v0",
        out=root / "info",
        agent="oracle",
        env_args={"split": "test", "hard_fraction": 1.0, "max_pixels": 600_000},
        choice=Choice(limit=2),
        console=None,
    )
    write_report(root / "info", root / "info" / "report.html")
    run_evaluation(root / "long", agent="random", limit=23, repeats=10)
    write_report(root / "long", root / "long" / "report.html", n_episodes=4)
    write_training(root / "ppo", root / "long" / "episodes.jsonl")
    return root


@pytest.fixture(scope="module")
def url(runs: Path) -> Iterator[str]:
    with ViewServer(runs).running() as server:
        yield server.url


@pytest.fixture
def address(runs: Path) -> str:
    """The report of the long run."""
    return (runs / "long" / "report.html").as_uri()


@pytest.fixture
def show(watcher: Watcher, runs: Path, url: str) -> Callable[..., Any]:
    """Opens the first episode of the run with large views."""

    def opened(place: str, **options: Any) -> Any:
        first = RunFiles(runs / "info").records()[0].episode.sample_id
        report = (runs / "info" / "report.html").as_uri() + f"#episode={first}"
        page = watcher.open(report if place == "report" else f"{url}run/info?episode={first}", **options)
        page.wait_for_selector(".views .cut .enlarge img")
        return page

    return opened


def box(page: Any) -> list[float]:
    return [float(value) for value in page.get_attribute(".stage", "viewBox").split()]


def shown(page: Any) -> list[int]:
    return page.eval_on_selector_all("details.episode", "all => all.map((one) => Number(one.dataset.index))")


def test_filters_pages_and_search(watcher: Watcher, address: str, runs: Path) -> None:
    facts = [facts_of(record) for record in RunFiles(runs / "long").records()]

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


def test_an_episode_without_pictures_is_unpacked_and_has_an_address(watcher: Watcher, address: str, runs: Path) -> None:
    records = RunFiles(runs / "long").records()
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


@pytest.mark.parametrize("place", PLACES)
def test_a_picture_opens_at_full_size_with_its_boxes(place: str, show: Callable[..., Any]) -> None:
    page = show(place)
    crop = page.locator(".views .cut .enlarge").first
    natural = crop.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert crop.bounding_box()["width"] < natural
    crop.click()
    page.keyboard.press("1")
    assert page.locator(".stage image").first.bounding_box()["width"] == pytest.approx(natural, abs=1)
    assert "image 2" in page.get_attribute(".stage", "aria-label")
    # What the oracle looks at is the evidence; the box of the view itself would only frame it.
    assert page.locator(".stage .mark.evidence").count() == 1
    assert page.locator(".stage .mark.view").count() == 0
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert "source 1" in page.get_attribute(".stage", "aria-label")
    assert page.locator(".stage .mark.view").count() == 1
    assert page.locator(".stage .number").bounding_box()["height"] == pytest.approx(24, abs=2)
    page.keyboard.press("b")
    assert not page.locator(".stage .mark.view").is_visible()
    page.keyboard.press("Escape")
    # A dialog gives the focus back after it is closed.
    page.wait_for_selector(".source .enlarge:focus")
    assert page.locator("#lightbox[open]").count() == 0


@pytest.mark.parametrize("place", PLACES)
def test_it_is_moved_and_enlarged_by_keys_wheel_and_mouse_and_keeps_the_focus(
    place: str, show: Callable[..., Any], watcher: Watcher
) -> None:
    page = show(place)
    page.locator(".source .enlarge").first.focus()
    page.keyboard.press("Enter")
    fitted = box(page)
    page.keyboard.press("+")
    assert box(page)[2] == pytest.approx(fitted[2] * 0.8)
    before = box(page)
    page.keyboard.press("ArrowRight")
    assert box(page)[0] == pytest.approx(before[0] + before[2] / 8)
    page.mouse.move(400, 300)
    page.mouse.wheel(0, -400)
    page.wait_for_function("width => document.querySelector('.stage').viewBox.baseVal.width < width", arg=before[2])
    before = box(page)
    page.mouse.down()
    page.mouse.move(460, 300, steps=3)
    page.mouse.up()
    assert box(page)[0] < before[0]
    page.keyboard.press("0")
    assert box(page) == pytest.approx(fitted)
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('#lightbox')"
        )
    # The keys of the page rest: none of these leaves the picture.
    for key in ("n", "p", "u", "g", "/", "?"):
        page.keyboard.press(key)
    assert page.locator("#lightbox[open]").count() == 1
    watcher.check(page)


def test_two_fingers_spread_a_picture(show: Callable[..., Any]) -> None:
    page = show("report", has_touch=True, viewport={"width": 390, "height": 844})
    page.locator(".source .enlarge").first.tap()
    before = box(page)
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[int, int]) -> None:
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", (150, 300), (250, 300))
    touch("touchMove", (100, 300), (300, 300))
    touch("touchEnd")
    # Twice as far apart: half as much is seen.
    page.wait_for_function(
        "width => document.querySelector('.stage').viewBox.baseVal.width < width", arg=before[2] * 0.9
    )
    assert box(page)[2] == pytest.approx(before[2] / 2, rel=0.1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_chart_says_its_values_under_the_mouse_and_with_keys(watcher: Watcher, url: str) -> None:
    page = watcher.open(url + "run/ppo")
    figure = page.locator("figure", has_text="share of correct rollouts")
    chart = figure.locator("svg.chart")
    chart.scroll_into_view_if_needed()
    frame, (left, right) = chart.bounding_box(), map(float, chart.get_attribute("data-range").split())
    middle = frame["x"] + frame["width"] * (left + right) / 2 / WIDTH
    page.mouse.move(middle, frame["y"] + frame["height"] / 2)
    # The third of five iterations: 0.5 + 3 / 16, see `metrics_line`.
    assert figure.locator("output").inner_text() == "iteration 3: 0.6875"
    chart.focus()
    page.keyboard.press("ArrowLeft")
    assert figure.locator("output").inner_text() == "iteration 2: 0.625"
    reward = page.locator("figure", has_text="mean per rollout, and its terms")
    reward.locator("svg.chart").focus()
    assert reward.locator("output").inner_text() == "iteration 5: Reward 0.5 · correct 0.5"
    # No label leaves its chart.
    boxes = page.eval_on_selector_all(
        "svg.chart text",
        "all => all.map((text) => text.getBBox()).map((box) => [box.x, box.y, box.x + box.width, box.y + box.height])",
    )
    assert len(boxes) > 50
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 <= x2 <= WIDTH
        assert 0 <= y1 <= y2 <= HEIGHT


def test_whoever_comes_back_finds_the_row(watcher: Watcher, url: str) -> None:
    page = watcher.open(url + "?sort=name&q=long")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/run/long")
    watcher.ready(page)
    page.keyboard.press("n")
    page.wait_for_url("**?page=1")
    watcher.ready(page)
    for _ in range(3):
        page.keyboard.press("j")
    left = page.evaluate("document.activeElement.id")
    for back in (lambda: page.keyboard.press("u"), lambda: page.go_back()):
        page.keyboard.press("Enter")
        page.wait_for_url("**episode=**")
        watcher.ready(page)
        back()
        page.wait_for_url("**page=1**")
        watcher.ready(page)
        assert page.evaluate("document.activeElement.id") == left == "episode-52"
    page.click(".crumbs a")
    page.wait_for_url("**/?sort=name&q=long**")
    watcher.ready(page)
    assert page.evaluate("document.activeElement.textContent") == "long"


def test_the_pager_jumps(watcher: Watcher, url: str, address: str) -> None:
    page = watcher.open(url + "run/long")
    page.fill(".pager input[type=number]", "3")
    page.keyboard.press("Enter")
    page.wait_for_url("**?**go=3**")
    watcher.ready(page)
    assert page.locator("a.row").first.get_attribute("id") == "episode-100"
    page.keyboard.press("P")
    page.wait_for_url("**/run/long?")
    watcher.ready(page)
    page.keyboard.press("N")
    page.wait_for_url("**?page=4")
    page = watcher.open(address)
    page.fill(".pager input", "3")
    page.keyboard.press("Enter")
    assert shown(page)[0] == 100
    page.locator("details.episode summary").first.focus()
    page.keyboard.press("N")
    assert shown(page)[0] == 200
    page.keyboard.press("P")
    assert shown(page)[0] == 0


def test_chosen_runs_are_compared(watcher: Watcher, url: str) -> None:
    page = watcher.open(url + "?sort=name")
    button = page.locator("button[form=compare]")
    assert button.is_disabled()
    page.locator("input[name=run]").nth(0).check()
    page.locator("a.row", has_text="long").focus()
    page.keyboard.press("x")
    assert button.is_enabled()
    page.keyboard.press("c")
    page.wait_for_url("**/compare?run=info&run=long")
    # These two have no sample in common, and the page says so.
    assert "no sample in common" in page.inner_text("main")


@pytest.mark.parametrize("place", PLACES)
def test_the_help_lists_every_key(place: str, show: Callable[..., Any]) -> None:
    text = (TEMPLATES / {"report": "report.js", "viewer": "view.js"}[place]).read_text()
    named = set(re.findall(r'^  "?([A-Za-z/]+)"?: \(\) =>', text, re.MULTILINE)) | {"?"}
    for keys in re.findall(r"for \(const key of \[(.+)\]\)", text):
        named |= set(re.findall(r"\w+", keys))
    pages = (TEMPLATES / "pages.js").read_text()
    on_pictures = set(re.findall(r'^    (?:"[^"]+"|\w+): \["[^"]+", "([^"]+)"', pages, re.MULTILINE))
    assert {"j", "k", "n", "N", "Escape"} <= named
    assert on_pictures == {"+", "-", "0", "1", "b", "j", "k", "Esc"}
    page = show(place)
    page.keyboard.press("?")
    of_page, of_picture = page.locator("#help .keys").inner_text().split("On a picture")
    assert {"Esc" if key == "Escape" else key for key in named} <= set(of_page.split())
    assert on_pictures | {"Enter", "←", "→"} <= set(of_picture.split())
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_what_is_wider_than_the_window_shows_it(watcher: Watcher, url: str) -> None:
    page = watcher.open(url + "run/long?group=test-0")
    grid = page.locator(".group-grid")
    assert grid.evaluate("grid => grid.scrollWidth > grid.clientWidth")
    assert grid.get_attribute("data-more") == "right"
    # Its bar is inside the window, however tall the episodes are.
    assert grid.evaluate("grid => grid.clientHeight <= innerHeight")
    grid.focus()
    grid.evaluate("grid => grid.scrollTo(grid.scrollWidth, 0)")
    page.wait_for_selector(".group-grid[data-more='left ']")


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
