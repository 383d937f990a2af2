r"""What stands around an answer and says nothing: fonts, quotes, brackets, "The answer is".

Models write `**B**`, `$B$`, `\textbf{(B)}` and "The answer is (B)." where B is asked for. `layers` takes that off, one
layer after the other, from outside to inside; it is the one reader of decorations, for dialects and for all scorers.
Whoever compares takes the outermost layer that fits, so that a text which is meant with its signs is found first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

#: Takes one decoration off a text without blanks around it; None where there is none of its kind.
Peeler = Callable[[str], str | None]

# Deeper decorations stay, and so do those of texts that are no answers.
_MOST_LAYERS = 12
_LONGEST = 2000
_FONT = (
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|normal)?|math(?:rm|bf|it|sf|tt|normal)|boldsymbol|bm|emph|underline|[hm]box|boxed"
    r"|fbox|framebox|operatorname|(?:textcolor|color)\s*\{[^{}]*\})\s*\{"
)
_OPENING_FONT = re.compile(_FONT)
_OPENING_SWITCH = re.compile(r"\\(?:bf|it|rm|sf|tt|bfseries|itshape|displaystyle|large|Large|huge|Huge)(?![a-zA-Z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\(((?:[^\\]|\\[^()])+)\\\)|\\\[((?:[^\\]|\\[^\[\]])+)\\\]")
_FENCE = re.compile(r"```[^\S\n]*\w*\n([^`]+)```")
_TAG = re.compile(
    r"<((?i:b|strong|i|em|u|code|p|span|div|mark|center|answer|final_answer))>([^<]+|(?:(?!</?\1>).)+)</\1>", re.DOTALL
)
_HEADING = re.compile(r"#{1,6}\s+(\S.*)", re.DOTALL)
# An opening sign, and all that may close it. "Low" quotes are German and Polish, angles French, corners Japanese.
_QUOTES = dict(
    pair.split(" ")
    for pair in (
        '" "', "' '", "\u201c \u201d", "\u2018 \u2019", "\u201e \u201c\u201d", "\u00ab \u00bb", "\u00bb \u00ab",
        "\u2039 \u203a", "\u300c \u300d", "\u300e \u300f",
    )
)  # fmt: skip
_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">", "\uff08": "\uff09", "\u3010": "\u3011", "\u27e8": "\u27e9"}
# Lists, intervals and formulas mean something else without their brackets. A star beside an underscore is emphasis.
_SEVERAL = re.compile(r"[,;|=+^]|(?<!_)(?<=[\w ])[*/](?=[\w ])(?!_)")
_DECLARATION = re.compile(
    r"(?P<open>[*_#>\s]{1,8})?(?:(?:so|thus|therefore|hence)\b,?\s+)?(?:(?:the|my|our)\s+)?"
    r"(?:(?:final|correct|right|best|short)\s+){0,2}answer(?:\s+to\s+(?:the|this|your)\s+question)?(?:[*_]{1,3}(?=[\s:=]))?"
    r"(?:\s+(?:is|would\s+be|should\s+be|must\s+be)(?!\w)\s*[:=]?|\s*[:=])(?(open)(?:[*_]{1,3}(?=\s))?)\s*(.*)",
    re.DOTALL | re.IGNORECASE,
)
_INNER_FONT = re.compile(_FONT + r"([^{}]*)\}")
_INNER_FORMULA = re.compile(r"\$(?=\S)([^$]+)(?<=\S)\$(?!\d)|\\\(((?:[^\\]|\\[^()])+)\\\)")
_INNER_EMPHASIS = re.compile(r"(?<![\w*_`~])(\*{1,3}|_{1,3}|`|~~)(?=[^\s*_`~])([^*_`~]+)(?<=\S)\1(?![\w*_`~])")


def closing_brace(text: str, start: int) -> int | None:
    """The position of the brace that closes the one before `start`; escaped braces do not count."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.start()
    return None


def _inside(pattern: re.Pattern[str]) -> Peeler:
    """What the last group of a pattern is, where all of the text is as it says."""

    def peel(text: str) -> str | None:
        found = pattern.fullmatch(text)
        return found[found.lastindex or 0] if found else None

    return peel


def _font(text: str) -> str | None:
    opening = _OPENING_FONT.match(text)
    if opening is None:
        switch = _OPENING_SWITCH.match(text)
        return text[switch.end() :] if switch else None
    return text[opening.end() : -1] if closing_brace(text, opening.end()) == len(text) - 1 else None


def _emphasis(text: str) -> str | None:
    mark = text[:1]
    if not mark or mark not in "*_`~":
        return None
    if fenced := _FENCE.fullmatch(text):
        return fenced.group(1)
    count = len(text) - len(text.lstrip(mark))
    inner = text[count:-count]
    known = count == 2 if mark == "~" else count <= 3
    return inner if known and text.endswith(mark * count) and mark not in inner else None


def _quotes(text: str) -> str | None:
    if text.startswith("``") and text.endswith("''") and not {"`", "'"} & set(text[2:-2]):
        return text[2:-2]
    inner = text[1:-1]
    closes = bool(inner) and text[-1] in _QUOTES.get(text[0], "")
    return inner if closes and text[0] not in inner and text[-1] not in inner else None


def _brackets(text: str) -> str | None:
    closing = _BRACKETS.get(text[:1])
    if closing is None or text[-1] != closing or _SEVERAL.search(text):
        return None
    depth = 0
    for character in text[1:-1]:
        depth += (character == text[0]) - (character == closing)
        if depth < 0:
            return None
    return text[1:-1] if depth == 0 else None


def _full_stop(text: str) -> str | None:
    return text[:-1] if text.endswith(".") and not text.endswith("..") else None


def _inner_marks(text: str) -> str | None:
    """Fonts and emphasis within the text, as in `**B.** a dog`."""
    plain = text
    for pattern in (_INNER_FONT, _INNER_FONT, _INNER_FORMULA, _INNER_EMPHASIS, _INNER_EMPHASIS):
        plain = pattern.sub(lambda found: found[found.lastindex or 0], plain)
    return None if plain == text else plain


#: How a text is set: takes no sign off that a reader would see.
MARKUP: tuple[Peeler, ...] = (_font, _inside(_FORMULA), _emphasis, _inside(_TAG), _inside(_HEADING))
#: `MARKUP`, quotes, "The answer is", a final full stop: does not change what a formula means.
AROUND_FORMULAS: tuple[Peeler, ...] = (*MARKUP, _quotes, _full_stop, _inside(_DECLARATION))
#: All of it.
ALL: tuple[Peeler, ...] = (*MARKUP, _quotes, _brackets, _full_stop, _inside(_DECLARATION), _inner_marks)


def layers(text: str, peelers: Sequence[Peeler] = ALL) -> list[str]:
    """A text without 0, 1, 2, ... of its decorations: `**(B)**`, `(B)`, `B`. Linear time."""
    found = [text.strip()]
    while len(found) <= _MOST_LAYERS and len(found[0]) <= _LONGEST:
        inner = next((inner for peel in peelers if (inner := peel(found[-1])) is not None and inner.strip()), None)
        if inner is None:
            break
        found.append(inner.strip())
    return found


def core(text: str) -> str:
    """A text without any decoration."""
    return layers(text)[-1]


def unwrapped(text: str) -> str:
    r"""A text of data without `\text{...}` or `$...$` around it: its quotes and stars are meant."""
    return layers(text, (_font, _inside(_FORMULA)))[-1]
