"""An LLM as judge, for answers that no rule can read. Rules judge unless one is asked for.

What it said is kept on disk, so that nothing is asked twice. Where it cannot be reached the question is dropped with
the reason; it is never scored 0 for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pxr_agents.chat_client import Server, Unanswered
from pxr_agents.judge import PROMPT, REMINDER, JudgeModel, judge_prompt, judgment_key, read_verdict
from pxr_env.errors import quote
from pxr_env.types import Sample
from .records import JUDGE_FAILED, RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeChoice:
    """Which model judges, and where what it said is kept (a file that several runs may share).

    Args:
        cache: a JSONL file; None for `judgments.jsonl` in the run's directory.
        concurrency: most requests at once.
    """

    server: Server
    cache: Path | None = None
    concurrency: int = 8

    def as_manifest(self) -> dict[str, Any]:
        """What a manifest says of it."""
        server, digest = self.server, hashlib.sha256(f"{PROMPT}\n{REMINDER}".encode()).hexdigest()
        where = {"model": server.model, "host": server.host, "base_url": server.base_url}
        return where | {"prompt": PROMPT, "prompt_sha256": digest, "reminder": REMINDER}


class Judge:
    """Asks a model (see `JudgeModel`), and keeps what it said in the file `cache`; ValueError if that holds something
    else."""

    def __init__(self, choice: JudgeChoice, cache: Path) -> None:
        self._name = choice.server.model
        self._model = JudgeModel(choice.server, cache=cache, concurrency=choice.concurrency)

    def judge(self, records: Sequence[RunRecord], get_sample: Callable[[str], Sample]) -> None:
        """Let the judge decide over every answer: `episode.correct` becomes its verdict, `judgment` what it said.

        Episodes without an answer, without a score, or judged before stay as they are. Where the judge fails,
        `episode.error` says so.

        Raises:
            ServerRefused: the judge's server takes no request at all.
        """
        waiting = [
            record
            for record in records
            if record.episode.error is None and record.episode.answer is not None and record.judgment is None
        ]
        try:
            asked = [
                self._model.ask(*_question(get_sample(record.episode.sample_id)), record.episode.answer or "")
                for record in waiting
            ]
            for record, answered in zip(waiting, asked, strict=True):
                try:
                    said, verdict = answered.result()
                except Unanswered as error:
                    record.episode.error = f"{JUDGE_FAILED}{error}"
                    continue
                record.judgment = {"model": self._name, "said": said, "correct": verdict}
                record.episode.correct = verdict
        finally:
            self._model.close()


def dispute(
    judgment: Mapping[str, Any], sample: Sample, answer: str, judge: Mapping[str, Any], known: Mapping[str, str]
) -> tuple[str | None, bool]:
    """What is wrong with a judgment on record, in words (None: nothing), and whether `known` (see
    `pxr_agents.judge.read_judgments`) has what the judge of the manifest said."""
    said, model = str(judgment.get("said")), judge["model"]
    kept = known.get(judgment_key(model, judge_prompt(*_question(sample), answer)))
    if judgment.get("model") != model:
        return f"{judgment.get('model')!r} is on record as the judge; the manifest has {model!r}", kept is not None
    if kept is not None and kept != said:
        return f"{quote(said)} is on record; the judge said {quote(kept)} of this answer", True
    if read_verdict(said) is not judgment.get("correct"):
        return f"{judgment.get('correct')} is on record; the judge said {quote(said)}", kept is not None
    return None, kept is not None


def _question(sample: Sample) -> tuple[str, list[str]]:
    """The question, and what is accepted as an answer."""
    letters = {chr(ord("A") + index): text for index, text in enumerate(sample.options)}
    return sample.question, [f"{one} ({letters[one]})" if one in letters else one for one in sample.answers]
