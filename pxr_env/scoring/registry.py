"""What a scorer is, and the registry users add to.

A scorer is declared once, with a name and the place its rule comes from::

    @register_scorer("shorter", source="ours")
    def shorter(answer, sample):
        return float(len(answer) < len(sample.answers[0]))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from pxr_env.errors import choose, quote, show
from pxr_env.types import Sample

#: Says how good an answer to a sample is, from 0 (wrong) to 1 (right).
ScoringFunction = Callable[[str, Sample], float]

#: Longer answers score 0 unread: they are none, and Unicode normalization may take quadratic time.
LONGEST_ANSWER = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """A registered scorer; call it with an answer and its sample.

    Args:
        name: how environments name it.
        function: gives the score of an answer, from 0 to 1; a bool counts as 0 or 1.
        source: where the rule comes from: paper and section, or the address of the official code.
        correct_from: the least score that counts as correct where a yes or no is needed.
        longest_answer: answers of more characters score 0 and never reach `function`.
        require: called before the scorer is handed out; raises ImportError where something has to be installed.
    """

    name: str
    function: ScoringFunction
    source: str
    correct_from: float = 1.0
    longest_answer: int = LONGEST_ANSWER
    require: Callable[[], None] | None = None

    def __call__(self, answer: str, sample: Sample) -> float:
        """Returns the score of an answer, from 0 to 1.

        Raises:
            ValueError: the function returned something else.
            DataError: the sample's accepted answers are not of the kind the scorer compares with.
        """
        if len(answer) > self.longest_answer:
            return 0.0
        score: Any = self.function(answer, sample)
        # NaN fails the comparison.
        if not (isinstance(score, Real) and 0 <= score <= 1):  # type: ignore[operator]
            raise ValueError(
                f'the scorer "{self.name}" returned {show(score)} for sample "{quote(sample.sample_id)}"; expected a '
                "number from 0 to 1. Mend its function."
            )
        return float(score)

    def is_correct(self, score: float) -> bool:
        """Whether a score counts as correct: it is at least `correct_from`."""
        return score >= self.correct_from


_SCORERS: dict[str, Scorer] = {}


def register_scorer(
    name: str,
    *,
    source: str,
    correct_from: float = 1.0,
    longest_answer: int = LONGEST_ANSWER,
    require: Callable[[], None] | None = None,
) -> Callable[[ScoringFunction], ScoringFunction]:
    """Returns the decorator that registers a function (answer, sample) -> score as a scorer; see `Scorer`.

    Raises:
        ValueError: the name is taken, or `correct_from` is not above 0 and at most 1.
    """
    if name in _SCORERS:
        raise ValueError(f'got the scorer "{quote(name)}" twice, expected a new name.')
    if not 0 < correct_from <= 1:
        raise ValueError(
            f'got correct_from={show(correct_from)} for the scorer "{quote(name)}", expected a number above 0 and at '
            "most 1. Give the least score that counts as correct."
        )

    def register(function: ScoringFunction) -> ScoringFunction:
        limits: dict[str, Any] = {"correct_from": correct_from, "longest_answer": longest_answer}
        _SCORERS[name] = Scorer(name=name, function=function, source=source, require=require, **limits)
        return function

    return register


def get_scorer(name: str) -> Scorer:
    """Returns the registered scorer of that name.

    Raises:
        ValueError: there is none.
        ImportError: it needs a package that is not installed.
    """
    advice = "Choose the one that fits the answers of the data; import the module that registers it if it is your own."
    scorer = choose(_SCORERS, name, "scorer=", advice)
    if scorer.require is not None:
        scorer.require()
    return scorer


def scorer_names() -> list[str]:
    """Returns the names of all registered scorers, also of those that need a package that is not installed."""
    return list(_SCORERS)
