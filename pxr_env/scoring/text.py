r"""Texts as scorers compare them, and the scorer that wants them equal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from pxr_env.decorations import core, layers, unwrapped
from pxr_env.scoring.registry import register_scorer
from pxr_env.types import Sample

# Soft hyphens, zero-width blanks and marks of writing direction: nobody sees them. Zero-width joiners change letters.
_INVISIBLE = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
# Decompositions of one character in another width or shape. Raised, lowered, circled characters and fractions are
# characters of their own: ten squared is not 102.
_SAME_CHARACTER = frozenset(
    {"<wide>", "<narrow>", "<small>", "<vertical>", "<noBreak>", "<initial>", "<medial>", "<final>", "<isolated>"}
)


def visible(text: str) -> str:
    """Returns the text in NFC and plain widths, visible characters only, blanks joined: the same to a reader's eye."""
    text = _NOT_ASCII.sub(_plain_width, unicodedata.normalize("NFC", _INVISIBLE.sub("", text)))
    return " ".join(text.split())


def _plain_width(found: re.Match[str]) -> str:
    character = found.group()
    kind = unicodedata.decomposition(character).partition(" ")[0]
    plain = unicodedata.normalize("NFKC", character)
    is_ligature = kind == "<compat>" and unicodedata.category(character)[0] == "L" and plain.isalpha()
    return plain if kind in _SAME_CHARACTER or is_ligature else character


def _without_stop(text: str) -> str:
    return text[:-1].rstrip() if text.endswith(".") else text


def normalize(text: str) -> str:
    """Returns the text undecorated, as `visible` writes it, without one final full stop, and case folded."""
    return _folded(core(text))


def _folded(text: str) -> str:
    return _without_stop(visible(text)).casefold()


def meant(answer: str, texts: Sequence[str]) -> list[int]:
    """Returns which of the texts an answer says: their indexes, several where it does not tell them apart.

    The answer as it stands counts before the answer without its decorations, see `matches`.
    """
    several: list[int] = []
    for layer in layers(answer):
        found = matches(layer, texts)
        if len(found) == 1:
            return found
        several = several or found
    return several


def matches(written: str, texts: Sequence[str]) -> list[int]:
    """Returns which of the texts a text is: their indexes, several where it does not tell them apart.

    Texts that are equal letter by letter count before those that are equal without a final full stop, and those before
    texts that differ in case.
    """
    accepted = [visible(text) for text in texts]
    written = visible(written)
    bare = _without_stop(written)
    several: list[int] = []
    for key, known in (
        (written, accepted),
        (bare, [_without_stop(text) for text in accepted]),
        (bare.casefold(), [_without_stop(text).casefold() for text in accepted]),
        (bare.casefold(), [_folded(unwrapped(text)) for text in texts]),
    ):
        found = [index for index, other in enumerate(known) if other == key]
        if len(found) == 1:
            return found
        several = several or found
    return several


@register_scorer("exact", source="the texts are equal after the normalization in docs/scoring.md")
def exact(answer: str, sample: Sample) -> float:
    """The answer says one of the accepted answers, see `meant`."""
    return float(bool(meant(answer, sample.answers)))
