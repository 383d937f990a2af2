"""The command as it is started: its server, its limits, and what it leaves behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3

from tests.eval.chat_server import ChatServer, serve, zoom_then_answer

pytest.importorskip("gradio", reason="the demo needs gradio: install it")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
CANARY = "sk-canary-2718281828459045"


def test_the_command_serves_this_machine_refuses_large_files_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PXR_TEST_KEY", CANARY)
    with serve(ChatServer(zoom_then_answer)) as url:
        command = [sys.executable, "-m", "eval", "demo", "--base-url", url, "--model", "m", "--port", "0"]
        process = subprocess.Popen(
            [*command, "--api-key-env", "PXR_TEST_KEY"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = ""
        try:
            assert process.stdout is not None
            while "Ctrl-C ends it" not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            [address] = re.findall(r"http://127\.0\.0\.1:\d+/", said)
            pool = urllib3.PoolManager(retries=False, timeout=60)
            page = pool.request("GET", address)
            assert page.status == 200
            assert "default-src 'self'" in page.headers["Content-Security-Policy"]
            assert CANARY.encode() not in page.data
            assert CANARY.encode() not in pool.request("GET", f"{address}config").data
            small = pool.request("POST", f"{address}gradio_api/upload", fields={"files": ("a.png", b"0" * 1000)})
            assert small.status == 200
            assert len([path for path in tmp_path.rglob("a.png") if path.is_file()]) == 1
            large = {"files": ("b.png", b"0" * (51 * 1024 * 1024))}
            assert pool.request("POST", f"{address}gradio_api/upload", fields=large).status == 413
        finally:
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said + rest
    assert CANARY not in said + rest
    assert list(tmp_path.rglob("*.png")) == []
    assert list(tmp_path.glob("pxr-page-*")) == []


@pytest.mark.parametrize("option", ["--share", "--share=True"])
def test_there_is_no_public_link(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    from eval.__main__ import main

    with pytest.raises(SystemExit):
        main(["demo", "--model", "m", option])
    assert "unrecognized arguments: --share" in capsys.readouterr().err
