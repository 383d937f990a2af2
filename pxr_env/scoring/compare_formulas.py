"""The process behind the scorer "math": compares formulas line by line until its input ends.

A line of the input is a JSON list, a formula and the accepted ones; the line of the output is 1 or 0. The operating
system ends the process where a comparison takes too much time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

_SECONDS = 3.0
_BYTES = 2 << 30


# Two numbers that are both written as decimals are equal in as many digits as a double has; a decimal and an exact
# number, such as 0.333333 and 1/3, in as many as math-verify asks for, counted from the first that is not 0.
_BOTH_ROUNDED = 1e-14
_ONE_ROUNDED = 5e-6
_DIGITS = 40


def equal(formula: str, accepted: Sequence[str]) -> bool:
    """Whether math-verify finds a formula equal to one of the accepted ones. Its own limits of time are off."""
    math_verify = importlib.import_module("math_verify")

    def parse(text: str) -> list[object]:
        return math_verify.parse(rf"\boxed{{{text}}}", fallback_mode="no_fallback", parsing_timeout=None)

    found = parse(formula)
    return bool(found) and any(math_verify.verify(parse(other), found, timeout_seconds=None) for other in accepted)


def compare_relatively() -> None:
    """Makes math-verify compare numbers relative to their size, in all formulas, sets, tuples and matrices.

    It rounds to six decimals: 1e-7 is 2e-7 there, and 1/2004! is 1/2006!.
    """
    grader: Any = importlib.import_module("math_verify.grader")
    absolutely = grader.sympy_numeric_eq

    def numerically_equal(first: Any, second: Any, *precision: int) -> bool:
        return absolutely(first, second, *precision) and _close(first, second, grader.get_pct_val)

    grader.sympy_numeric_eq = numerically_equal


def _close(first: Any, second: Any, percentage: Callable[[Any], Any]) -> bool:
    """Whether two expressions are equal in their leading digits; matrices are, as their elements are asked for."""
    sympy = importlib.import_module("sympy")
    if not (isinstance(first, sympy.Expr) and isinstance(second, sympy.Expr)):
        return True
    rounded = [each.has(sympy.Float) for each in (first, second)]
    tolerance = _BOTH_ROUNDED if all(rounded) or not any(rounded) else _ONE_ROUNDED
    # 50% is 50 as well as 0.5 to math-verify.
    pairs = [(first, second), (percentage(first), second), (first, percentage(second))]
    return any(a is not None and b is not None and _near(a, b, tolerance) for a, b in pairs)


def _near(first: Any, second: Any, tolerance: float) -> bool:
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    # Any values will do, as long as no power of them is exact in decimals.
    values = {symbol: 1 + (index + 1) ** 0.5 / 7 for index, symbol in enumerate(symbols)}
    a, b = (each.doit().evalf(_DIGITS, subs=values) for each in (first, second))
    difference = abs(a - b)
    return bool(difference == 0 or difference <= tolerance * max(abs(a), abs(b)))


def main() -> None:
    """Serves comparisons."""
    logging.disable(logging.CRITICAL)
    # What libraries print must not mix with the answers.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # macOS does not let every process limit it.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    compare_relatively()
    if not equal("2/4", ["0.5"]) or equal("0.0000002", ["0.0000001"]):
        raise RuntimeError(
            "2/4 and 0.5 came out unequal, or 1e-7 and 2e-7 equal; expected math-verify to work. Install it as "
            "pip install pxr-gym[math] does."
        )
    print("ready", file=output)
    for line in sys.stdin:
        formula, *accepted = json.loads(line)
        # Nobody handles this signal: it ends the process even within a single operation on huge integers.
        signal.setitimer(signal.ITIMER_PROF, _SECONDS)
        try:
            verdict = equal(formula, accepted)
        except (Exception, RecursionError, MemoryError):
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(int(verdict), file=output)


if __name__ == "__main__":
    main()
