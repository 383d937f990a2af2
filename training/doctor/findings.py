"""What the doctor says, for people and for programs."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]
_SIGNS: dict[Level, str] = {"ok": "  ok ", "note": "     ", "warning": " ??  ", "error": " !!  "}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        topic: what it is about, a word: "versions", "GPU", "memory".
        level: "error" will fail, "warning" may fail or be slow, "note" is good to know, "ok" is as it should be.
        text: what was found, and for errors and warnings what was expected.
        remedy: what to do; empty where nothing has to be done.
    """

    topic: str
    level: Level
    text: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.level in ("warning", "error") and not self.remedy:
            raise ValueError(f"a finding {self.text!r} without a remedy came; expected one that says what to do")


def exit_status(findings: Sequence[Finding]) -> int:
    """1 if something will fail, else 0."""
    return int(any(finding.level == "error" for finding in findings))


def to_json(findings: Sequence[Finding]) -> str:
    """The findings, and whether all is well, as a JSON object."""
    rows = [dataclasses.asdict(finding) for finding in findings]
    return json.dumps({"ok": not exit_status(findings), "findings": rows}, indent=2)


def report(findings: Sequence[Finding], *, width: int = 110) -> str:
    """The findings as text, by topic in the order they came."""
    lines: list[str] = []
    for topic in dict.fromkeys(finding.topic for finding in findings):
        lines.append(topic)
        for finding in findings:
            if finding.topic == topic:
                lines += _lines(finding, width)
    counts = {level: sum(finding.level == level for finding in findings) for level in ("error", "warning")}
    if counts["error"]:
        verdict = f"{counts['error']} will fail ( !! ), {counts['warning']} may be trouble ( ?? )."
    else:
        verdict = f"Nothing found that will fail; {counts['warning']} may be trouble ( ?? )."
    return "\n".join([*lines, "", verdict])


def _lines(finding: Finding, width: int) -> list[str]:
    indent = " " * len(_SIGNS[finding.level])
    lines = textwrap.wrap(
        finding.text, width, initial_indent=_SIGNS[finding.level], subsequent_indent=indent, break_on_hyphens=False
    )
    if finding.remedy:
        # Commands stay in one piece, to be copied.
        lines += textwrap.wrap(
            finding.remedy,
            width,
            initial_indent=f"{indent}-> ",
            subsequent_indent=f"{indent}   ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines
