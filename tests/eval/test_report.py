"""The HTML file: complete, self-contained, and deaf to what models write into it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.records import RunDirectory
from eval.report import signed, write_report
from tests.eval.conftest import run_evaluation
from tests.eval.scripted import HOSTILE

VOID = {"meta", "img", "br", "line", "circle", "rect", "polyline", "image"}


class Page(HTMLParser):
    """What a browser would see: every tag with its attributes, the text, and whether tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """Attributes of every `tag` whose attribute values contain the wanted words."""
        return [
            attributes
            for name, attributes in self.tags
            if name == tag and all(word in (attributes.get(key) or "").split() for key, word in wanted.items())
        ]


@pytest.fixture
def oracle_page(oracle_run: Path, tmp_path: Path) -> Page:
    write_report(oracle_run, tmp_path / "report.html", n_episodes=6)
    return Page(tmp_path / "report.html")


def test_a_run_report_shows_metrics_and_episodes(oracle_page: Page) -> None:
    assert len(oracle_page.all("details", **{"class": "episode"})) == 6
    assert "12 of 12" in oracle_page.text
    assert "0.758 to 1.000" in oracle_page.text  # Wilson: 12 / (12 + 1.96**2)
    n_zoomed = len([a for a in oracle_page.all("details") if "used" in (a.get("data-tags") or "").split()])
    assert 0 < n_zoomed < 6
    assert len(oracle_page.all("rect", **{"class": "view"})) == 2 * n_zoomed  # each with its halo
    assert len(oracle_page.all("img")) == 6 + n_zoomed
    assert len(oracle_page.all("span", **{"class": "call"})) == n_zoomed


def test_a_report_loads_nothing_and_runs_its_own_script_only(oracle_page: Page, tmp_path: Path) -> None:
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = oracle_page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"] == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    references = [a[key] for _, a in oracle_page.tags for key in ("src", "href", "action", "data") if a.get(key)]
    assert references
    assert all(reference is not None and reference.startswith("data:image/") for reference in references)
    assert "url(" not in html
    assert "@import" not in html


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run_evaluation(tmp_path / "run", agent="tests.eval.scripted:hostile", limit=2)
    write_report(tmp_path / "run", tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert len(page.all("script")) == 1
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert page.text.count(HOSTILE) >= 3 * 2  # twice in turns, once as the answer, of each episode
    episode = RunDirectory(tmp_path / "run").episodes()[0]
    assert episode.answer == HOSTILE


def test_photographs_about_which_nothing_is_known(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--agent", "tests.eval.scripted:second_source", "--env-arg", "max_pixels=40000", "--out", str(out)]
    assert main(["run", "tests.eval.photographs:Photographs-v0", *arguments]) == 0
    assert main(["report", str(out)]) == 0
    page = Page(out / "report.html")
    assert len(page.all("image")) == 2 * 2
    # Chelsea is 451x300, the astronaut 512x512: its middle, then the lower right quarter of that.
    boxes = {(a["x"], a["y"], a["width"], a["height"]) for a in page.all("rect", **{"class": "view"})}
    assert ("128.0", "128.0", "256.0", "256.0") in boxes
    assert ("256.0", "256.0", "128.0", "128.0") in boxes
    assert not page.all("rect", **{"class": "evidence"})
    assert "By category" not in page.text
    assert "Hits" not in page.text


def quick_start(directory: Path, plain: Path, curiosity: Path, **summary: Any) -> Path:
    """A quick start's directory: two arms with metrics of three iterations each, and their evaluations."""
    for name, run in (("plain", plain), ("curiosity", curiosity)):
        arm = directory / "arms" / name
        shutil.copytree(run, arm / "eval")
        rows = [
            {"iteration": k, "accuracy": 0.5 + k / 10, "usage_rate": k / 4, "reward/correct": 0.5, f"reward/{name}": k}
            for k in (1, 2, 3)
        ]
        (arm / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arms = {"plain": {"accuracy": 0.25, "iterations": 3}, "curiosity": {"accuracy": 1.0, "iterations": 3}}
    content = {"seed": 17, "arms": arms, "seconds": {"warm_start": 61.4}} | summary
    (directory / "summary.json").write_text(json.dumps(content))
    return directory


TARGETS = [
    {"name": "usage without curiosity", "value": 0.01, "bound": "< 0.05", "met": True},
    {"name": "accuracy gained", "value": 0.1, "bound": ">= 0.15", "met": False},
]


def test_a_training_report_compares_both_arms(random_run: Path, oracle_run: Path, tmp_path: Path) -> None:
    directory = quick_start(tmp_path, random_run, oracle_run, targets=TARGETS[:1], notes=["Zooms start out clumsy."])
    assert main(["report", str(directory), "--episodes", "4"]) == 0
    page = Page(directory / "report.html")
    charts = {(a.get("aria-label") or "").partition(" over ")[0]: a for a in page.all("svg", **{"class": "chart"})}
    assert charts.keys() == {"Accuracy", "Usage", "Reward: correct", "Reward: plain", "Reward: curiosity"}
    assert charts["Usage"]["aria-label"] == "Usage over iterations; last values: plain 0.500, curiosity 0.500"
    assert "met its target." in page.text
    assert "Zooms start out clumsy." in page.text
    assert "61 s" in page.text
    assert len(page.all("details", **{"class": "episode"})) == 4
    assert len(page.all("section", **{"class": "arm-0"})) == len(page.all("section", **{"class": "arm-1"})) == 4
    # The table holds what the evaluations measured: the oracle answers everything.
    random_accuracy = RunDirectory(random_run).metrics()["statistics"]["accuracy"]
    assert signed(1.0 - random_accuracy) in page.text


def test_a_missed_target_is_said_plainly(random_run: Path, oracle_run: Path, tmp_path: Path) -> None:
    directory = quick_start(tmp_path, random_run, oracle_run, targets=TARGETS)
    write_report(directory, tmp_path / "report.html", n_episodes=1)
    page = Page(tmp_path / "report.html")
    assert "This run missed 1 of its 2 targets." in page.text
    assert "Missed: accuracy gained." in page.text
    assert "✗ missed" in page.text


def test_arms_without_an_evaluation_show_their_summary(random_run: Path, oracle_run: Path, tmp_path: Path) -> None:
    directory = quick_start(tmp_path, random_run, oracle_run)
    shutil.rmtree(directory / "arms" / "plain" / "eval")
    write_report(directory, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "0.250" in page.text
    assert not page.all("details", **{"class": "episode"})


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "neither a manifest.json nor a summary.json" in capsys.readouterr().err


def test_an_unfinished_run_is_refused(oracle_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(oracle_run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    assert main(["report", str(tmp_path / "run")]) == 2
    assert "continue an interrupted evaluation" in capsys.readouterr().err


def test_a_bad_line_of_metrics_is_named(random_run: Path, oracle_run: Path, tmp_path: Path) -> None:
    directory = quick_start(tmp_path, random_run, oracle_run)
    with (directory / "arms" / "plain" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4,')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 4"):
        write_report(directory, tmp_path / "report.html")


@pytest.mark.parametrize(("value", "text"), [(0.25, "+0.250"), (-0.25, "\N{MINUS SIGN}0.250"), (-1e-9, "0.000")])
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text
