r"""Answers that are formulas, compared by math-verify.

Comparing formulas can take any time (try `9^{9^{9^9}}`). math-verify limits it with signals, which work in the main
thread only, take the alarm away from the program around it, and do not interrupt arithmetic on huge integers. So a
second process compares, without those limits: the operating system ends it when its processor time is spent, whatever
it is doing, and the next answer starts a new one.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence

from pxr_env.decorations import AROUND_FORMULAS, layers
from pxr_env.scoring.registry import register_scorer
from pxr_env.scoring.text import matches, visible
from pxr_env.types import Sample

#: Longer formulas are not compared as such.
LONGEST_FORMULA = 300
_DEEPEST = 20
# A word is no product of its letters: "tac" is not "cat".
_WORD = re.compile(r"[^\W\d_]{3}")
_LETTER = re.compile(r"[^\W\d_]")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
# A fixed seed makes sympy's choices the same every time. Threads reserve memory, which is limited.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def require_math_verify() -> None:
    """Raises ImportError if math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError('got scorer="math", and math-verify is not installed. Install it: pip install pxr-gym[math]')


@register_scorer(
    "math",
    source="math-verify, https://github.com/huggingface/Math-Verify; an accepted formula equals the answer's",
    longest_answer=LONGEST_FORMULA,
    require=require_math_verify,
)
def math(answer: str, sample: Sample) -> float:
    r"""The answer equals an accepted one as a text (see `exact`) or as a formula: `\frac{1}{2}`, 0.5 and 2/4 do.

    Letters of formulas are compared with their case, and decimals by all of their digits. A comparison that takes more
    than 3 seconds of processor time or 2 GiB of memory counts as unequal. So does a text with several formulas.
    """
    written = layers(answer, AROUND_FORMULAS)
    accepted = [layers(text, AROUND_FORMULAS)[-1] for text in sample.answers]
    for layer in written:
        found = matches(layer, accepted)
        # "X" and "x" are different symbols, "Red" and "red" the same word.
        if found and (as_formula(layer) is None or any(visible(accepted[index]) == visible(layer) for index in found)):
            return 1.0
    formula = as_formula(written[-1])
    if formula is None:
        return 0.0
    formulas = [
        found for found in map(as_formula, accepted) if found is not None and not _differ_in_case(formula, found)
    ]
    if not formulas:
        return 0.0
    return float(_comparer().equal(formula, formulas))


def as_formula(text: str) -> str | None:
    """Returns the one formula that is all of the text; None if it cannot be one."""
    text = text.strip()
    if not text or len(text) > LONGEST_FORMULA or "$" in text or r"\boxed" in text or not _is_balanced(text):
        return None
    words = _COMMAND.sub(" ", text)
    if (_WORD.search(words) or words.casefold() == "no") and not any(character.isdigit() for character in text):
        return None
    return text.replace("\N{DEGREE SIGN}", r"^\circ")


def _differ_in_case(first: str, second: str) -> bool:
    """Whether two formulas have the same letters, one of them in another case: math-verify reads all in lower case."""
    one, other = (frozenset(_LETTER.findall(_COMMAND.sub(" ", text))) for text in (first, second))
    return one != other and {letter.casefold() for letter in one} == {letter.casefold() for letter in other}


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if not 0 <= depth <= _DEEPEST:
            return False
    return depth == 0


class Comparer:
    """The process that compares formulas. It starts with the first comparison, and again after its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def equal(self, formula: str, accepted: Sequence[str]) -> bool:
        """Whether a formula equals one of the accepted ones; False where that cannot be found out within the limits.

        Raises:
            RuntimeError: the process does not start.
        """
        request = json.dumps([formula, *accepted])
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _start()
            try:
                reply = self._ask(self._process, request)
            except BrokenPipeError:
                reply = ""
            if not reply:
                self._end()
            return reply == "1\n"

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    @staticmethod
    def _ask(process: subprocess.Popen[str], request: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request + "\n")
        process.stdin.flush()
        return process.stdout.readline()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _start() -> subprocess.Popen[str]:
    # A session of its own keeps Ctrl-C from it.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pxr_env.scoring.compare_formulas"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        encoding="utf-8",
        start_new_session=True,
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        process.kill()
        process.communicate()
        raise RuntimeError(
            "the process that compares formulas ended at once; expected it to start. "
            'Run "python -m pxr_env.scoring.compare_formulas" to see why.'
        )
    return process


# By process: a forked child must not write to the pipes of its parent.
_COMPARERS: dict[int, Comparer] = {}


def _comparer() -> Comparer:
    process_id = os.getpid()
    if process_id not in _COMPARERS:
        comparer = _COMPARERS.setdefault(process_id, Comparer())
        atexit.register(comparer.close)
    return _COMPARERS[process_id]
