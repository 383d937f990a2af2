"""What the README and the documentation show has to run, and what they link to has to exist."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "step_an_environment.py"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])


def test_the_readme_steps_an_environment(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks == [EXAMPLE.read_text()]
    namespace = runpy.run_path(str(EXAMPLE))
    assert namespace["terminated"] is True
    assert namespace["info"]["usage"] == {"zoom_in": 1}
    assert namespace["reward"] == float(namespace["info"]["target"] == "T")
    assert "zoom_in" in capsys.readouterr().out


def test_parts_of_your_own_are_used_in_every_episode(tmp_path: Path) -> None:
    """An operation, a scorer, a reward, an environment and an agent from one file, by the command that it shows."""
    pytest.importorskip("jinja2")
    command = [sys.executable, "-m", "eval", "run", "my_parts:my/Search-v0", "--agent", "my_parts:UpperHalf"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")])}
    out = tmp_path / "mine"
    done = subprocess.run(
        [*command, "--limit", "5", "--out", str(out)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    episodes = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) == 5
    for episode in episodes:
        look, answer = episode["steps"]
        assert episode["usage"] == {"zoom_in": 0, "upper_half": 1}
        assert look["reward_terms"] == {"words": -1e-4 * len(look["turn"])}
        right = float(episode["target"] == "A")
        assert answer["reward_terms"] == {"correct": right, "words": -1e-4 * len(r"\boxed{A}")}
        assert answer["reward"] == pytest.approx(right - 9e-4)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    local = [target for target in targets if not target.startswith(("http://", "https://", "mailto:"))]
    missing = [target for target in local if not (document.parent / target).exists()]
    assert not missing
