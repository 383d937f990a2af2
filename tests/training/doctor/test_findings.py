from __future__ import annotations

import json

import pytest

from training.doctor.findings import Finding, exit_status, report, to_json

FINE = Finding(topic="machine", level="ok", text="2 CPUs")
SLOW = Finding(topic="machine", level="warning", text="slow " * 40, remedy="pip install faster==1.0")
FAILS = Finding(topic="versions", level="error", text="it fails", remedy="repair it")


def test_only_errors_make_it_fail():
    assert exit_status([]) == exit_status([FINE, SLOW]) == 0
    assert exit_status([FINE, FAILS]) == 1


def test_the_report_is_ordered_by_topic_and_wrapped():
    lines = report([FINE, FAILS, SLOW], width=60).splitlines()
    assert [line for line in lines if line and line[0] != " "] == [
        "machine",
        "versions",
        "1 will fail ( !! ), 1 may be trouble ( ?? ).",
    ]
    assert lines[1] == "  ok 2 CPUs"
    assert lines[2].startswith(" ??  slow slow")
    assert "     -> pip install faster==1.0" in lines
    assert " !!  it fails" in lines
    assert max(map(len, lines)) <= 60
    assert report([FINE]).endswith("Nothing found that will fail; 0 may be trouble ( ?? ).")


def test_json_holds_everything():
    read = json.loads(to_json([FINE, FAILS]))
    assert read["ok"] is False
    assert read["findings"][1] == {"topic": "versions", "level": "error", "text": "it fails", "remedy": "repair it"}
    assert json.loads(to_json([FINE]))["ok"] is True


@pytest.mark.parametrize("level", ["warning", "error"])
def test_every_problem_says_what_to_do(level):
    with pytest.raises(ValueError, match="without a remedy"):
        Finding(topic="t", level=level, text="bad")
