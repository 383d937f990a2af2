"""A model behind a server as judge of answers that no rule can read: what it is asked, and how its verdict is read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pxr_agents.chat_client import ChatClient, Server, Unanswered
from pxr_env.errors import quote

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
# Answers of this process, about a kilobyte each.
_REMEMBERED = 50_000


class JudgeModel:
    """Asks a model whether answers are correct, greedily, at most `concurrency` questions at once, and nothing twice.

    A verdict that cannot be read is asked for again, twice and in other words; then the question has none.

    Args:
        server: where the model is.
        cache: a JSONL file of what it said, which several runs and processes may share; None keeps it in memory.

    Raises:
        ValueError: the file holds something else.
    """

    def __init__(self, server: Server, *, cache: Path | None = None, concurrency: int = 8) -> None:
        self._client, self._model = ChatClient(server), server.model
        self._cache, self._lock = cache, threading.Lock()
        self._known = {} if cache is None else read_judgments(cache)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="judge")
        self._asked: dict[str, Future[tuple[str, bool]]] = {}
        # Whether the server holds the model to a schema; None until it has answered.
        self._takes_schema: bool | None = None

    def ask(self, question: str, accepted: Sequence[str], answer: str) -> Future[tuple[str, bool]]:
        """What the judge says, and its verdict. Equal questions that wait at the same time are one.

        The future raises Unanswered if there is no verdict, ServerRefused if the server takes no request at all.
        """
        prompt = judge_prompt(question, accepted, answer)
        key = judgment_key(self._model, prompt)
        with self._lock:
            asked = self._asked.get(key)
            # What failed before may succeed now.
            if asked is None or (asked.done() and (asked.cancelled() or asked.exception() is not None)):
                asked = self._asked[key] = self._pool.submit(self._decide, key, prompt)
                if len(self._asked) > _REMEMBERED:
                    del self._asked[next(iter(self._asked))]
        return asked

    def close(self) -> None:
        """Gives up what waits."""
        self._client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _decide(self, key: str, prompt: str) -> tuple[str, bool]:
        said = self._known.get(key)
        verdict = None if said is None else read_verdict(said)
        # What was said in an earlier run and could not be read is asked for in other words at once.
        for attempt in range(0 if said is None else 1, _ATTEMPTS) if verdict is None else ():
            said = self._complete(([prompt], [prompt, said or "...", REMINDER], [f"{prompt}\n\n{REMINDER}"])[attempt])
            verdict = read_verdict(said)
            if verdict is not None:
                self._keep(key, said)
                break
        if said is None or verdict is None:
            raise Unanswered(
                f"{self._model} said neither CORRECT nor INCORRECT, asked {_ATTEMPTS} times: {quote(said or '', 80)}"
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
        if self._cache is None:
            return
        with self._lock, self._cache.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "said": said}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def judge_prompt(question: str, accepted: Sequence[str], answer: str) -> str:
    """The whole question to the judge."""
    # Not `format`: answers may hold braces.
    texts = {"question": question, "accepted": "\n".join(accepted), "answer": answer}
    return re.sub(r"\{(question|accepted|answer)\}", lambda found: texts[found[1]], PROMPT)


def judgment_key(model: str, prompt: str) -> str:
    """Under which a file of judgments has what a model said to a prompt."""
    return hashlib.sha256(f"{model}\n{prompt}".encode("utf-8", "surrogatepass")).hexdigest()


def read_verdict(said: str) -> bool | None:
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
