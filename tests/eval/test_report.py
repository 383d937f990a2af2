"""The HTML file: complete, self-contained, and deaf to what models write into it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.facts import facts_of, tags
from eval.records import RunFiles
from eval.rendering import file_size, signed
from eval.report import write_report
from tests.eval.conftest import episodes_of, run_evaluation
from tests.eval.scripted import HOSTILE

VOID = {"meta", "img", "br", "line", "circle", "rect", "polyline", "polygon", "image", "input"}


class Page(HTMLParser):
    """What a browser would see: every tag with its attributes, the text, and whether tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[tuple[str, str]] = []
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
        if self._open and self._open[-1] == "script":
            self.scripts.append((self.tags[-1][1].get("type") or "", data))

    def rows(self) -> list[list[Any]]:
        """What the list of episodes is made of."""
        (rows,) = [text for kind, text in self.scripts if kind == "application/json"]
        return json.loads(rows)

    def packed(self) -> list[str]:
        """What is shown of the episodes without pictures, unpacked; "" for the others."""
        chunks = [text for kind, text in self.scripts if kind == "application/octet-stream"]
        return [text for chunk in chunks for text in json.loads(gzip.decompress(base64.b64decode(chunk)))]

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """Attributes of every `tag` whose attribute values contain the wanted words."""
        return [
            attributes
            for name, attributes in self.tags
            if name == tag and all(word in (attributes.get(key) or "").split() for key, word in wanted.items())
        ]


@pytest.fixture(scope="module")
def oracle_html(oracle_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    write_report(oracle_run, out, n_episodes=6)
    return out


@pytest.fixture(scope="module")
def oracle_page(oracle_html: Path) -> Page:
    return Page(oracle_html)


def test_a_run_report_shows_metrics_and_episodes(oracle_page: Page, oracle_run: Path) -> None:
    records = RunFiles(oracle_run).records()
    pictured = [int(a["data-episode"] or 0) for a in oracle_page.all("template")]
    assert len(pictured) == 6
    assert "12 of 12" in oracle_page.text
    assert "0.758 to 1.000" in oracle_page.text  # Wilson: 12 / (12 + 1.96**2)
    n_zoomed = sum(records[index].episode.n_operations > 0 for index in pictured)
    assert 0 < n_zoomed < 6
    assert len(oracle_page.all("rect", **{"class": "view"})) == n_zoomed
    assert len(oracle_page.all("rect", **{"class": "halo"})) == n_zoomed + 6  # the evidence has one, too
    assert len(oracle_page.all("img")) == 6 + n_zoomed
    assert len(oracle_page.all("span", **{"class": "call"})) == n_zoomed


def test_every_episode_is_listed_and_those_without_pictures_are_packed(oracle_page: Page, oracle_run: Path) -> None:
    records = RunFiles(oracle_run).records()
    rows, texts = oracle_page.rows(), oracle_page.packed()
    assert [row[0] for row in rows] == [record.episode.sample_id for record in records]
    assert [row[3] for row in rows] == [facts_of(record).question for record in records]
    executed = [{name: n for name, n in record.episode.usage.items() if n} for record in records]
    assert [row[8] for row in rows] == executed
    pictured = {int(a["data-episode"] or 0) for a in oracle_page.all("template")}
    for index, (row, text, record) in enumerate(zip(rows, texts, records, strict=True)):
        assert row[10] == [*tags(record.episode), *(["pictured"] if index in pictured else [])]
        assert (text == "") == (index in pictured)
        assert not text or "boxed{" in text
        assert "<img" not in text


def test_how_many_have_pictures(oracle_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report.html"
    for options, count in ((["--all"], 12), (["--episodes", "0"], 0)):
        assert main(["report", str(oracle_run), "--out", str(out), *options]) == 0
        page = Page(out)
        assert len(page.all("template")) == count
        assert sum("pictured" in row[10] for row in page.rows()) == count
    assert main(["report", str(oracle_run), "--out", str(out), "--episodes", "-1"]) == 2
    # And where a file would be too large.
    monkeypatch.setattr("eval.report.PICTURE_BYTES", 150_000)
    write_report(oracle_run, out, n_episodes=None)
    page = Page(out)
    assert 0 < len(page.all("template")) < 12
    assert "12 were asked for: more does not fit" in page.text
    assert sum(len(a["href"] or "") for a in page.all("image")) < 150_000


def test_what_cannot_be_played_again_is_shown_as_text(oracle_run: Path, tmp_path: Path) -> None:
    shutil.copytree(oracle_run, tmp_path / "run")
    episodes = (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()
    changed = json.loads(episodes[0]) | {"prompt": "What letter is in the purple box?"}
    (tmp_path / "run" / "episodes.jsonl").write_text("\n".join([json.dumps(changed), *episodes[1:]]) + "\n")
    write_report(tmp_path / "run", tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "Some pictures could not be rebuilt." in page.text
    assert "does not replay: after turn 0" in page.text
    assert sum("pictured" in row[10] for row in page.rows()) == 11
    # And where the environment itself is gone.
    manifest = RunFiles(tmp_path / "run").manifest()
    manifest["env"] |= {"entry_point": "no_such_module:Env"}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    write_report(tmp_path / "run", tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "The environment could not be made again: No module named 'no_such_module'" in page.text
    assert not page.all("image")
    assert len(page.rows()) == 12


def test_a_report_loads_nothing_and_runs_its_own_script_only(oracle_page: Page, oracle_html: Path) -> None:
    html = oracle_html.read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    kinds = {kind for kind, _ in oracle_page.scripts}
    assert kinds == {"", "application/json", "application/octet-stream"}
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
    assert [kind for kind, _ in page.scripts].count("") == 1
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert page.text.count(HOSTILE) >= 3 * 2  # twice in turns, once as the answer, of each episode
    episode = episodes_of(tmp_path / "run")[0]
    assert episode.answer == HOSTILE
    assert {row[4] for row in page.rows()} == {HOSTILE[:80]}


def test_photographs_about_which_nothing_is_known(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--agent", "tests.eval.scripted:second_source", "--env-arg", "max_pixels=40000", "--out", str(out)]
    assert main(["run", "tests.eval.photographs:Photographs-v0", *arguments]) == 0
    assert main(["report", str(out)]) == 0
    page = Page(out / "report.html")
    assert len(page.all("image")) == 2 * 2
    assert all("wrong" in row[10] or "correct" in row[10] for row in page.rows())
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
    curves = {"Accuracy", "Usage", "Reward: correct", "Reward: plain", "Reward: curiosity"}
    assert charts.keys() == curves | {"Accuracy by cost"}
    assert charts["Accuracy by cost"]["data-x"] == "vision tokens"
    assert charts["Usage"]["aria-label"] == "Usage over iterations; last values: plain 0.500, curiosity 0.500"
    for text in ("met its target.", "Zooms start out clumsy.", "61 s"):
        assert text in page.text
    assert len(page.all("details", **{"class": "episode"})) == 4
    assert len(page.all("section", **{"class": "arm-0"})) == len(page.all("section", **{"class": "arm-1"})) == 4
    # The table holds what the evaluations measured: the oracle answers everything.
    random_accuracy = RunFiles(random_run).metrics()["statistics"]["accuracy"]
    assert signed(1.0 - random_accuracy) in page.text


def test_a_missed_target_and_an_arm_without_an_evaluation(random_run: Path, oracle_run: Path, tmp_path: Path) -> None:
    directory = quick_start(tmp_path, random_run, oracle_run, targets=TARGETS)
    shutil.rmtree(directory / "arms" / "plain" / "eval")
    write_report(directory, directory / "report.html")
    page = Page(directory / "report.html")
    for text in ("This run missed 1 of its 2 targets.", "Missed: accuracy gained.", "✗ missed", "0.250"):
        assert text in page.text
    assert not page.all("details", **{"class": "episode"})
    with (directory / "arms" / "plain" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4,')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 4"):
        write_report(directory, directory / "report.html")


def test_what_is_no_finished_run_is_refused(
    oracle_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "neither a manifest.json nor a summary.json" in capsys.readouterr().err
    shutil.copytree(oracle_run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    assert main(["report", str(tmp_path / "run")]) == 2
    assert "continue an interrupted evaluation" in capsys.readouterr().err


def test_numbers_as_people_read_them() -> None:
    for value, text in ((0.25, "+0.250"), (-0.25, "\N{MINUS SIGN}0.250"), (-1e-9, "0.000")):
        assert signed(value) == text
    sizes = ((0, "0 kB"), (312_400, "312 kB"), (4_060_000, "4.1 MB"), (999_600, "1.0 MB"), (2.5e8, "250 MB"))
    for n_bytes, text in sizes:
        assert file_size(n_bytes) == text
