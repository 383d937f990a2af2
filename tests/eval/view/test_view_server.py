"""The pages over HTTP: what they say, whom they answer, and what they do with files that are not what they seem."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from eval.__main__ import main
from eval.comparison import compare_runs, verdict
from eval.manifest import score_name
from eval.metrics import evaluation_metrics
from eval.records import RunFiles
from eval.rendering import signed
from tests.eval.view.conftest import Client, metrics_line, write_training

Serve = Callable[..., Client]
Copy = Callable[..., Path]


def names(page: str) -> list[str]:
    """The runs of the table, in its order."""
    return re.findall(r'<a class="row" href="/run/([^"]+)"', page)


def test_the_table_of_runs(client: Client) -> None:
    page = client.text("/")
    assert set(names(page)) == {"eval/oracle", "eval/groups", "eval/interrupted", "ppo"}
    assert "0.758 to 1.000" in page  # Wilson's interval of 12 of 12
    assert "5 of 12" in page
    assert "iteration 5 of 8" in page
    assert names(client.text("/?q=groups")) == ["eval/groups"]
    by_name = names(client.text("/?sort=name"))
    assert by_name == sorted(by_name)
    assert names(client.text("/?sort=name&order=desc")) == by_name[::-1]
    # The oracle is always right; the training's last accuracy is 0.8125, which is more than a random agent has.
    by_accuracy = names(client.text("/?sort=accuracy"))
    assert set(by_accuracy[:2]) == {"eval/oracle", "eval/interrupted"}
    assert by_accuracy[2:] == ["ppo", "eval/groups"]


def test_runs_against_a_baseline(runs: Path, client: Client, tmp_path: Path, serve: Serve, copy: Copy) -> None:
    page = client.text("/?baseline=eval/oracle")
    accuracy = RunFiles(runs / "eval" / "groups").metrics()["statistics"]["accuracy"]
    for text in (
        f"\N{MINUS SIGN}{1 - accuracy:.3f}",
        "agent: &#34;oracle&#34; → &#34;random&#34;",
        "none that matters",
    ):
        assert text in page
    assert "is the baseline" in page
    # Runs that cannot be compared are not ranked.
    copy("one")
    copy("other", scorer={"name": "anls", "source": ""})
    page = serve(tmp_path).text("/?baseline=one")
    assert "differences that matter" in page
    assert "scorer.name: &#34;exact&#34; → &#34;anls&#34;" in page
    assert "<b>0.000</b>" not in page


def test_a_list_is_filtered_and_paged(runs: Path, client: Client, tmp_path: Path, serve: Serve, copy: Copy) -> None:
    records = RunFiles(runs / "eval" / "groups").records()
    wrong = [r.key for r in records if not r.episode.correct and not r.episode.n_operations]
    hard = [r.key for r in records if r.episode.usage.get("zoom_in") and r.episode.category == "hard"]
    rows = 'class="row episode-row"'
    for query, count in (
        ("show=wrong&show=unused", len(wrong)),
        ("q=TEST-3", 4),
        ("operation=zoom_in&category=hard", len(hard)),
        ("q=nothing", 0),
    ):
        page = client.text(f"/run/eval/groups?{query}")
        assert page.count(rows) == count
        assert f"{count} of 24 episodes" in page
    file = copy("long") / "episodes.jsonl"
    line = json.loads(file.read_text().splitlines()[0])
    file.write_text("".join(json.dumps(line | {"sample_id": f"s{k:03}"}) + "\n" for k in range(120)))
    client = serve(tmp_path)
    pages = [re.findall(r"episode=(s\d+)", client.text(f"/run/long?page={k}")) for k in range(3)]
    assert [len(page) for page in pages] == [50, 50, 20]
    assert [name for page in pages for name in page] == [f"s{k:03}" for k in range(120)]
    assert "page 3 of 3" in client.text("/run/long?page=99")


def test_an_episode_is_played_again(runs: Path, client: Client) -> None:
    record = next(r for r in RunFiles(runs / "eval" / "oracle").records() if r.episode.n_operations)
    page = client.text(f"/run/eval/oracle?episode={record.episode.sample_id}")
    assert page.count('<img class="tiny" src="data:image/') == 2
    assert page.count('<rect class="mark view t1"') == page.count('<g class="number t1">') == 1
    assert page.count('<rect class="mark evidence"') == 1
    assert '<span class="call">&lt;tool_call&gt;' in page
    assert f'<dd class="correct">{record.episode.answer}</dd>' in page
    assert "not recorded" in page


def test_neighbours_keep_the_filters(runs: Path, client: Client) -> None:
    records = RunFiles(runs / "eval" / "groups").records()
    used = [r.key for r in records if r.episode.n_operations]
    (sample_id, repeat) = used[1]
    page = client.text(f"/run/eval/groups?show=used&episode={sample_id}&nth={repeat}")
    assert f"episode 2 of {len(used)}" in page
    for rel, (other, nth) in (("prev", used[0]), ("next", used[2])):
        expected = f"?show=used&amp;episode={other}" + (f"&amp;nth={nth}" if nth else "")
        assert f'rel="{rel}" href="{expected}"' in page


def test_a_group_side_by_side(runs: Path, client: Client) -> None:
    group = [r.episode for r in RunFiles(runs / "eval" / "groups").records() if r.episode.sample_id == "test-2"]
    page = client.text("/run/eval/groups?group=test-2")
    assert page.count('<section class="') == 4
    right, used = sum(e.correct for e in group), sum(e.n_operations > 0 for e in group)
    assert f"{right} of 4 right, {used} of 4 used an operation" in page
    overview = client.text("/run/eval/groups?view=groups")
    assert overview.count('<a class="dot ') == 24
    assert overview.count(" of 4</span>") == 6


def test_a_training_and_its_episodes(client: Client) -> None:
    page = client.text("/run/ppo")
    assert "iteration 5 of 8" in page
    assert "Trap alarm: operations, iteration 3 to 4." in page
    assert ">alarm: any</text>" in page
    assert page.count('<svg class="chart"') >= 6
    episodes = client.text("/run/ppo?iteration=2")
    assert episodes.count('class="row episode-row"') == 24
    group = client.text("/run/ppo?iteration=2&group=test-2")
    assert group.count('<section class="') == 4
    assert group.count("<image href=") == 4
    assert "No pictures" not in group
    assert "got iteration 3, expected" in client.text("/run/ppo?iteration=3", 404)


def test_a_picture_of_the_training_stands_in(runs: Path, tmp_path: Path, serve: Serve) -> None:
    write_training(tmp_path / "ppo", runs / "eval" / "groups" / "episodes.jsonl")
    recipe = json.loads((tmp_path / "ppo" / "recipe.json").read_text())
    recipe["env"]["id"] = "nowhere/Gone-v0"
    (tmp_path / "ppo" / "recipe.json").write_text(json.dumps(recipe))
    Image.new("RGB", (40, 20)).save(tmp_path / "ppo" / "episodes" / "2" / "1.png")
    client = serve(tmp_path)
    page = client.text("/run/ppo?iteration=2&episode=test-0")
    assert "The environment could not be made again" in page
    assert '<svg viewBox="0 0 40 20"' in page
    assert '<image href="data:image/png;base64,' in page
    assert "<image" not in client.text("/run/ppo?iteration=2&episode=test-0&nth=1")


def test_without_pictures_no_environment_is_made(runs: Path, tmp_path: Path, serve: Serve, copy: Copy) -> None:
    env = json.loads((runs / "eval" / "oracle" / "manifest.json").read_text())["env"]
    copy(env=env | {"entry_point": "trap_of_a_manifest:Env"})
    marker = tmp_path / "ran"
    (tmp_path / "trap_of_a_manifest.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        page = serve(tmp_path, replay=False).text("/run/run?episode=test-0")
        assert not marker.exists()
        # The same with pictures: this is what --no-pictures is for.
        serve(tmp_path).text("/run/run?episode=test-0")
        assert marker.exists()
    assert "started with --no-pictures" in page
    assert '<rect class="mark evidence"' in page


def test_an_interrupted_run_says_so(client: Client) -> None:
    page = client.text("/run/eval/interrupted")
    assert "5 of 12 episodes" in page
    assert "Accuracy so far" in page


def test_a_run_that_goes_on_is_seen_to_grow(runs: Path, tmp_path: Path, serve: Serve, copy: Copy) -> None:
    copy(of="interrupted")
    write_training(tmp_path / "ppo", runs / "eval" / "groups" / "episodes.jsonl", lines=2)
    client = serve(tmp_path)
    # Both were written just now.
    assert "<main data-live=" in client.text("/run/run")
    assert "<main data-live=" in client.text("/run/ppo")
    answer = client.ask("/run/ppo")
    answer.read()
    version = answer.headers["ETag"]
    assert client.ask("/run/ppo", If_None_Match=version).status == 304
    with (tmp_path / "ppo" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics_line(3)) + "\n")
    grown = client.ask("/run/ppo", If_None_Match=version)
    assert grown.status == 200
    assert "Trap alarm: operations, iteration 3 until now." in grown.read().decode()
    # An hour later nobody seems to write any more.
    hour_ago = time.time() - 3600
    for path in (tmp_path / "run").iterdir():
        os.utime(path, (hour_ago, hour_ago))
    page = client.text("/run/run")
    assert "<main>" in page
    assert "unfinished" in page


def test_reports_and_audits_are_shown_in_a_sandbox(tmp_path: Path, serve: Serve, copy: Copy) -> None:
    (copy() / "audit").mkdir()
    (tmp_path / "run" / "audit" / "audit.html").write_text("<!doctype html><title>an audit</title>")
    client = serve(tmp_path)
    assert '<a href="/run/run?file=audit">audit</a>' in client.text("/")
    answer = client.ask("/run/run?file=audit")
    assert b"an audit" in answer.read()
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in policy
    assert "expected report or audit" in client.text("/run/run?file=report", 404)
    assert "expected report or audit" in client.text("/run/run?file=../../etc/passwd", 404)


def test_there_is_nothing_else(client: Client) -> None:
    oracle = ("manifest.json", "?episode=nothing", "?episode=test-0&nth=7")
    paths = [f"/run/eval/oracle{'' if end[0] == '?' else '/'}{end}" for end in oracle]
    paths += ["/run/nothing", "/run/../../etc/passwd", "/run/eval%2F..%2F..%2F..%2Fetc", "/static/../report.py"]
    paths += [
        "/static/%2e%2e/report.py",
        "/etc/passwd",
        "//etc/passwd",
        "/run/eval/groups?group=nothing",
        "/run/%ff%00",
    ]
    for path in [*paths, "/run/" + quote("<script>alert(1)</script>")]:
        page = client.text(path, 404)
        assert "root:" not in page
        assert "<script>" not in page


def test_only_this_machine_is_answered_or_those_that_call_it_by_its_address(
    client: Client, runs: Path, serve: Serve
) -> None:
    for host in ("127.0.0.1", "localhost:1234", "[::1]:99"):
        assert client.ask("/", Host=host).status == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "192.168.1.5", "", "["):
        answer = client.ask("/", Host=host)
        assert (answer.status, b"oracle" in answer.read()) == (403, False)
    other = serve(runs, host="0.0.0.0")
    assert other.ask("/", Host="192.168.1.5:80").status == 200
    assert other.ask("/", Host="evil.example").status == 403


def test_it_only_reads(client: Client, runs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.ask("/run/eval/oracle", method).status == 405
    for path in ("/", "/run/eval/oracle", "/run/eval/oracle?episode=test-1", "/run/ppo"):
        client.text(path)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


def test_headers_forbid_everything_from_elsewhere(client: Client) -> None:
    for path in ("/", "/run/eval/oracle", "/static/view.js", "/run/nothing"):
        answer = client.ask(path)
        answer.read()
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    oracle = "/run/eval/oracle"
    for path in ("/", oracle, f"{oracle}?episode=test-1", "/run/eval/groups?group=test-1", "/run/ppo"):
        page = client.text(path)
        assert not re.search(r"<script(?! src=\"/static/)", page)
        assert not re.search(r"(src|href)=\"(https?:|//)", page)
        assert " style=" not in page


def test_a_page_is_packed_for_those_who_can_unpack_it(client: Client) -> None:
    answer = client.ask("/run/eval/groups", Accept_Encoding="gzip")
    packed = answer.read()
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(packed) < len(client.text("/run/eval/groups")) / 4
    head = client.ask("/run/eval/groups", "HEAD")
    assert (head.status, head.read()) == (200, b"")


def test_somebody_elses_files_hide_no_run(tmp_path: Path, serve: Serve, copy: Copy) -> None:
    copy("good")
    manifests = ('{"env": 7, "n_samples": "x"}', "[]", "not JSON", '{"env": {"id": [1]}, "server": 3}')
    for number, content in enumerate(manifests):
        odd = tmp_path / f"odd{number}"
        odd.mkdir()
        (odd / "manifest.json").write_text(content)
        (odd / "metrics.json").write_text('{"statistics": {"accuracy": "high", "n_episodes": []}}')
        (odd / "metrics.jsonl").write_text("{}\n")
    client = serve(tmp_path)
    assert len(names(client.text("/"))) == 5
    assert len(names(client.text("/?baseline=odd0&sort=accuracy"))) == 5


def test_the_command_serves_until_it_is_interrupted(runs: Path) -> None:
    command = [sys.executable, "-m", "eval", "view", str(runs), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None
        address = re.search(r"4 runs in .*: (http://127\.0\.0\.1:\d+/)", process.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(address[1], timeout=60) as answer:
            assert b"eval/oracle" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def test_the_command_refuses_what_it_cannot_serve(
    client: Client, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(tmp_path / "nothing")]) == 2
    assert "is no directory" in capsys.readouterr().err
    assert main(["view", str(runs), "--port", str(client.port)]) == 2
    assert "Choose another --port" in capsys.readouterr().err


def leave_out(record: dict[str, Any]) -> dict[str, Any]:
    """The same episode without a score."""
    record |= {"error": "the server was away", "correct": False}
    record["run"]["score"] = None
    return record


def finish(run: Path) -> None:
    """The metrics of what now stands in a run."""
    directory = RunFiles(run)
    records = directory.records()
    directory.finish(records, evaluation_metrics(records, score_name=score_name(directory.manifest())))


def test_what_has_no_score_is_visible_wherever_a_score_is(tmp_path: Path, serve: Serve, copy: Copy) -> None:
    # One of the four episodes of the first two samples, and the only category of one of them.
    run = copy(of="groups", how=lambda k, record: leave_out(record) if k in (1, 5) else record)
    finish(run)
    copy("whole", "groups")
    client = serve(tmp_path)
    metrics = RunFiles(run).metrics()["statistics"]
    strict = metrics["accuracy"] * 22 / 24
    for page in (client.text("/"), client.text("/run/run")):
        assert f"2 not scored: {strict:.3f} if wrong" in page
    listed = client.text("/run/run")
    assert "By category" in listed
    assert '<span class="unscored">2 not scored:</span> <bdi>the server was away</bdi>' in listed
    groups = client.text("/run/run?view=groups")
    assert groups.count("1 not scored") == 2
    assert "1 not scored" in client.text("/run/run?group=test-0")
    compared = client.text("/compare?run=run&run=whole")
    assert "2 episodes not scored" in compared
    (run / "metrics.json").unlink()
    assert "2 not scored" in client.text("/run/run")
    assert '<span class="unscored">2</span>' in client.text("/")


def test_the_baseline_is_compared_on_common_samples_only(tmp_path: Path, serve: Serve, copy: Copy) -> None:
    def worse(k: int, record: dict[str, Any]) -> dict[str, Any]:
        return record | {"correct": k not in (0, 1)} | ({"sample_id": "new"} if k == 11 else {})

    # Of 12, the other run got 2 wrong; one of these two the first run could not score, and one has another id.
    finish(copy("one", how=lambda k, record: leave_out(record) if k == 0 else record))
    finish(copy("other", how=worse))
    page = serve(tmp_path).text("/?baseline=one")
    gain = compare_runs([tmp_path / "one", tmp_path / "other"]).pairs[0].tests["accuracy"].difference
    assert gain == pytest.approx(-1 / 10)
    assert "<b>\N{MINUS SIGN}0.100</b>" in page
    assert "on 10 common samples" in page


def test_the_runs_of_an_audit_are_told_by_their_run(tmp_path: Path, serve: Serve, copy: Copy) -> None:
    # One whose run is not there stands for itself.
    for name in ("run", "run/audit/blank", "run/audit/without", "lost/audit/blank"):
        copy(name)
    client = serve(tmp_path)
    page = client.text("/")
    assert set(names(page)) == {"run", "lost/audit/blank"}
    assert "2 audit arms</summary>" in page
    assert re.findall(r'<li><a href="/run/([^"]+)"', page) == ["run/audit/blank", "run/audit/without"]
    assert names(client.text("/?q=audit/without")) == ["run"]


def test_chosen_runs_are_compared_as_the_command_does(client: Client, runs: Path) -> None:
    page = client.text("/compare?run=eval/oracle&run=eval/groups")
    comparison = compare_runs([runs / "eval" / "oracle", runs / "eval" / "groups"])
    test = comparison.pairs[0].tests["accuracy"]
    assert f"on {comparison.n_common} common samples" in page
    assert verdict(comparison, comparison.pairs[0], "accuracy") in page
    assert "Accuracy by cost over vision tokens" in page
    assert f"{signed(test.difference)} ({signed(test.low)} to {signed(test.high)})" in page
    for metrics in comparison.metrics:
        low, high = metrics["intervals"]["accuracy"]
        assert f"{metrics['statistics']['accuracy']:.3f}<small>{low:.3f} to {high:.3f}" in page
    for query, reason in (
        ("run=eval/oracle", "got 1 runs"),
        ("run=eval/oracle&run=gone", "got 2 runs, of which 1"),
        ("run=eval/oracle&run=eval/interrupted", "cannot be compared"),
        ("", "got 0 runs"),
    ):
        assert reason in client.text("/compare?" + query, status=404)


def test_a_source_comes_as_large_as_it_is(client: Client) -> None:
    answer = client.ask("/run/eval/oracle?episode=test-0&picture=1")
    assert answer.status == 200
    with Image.open(io.BytesIO(answer.read())) as image:
        assert image.size == (336, 336)
    assert "the episode has 1" in client.text("/run/eval/oracle?episode=test-0&picture=2", status=404)
    assert "no episode" in client.text("/run/eval/oracle?episode=gone&picture=1", status=404)


SPANS = [["read", 1200], ["forced", 3], ["written", 20], ["read", 30], ["written", 7]]


def test_what_single_episodes_have(tmp_path: Path, serve: Serve, copy: Copy) -> None:
    def change(k: int, record: dict[str, Any]) -> dict[str, Any]:
        record["run"]["score"] = 0.5
        record["steps"][0]["finish_reason"] = "length" if k == 0 else "stop"
        more = {"token_spans": SPANS} if k == 0 else {"prompt": "Another question?"} if k == 2 else {}
        return record | {"correct": False} | more

    finish(copy(how=change, scorer={"name": "anls", "source": ""}))
    client = serve(tmp_path)
    first, second, third = (client.text(f"/run/run?episode=test-{k}") for k in range(3))
    # The tokens in their order.
    strip = re.findall(r'<rect class="(read|written|forced)" x="(\d+)" width="(\d+)"', first)
    starts = ["0", "1200", "1203", "1223", "1253"]
    assert strip == [(kind, start, str(n)) for (kind, n), start in zip(SPANS, starts, strict=True)]
    for text in (
        "1,260 tokens",
        "27 written by the model",
        "1,230 read, masked",
        'title="by the limit of tokens">cut off',
    ):
        assert text in first
    # A turn that was cut is marked, others are not.
    assert "cut off" not in second
    listed = client.text("/run/run")
    assert listed.count('<span class="badge failed">cut off</span>') == 1
    assert "1 of 12 episodes" in client.text("/run/run?show=cut")
    # A replay that fails leaves the text.
    assert "does not replay: after turn 0" in third
    assert "Another question?" in third
    assert "<image" not in third
    # The suite's own metric is the headline.
    assert re.search(r'class="tile"><h3>ANLS</h3><div class="number">0.500<', listed)
    assert '<th scope="col" class="number">ANLS</th>' in listed
    assert "0.500<small><b>ANLS</b>" in client.text("/")
