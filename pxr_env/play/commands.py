"""What a person types in the terminal: short commands for operations, made from their JSON schemas, and their help."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from pxr_env.coordinates import Frame
from pxr_env.geometry import Size
from pxr_env.operations import Operation
from pxr_env.play.fields import DRAWN, Field, fields_of, read_arguments

#: Command -> its argument and what it does, as `help` lists them.
COMMANDS = {
    "answer": ("TEXT", "give the final answer"),
    "raw": ("[TEXT]", "send a turn exactly as a model would write it; alone: several lines, then a line with one dot"),
    "show": ("N", "show image N again"),
    "prompt": ("", "show the system prompt"),
    "next": ("", "begin an episode with a new sample"),
    "again": ("", "begin this sample again"),
    "sample": ("ID", "begin the sample of that id"),
    "help": ("[NAME]", "explain a command or an operation"),
    "quit": ("", "leave; so do end of file and Ctrl-C"),
}

_NAMED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


def read_call(operation: Operation, text: str) -> dict[str, Any]:
    """Returns the arguments of a call: name=value, or values in the order of the schema.

    The numbers of a box may be apart: `zoom_in 0.1 0.2 0.4 0.5 1` is `zoom_in 0.1,0.2,0.4,0.5 1` is
    `zoom_in target_image=1 bbox_2d=0.1,0.2,0.4,0.5`.

    Raises:
        ValueError: what was got and expected; for the person, the environment sees nothing of it.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"a quotation is not closed ({error}); expected a second quotation mark.") from error
    named: dict[str, str] = {}
    places: list[str] = []
    for word in words:
        if match := _NAMED.fullmatch(word):
            name, value = match.groups()
            if name in named:
                raise ValueError(f"got {name} twice, expected it once.")
            named[name] = value
        else:
            places.append(word)
    return read_arguments(operation, named | _by_place(operation, places, named))


def _by_place(operation: Operation, words: list[str], named: Mapping[str, str]) -> dict[str, str]:
    """Gives the words without a name to the arguments that have none, in the order of the schema."""
    open_fields = [field for field in fields_of(operation) if field.name not in named]
    texts = {}
    for field in open_fields:
        if not words:
            break
        count = _n_words(field, words)
        texts[field.name] = ",".join(words[:count])
        words = words[count:]
    if words:
        raise ValueError(f'"{" ".join(words)}" is left over; expected {usage(operation)}.')
    return texts


def _n_words(field: Field, words: list[str]) -> int:
    """How many words the next argument takes: the numbers of a box or of several images may be apart."""
    if words[0].startswith("[") or "," in words[0]:
        return 1
    if field.kind == "images":
        return len(words)
    return DRAWN[field.kind] if field.kind in ("box", "line", "point") else 1


def usage(operation: Operation) -> str:
    """Returns a call of the operation in one line, with what is optional in brackets."""
    names = [field.name if field.required else f"[{field.name}]" for field in fields_of(operation)]
    return " ".join([operation.name, *names])


def example(operation: Operation, frame: Frame, size: Size) -> str:
    """Returns a call that could be typed for an image shown at `size`."""
    fields = fields_of(operation)
    # Where nothing is required, a call without arguments would show nothing.
    chosen = [field for field in fields if field.required]
    chosen += [field for field in fields if not field.required][: 1 if len(chosen) < 2 else 0]
    return " ".join([operation.name, *(f"{field.name}={field.example(frame, size)}" for field in chosen)])


def explain(operation: Operation, frame: Frame, size: Size) -> str:
    """Returns the help of an operation: its usage, what it does, its arguments and an example."""
    fields = fields_of(operation)
    width = max((len(field.name) for field in fields), default=0)
    lines = [usage(operation), f"  {operation.description}", ""]
    for field in fields:
        about = field.schema.get("description", "")
        optional = "" if field.required else " (optional)"
        lines.append(f"  {field.name:<{width}}  {field.expects}{optional}{'. ' + about if about else ''}")
    if any(field.kind in DRAWN for field in fields):
        lines += ["", f"  {frame.description}"]
    return "\n".join([*lines, "", f"  For example: {example(operation, frame, size)}"])


def overview(operations: Mapping[str, Operation]) -> str:
    """Returns what `help` says: the operations, and the other commands."""
    rows = [(usage(operation), operation.description) for operation in operations.values()]
    rows += [(f"{name} {argument}".rstrip(), text) for name, (argument, text) in COMMANDS.items()]
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"  {left:<{width}}  {right}" for left, right in rows)
