"""What docs/models.md shows runs, and its numbers are those of the checkpoints."""

from __future__ import annotations

import contextlib
import importlib
import re
from pathlib import Path

import pytest

from pxr_agents.checkpoint import ARCHITECTURES, read_checkpoint

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_its_code_runs(family_path, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "random").symlink_to(family_path("qwen3-vl"))
    monkeypatch.chdir(tmp_path)
    # DeepSpeed, where it is installed, prints the accelerator that it finds as soon as it is imported.
    with contextlib.suppress(ImportError):
        importlib.import_module("deepspeed")
    capsys.readouterr()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    assert capsys.readouterr().out == "Qwen3-VL 32\nTrue False\n"
    # The environment of the page fits the model of the page.
    for image in names["env"].reset(seed=0)[0]["images"]:
        assert names["checkpoint"].norm.keeps(image.shape[1], image.shape[0])


@pytest.mark.parametrize(("family", "column"), [("qwen2.5-vl", 1), ("qwen3-vl", 3)])
def test_its_table_is_what_the_processors_say(family_path, family, column):
    norm = read_checkpoint(family_path(family)).norm
    cells = [line.split("|")[column + 1] for line in PAGE.splitlines() if line.startswith(("| `size_m", "| `min_p"))]
    numbers = [int(number.replace(",", "")) for cell in cells for number in re.findall(r"\d[\d,]*", cell)]
    assert numbers == [norm.image_unit, norm.patch_size, norm.merge_size, norm.min_pixels, norm.max_pixels]


def test_it_names_every_architecture():
    assert all(f"| `{name}` |" in PAGE for name in ARCHITECTURES)
