"""The code on the page about curiosity runs, with the results it states, and its constants are those of the code."""

import dataclasses
import re
from pathlib import Path

from benchmarks.revival_toy import RULES
from pxr_env.curiosity import PRESETS, Revival
from training.advantages import DEAD_BELOW

PAGE = (Path(__file__).parents[3] / "docs" / "curiosity.md").read_text(encoding="utf-8")


def test_the_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["together"].episodes("task") == 3
    assert names["info"]["probe"]["opening"] in names["turn"]


def test_every_preset_is_described():
    table = PAGE.partition("| preset |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == set(PRESETS)
    paper = dataclasses.asdict(PRESETS["paper"])
    stated = dict(re.findall(r"(alpha|H|beta|N) ([.\d]+)", table.split("\n")[2].split("|")[4]))
    assert {name: float(value) for name, value in stated.items()} == {name: paper[name] for name in stated}
    assert len(stated) == 4


def test_the_constants_of_revival_are_the_defaults():
    revival = Revival(operations=("zoom_in",))
    assert f"The floor is {revival.floor:.2f}".replace("0.", ".") in PAGE
    assert f"{revival.n_candidates(8)} of 8 by default" in PAGE
    assert DEAD_BELOW == 1e-4
    assert "pi_old < 1e-4" in PAGE


def test_the_toy_and_the_page_know_the_same_rules():
    header = PAGE.partition("seeds after 300 iterations:\n\n")[2].split("\n")[0]
    columns = [cell.strip() for cell in header.split("|")[2:-1]]
    assert columns == [rule.removesuffix(" weights") if rule.startswith("shaped") else rule for rule in RULES]
