"""An LLM as judge, for answers that no rule can read. Rules judge unless one is asked for.

What it said is kept on disk, so that nothing is asked twice. Where it cannot be reached the question is dropped with
the reason; it is never scored 0 for that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.records import JUDGE_FAILED, RunRecord
from pxr_agents.chat_client import ChatClient, Server, Unanswered
from pxr_env.errors import quote
from pxr_env.types import Sample

#: The whole instruction. Its hash is in the manifest: another prompt is another judge.
PROMPT = """\
You judge whether an answer to a question about an image or a video is correct. You do not see the image; compare the \
answer with the accepted answers only.

The answer is correct if it says the same as one of the accepted answers. Wording, case, units that are understood and \
additional words do not matter; a different number, name, colour, letter or place does. An answer that names several \
possibilities is incorrect unless all accepted answers do.

Question:
{question}

Accepted answers, one a line:
{accepted}

Answer to judge:
{answer}

Reply with one word: CORRECT or INCORRECT."""

#: What is asked next where the verdict cannot be read, behind what the judge said and then in a question of its own.
REMINDER = "Give your verdict only. Reply with exactly one word, CORRECT or INCORRECT, and nothing else."

# A verdict is a statement of its own: at the beginning of the reply, a line or a sentence, with only its end or a
# reason behind it. "The correct answer is 5" is none, and neither is a reply that states both.
_DECORATION = r"(?:[\s*_`\"'(\[{#$>]|\\(?:boxed|text|textbf|mathrm|mathbf)\s*\{|<\w{1,12}>){0,16}"
_START = rf"(?:\A|[\n.!?;]|</think>){_DECORATION}(?:(?:no|wait|actually|sorry)\b,?\s+)?"
_SUBJECT = (
    r"(?:(?:so|thus|therefore|hence)\b,?\s+)?(?:(?:the|my)\s+)?(?:(?:final|given|candidate|model's)\s+)?"
    r"(?:verdict|judge?ment|answer(?:\s+to\s+judge)?|response|evaluation|assessment|decision|conclusion|result|it|this"
    r"|that)[*_`\"']{0,3}"
)
_SAYS = rf"(?:{_SUBJECT}(?:\s+(?:is|was)\b|['\u2019]s\b|\s*[:=]|\s+[-\u2013\u2014])[*_`\"']{{0,3}})?{_DECORATION}"
_YES = rf"{_START}{_SAYS}correct[ *_`\"')\]}}$]{{0,8}}(?:[.!\n]|\Z|</|,\s*\"|,? (?:because|since|as)\b)"
_NO = (
    rf"{_START}(?:{_SAYS}(?:incorrect|not\s+correct|wrong)\b"
    rf"|{_SUBJECT}\s+(?:is|was)(?:n['\u2019]t|\s+not)\s+{_DECORATION}correct\b)"
)
# Found once where there is a verdict; the group is the statement of a no, and empty for a yes.
_VERDICT = re.compile(rf"\A(?!(?=.*?{_NO}).*?{_YES})(?=.*?(?:{_YES}|({_NO})))", re.IGNORECASE | re.DOTALL)
# One of two words, for servers that can hold a model to a schema.
_SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["CORRECT", "INCORRECT"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": _SCHEMA}}
# How a server says that it does not know a part of a request.
_BAD_REQUEST = (400, 422)
_MAX_TOKENS = 1024
_ATTEMPTS = 3


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
    """Asks a model whether answers are correct, greedily, and keeps what it said in the file `cache`.

    A verdict that cannot be read is asked for again, twice and in other words; then the question has none.

    Raises:
        ValueError: the file holds something else.
    """

    def __init__(self, choice: JudgeChoice, cache: Path) -> None:
        self._client = ChatClient(choice.server)
        self._choice, self._cache, self._lock = choice, cache, threading.Lock()
        self._known = read_judgments(cache)
        # Whether the server holds the model to a schema; None until it has answered.
        self._takes_schema: bool | None = None

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
        executor = ThreadPoolExecutor(self._choice.concurrency)
        try:
            list(executor.map(lambda record: self._decide(record, get_sample(record.episode.sample_id)), waiting))
        finally:
            self._client.close()
            executor.shutdown(wait=False, cancel_futures=True)

    def _decide(self, record: RunRecord, sample: Sample) -> None:
        try:
            said, verdict = self._ask(sample, record.episode.answer or "")
        except Unanswered as error:
            record.episode.error = f"{JUDGE_FAILED}{error}"
            return
        record.judgment = {"model": self._choice.server.model, "said": said, "correct": verdict}
        record.episode.correct = verdict

    def _ask(self, sample: Sample, answer: str) -> tuple[str, bool]:
        prompt = _prompt(sample, answer)
        key = _key(self._choice.server.model, prompt)
        with self._lock:
            said = self._known.get(key)
        verdict = None if said is None else _read_verdict(said)
        # What was said in an earlier run and could not be read is asked for in other words at once.
        for attempt in range(0 if said is None else 1, _ATTEMPTS) if verdict is None else ():
            said = self._complete(([prompt], [prompt, said or "...", REMINDER], [f"{prompt}\n\n{REMINDER}"])[attempt])
            verdict = _read_verdict(said)
            if verdict is not None:
                self._keep(key, said)
                break
        if said is None or verdict is None:
            raise Unanswered(
                f"{self._choice.server.model} said neither CORRECT nor INCORRECT, asked {_ATTEMPTS} times: "
                f"{quote(said or '', 80)}"
            )
        return said, verdict

    def _complete(self, texts: Sequence[str]) -> str:
        """What the judge says to texts of a user and an assistant by turns."""
        messages = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
        body = {"messages": messages, "temperature": 0.0, "max_tokens": _MAX_TOKENS}
        if self._takes_schema is not False:
            try:
                said = self._client.complete(body | {"response_format": _FORMAT}).text
                self._takes_schema = True
                return said
            except Unanswered as error:
                if self._takes_schema or error.status not in _BAD_REQUEST:
                    raise
        said = self._client.complete(body).text
        # It took the question, and not the schema.
        self._takes_schema = False
        return said

    def _keep(self, key: str, said: str) -> None:
        with self._lock:
            self._known[key] = said
            with self._cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "said": said}) + "\n")
                file.flush()
                os.fsync(file.fileno())


def dispute(
    judgment: Mapping[str, Any], sample: Sample, answer: str, judge: Mapping[str, Any], known: Mapping[str, str]
) -> tuple[str | None, bool]:
    """What is wrong with a judgment on record, in words (None: nothing), and whether `known` (see `read_judgments`) has
    what the judge of the manifest said."""
    said, model = str(judgment.get("said")), judge["model"]
    kept = known.get(_key(model, _prompt(sample, answer)))
    if judgment.get("model") != model:
        return f"{judgment.get('model')!r} is on record as the judge; the manifest has {model!r}", kept is not None
    if kept is not None and kept != said:
        return f"{quote(said)} is on record; the judge said {quote(kept)} of this answer", True
    if _read_verdict(said) is not judgment.get("correct"):
        return f"{judgment.get('correct')} is on record; the judge said {quote(said)}", kept is not None
    return None, kept is not None


def _prompt(sample: Sample, answer: str) -> str:
    letters = {chr(ord("A") + index): text for index, text in enumerate(sample.options)}
    accepted = [f"{one} ({letters[one]})" if one in letters else one for one in sample.answers]
    # Not `format`: answers may hold braces.
    texts = {"question": sample.question, "accepted": "\n".join(accepted), "answer": answer}
    return re.sub(r"\{(question|accepted|answer)\}", lambda found: texts[found[1]], PROMPT)


def _key(model: str, prompt: str) -> str:
    return hashlib.sha256(f"{model}\n{prompt}".encode("utf-8", "surrogatepass")).hexdigest()


def _read_verdict(said: str) -> bool | None:
    """The verdict of a reply, of what comes behind its thoughts; None if it states none, or both."""
    found = _VERDICT.findall(said.rpartition("</think>")[2])
    return found[0] == "" if found else None


def read_judgments(path: Path) -> dict[str, str]:
    """What a judge said by the digest of what it was asked; nothing if there is no such file.

    Raises:
        ValueError: the file holds something else.
    """
    if not path.exists():
        return {}
    known = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            known[str(entry["key"])] = str(entry["said"])
        except (ValueError, KeyError, TypeError) as error:
            # A process that was killed leaves half a line.
            if number == 1:
                raise ValueError(f'"{path}", line 1: {error}; expected judgments of an earlier run.') from error
    return known
