"""A small part of `benchmarks/fuzz_media.py`, which damages files by the thousand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fuzz_media

ROOT = Path(__file__).resolve().parents[3]


def test_what_is_damaged_can_be_shown_before(tmp_path):
    pytest.importorskip("av")
    for kind, files in (("image", fuzz_media.images()), ("video", fuzz_media.videos())):
        for number, data in enumerate(files.values()):
            path = tmp_path / f"{kind}{number}"
            path.write_bytes(data)
            assert fuzz_media.look(kind, path) == "shown"


def test_damaged_files_are_shown_or_refused():
    pytest.importorskip("av")
    command = [sys.executable, "benchmarks/fuzz_media.py", "--images", "600", "--videos", "60"]
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    totals = [line for line in done.stdout.splitlines() if line.startswith(("600 images", "60 videos"))]
    assert [line.endswith(", 0 wrong") for line in totals] == [True, True]
    # Neither all nor none of them.
    assert all(" 0 shown" not in line and " 0 refused" not in line for line in totals)
