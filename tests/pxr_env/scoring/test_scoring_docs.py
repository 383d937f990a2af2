"""Everything docs/scoring.md says in examples is so."""

import re
from pathlib import Path

import pytest

from pxr_env.scoring import get_scorer, registry, scorer_names
from pxr_env.tasks import TASKS
from pxr_env.types import Sample

PAGE = (Path(__file__).parents[3] / "docs" / "scoring.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## )", PAGE, flags=re.MULTILINE | re.DOTALL))


def rows(section):
    table = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    header = [cell.strip() for cell in table[0]]
    for cells in table[2:]:
        yield dict(zip(header, (cell.strip() for cell in cells), strict=True))


def codes(cell):
    return tuple(re.findall(r"`([^`]*)`", cell))


EXAMPLES = [(name, row) for name, section in SECTIONS.items() for row in rows(section)]


@pytest.mark.parametrize(("name", "row"), EXAMPLES, ids=[f"{name}-{row['answer']}" for name, row in EXAMPLES])
def test_the_examples(name, row):
    if name == "math":
        pytest.importorskip("math_verify")
    options, (answer,) = codes(row.get("options", "")), codes(row["answer"])
    question = "".join(codes(row.get("question", "")))
    sample = Sample(sample_id="1", question=question, sources=(), answers=codes(row["accepted"]), options=options)
    assert sample.answers
    assert get_scorer(name)(answer, sample) == pytest.approx(float(row["score"]), abs=5e-5)


def test_every_scorer_has_a_section_with_examples():
    assert sorted(SECTIONS) == sorted(scorer_names())
    assert {name for name, _ in EXAMPLES} == set(SECTIONS)


def test_tasks_use_the_scorers_that_name_them():
    named = {(task, name) for name, section in SECTIONS.items() for task in re.findall(r"`(pxr/[\w-]+)`", section)}
    assert len(named) >= 9
    assert named == {(task, TASKS[task].data_class().scorer) for task, _ in named}


def test_the_least_correct_scores_are_those_of_the_scorers():
    for name, section in SECTIONS.items():
        stated = re.search(r"Correct(?: from)?:? ([\d.]*\d)", section)
        assert float(stated.group(1)) == registry._SCORERS[name].correct_from, name


def test_the_python_blocks_run(monkeypatch, capsys):
    monkeypatch.setattr(registry, "_SCORERS", dict(registry._SCORERS))
    first, own = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(first, {})
    assert capsys.readouterr().out.startswith("0.89 False formula: Biten")
    exec(own, {})
    sample = Sample(sample_id="1", question="", sources=(), answers=("3",))
    assert [get_scorer("count")(answer, sample) for answer in ("Three", "3.0", "four")] == [1.0, 1.0, 0.0]
