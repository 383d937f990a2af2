"""The agent's seat: one environment, the conversation as a model would see it, and what a person fills in there.

An operation has one field per argument, made from its JSON schema. The same fields make the help of the terminal and
the forms of the page, and read what was typed there::

    bbox_2d=0.1,0.2,0.4,0.5      numbers of one box, point or line: commas or blanks between them
    boxes=0,0,1,1;2,2,3,3        several of them: semicolons or line ends between them
    labels="a door;a window"     texts likewise
    [[0, 0, 1, 1]]               JSON does everywhere, too
"""

from __future__ import annotations

import inspect
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import numpy as np

from pxr_env.coordinates import Frame
from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import DataError, did_you_mean, quote
from pxr_env.operations import Operation
from pxr_env.types import SAMPLE_FACTS, OperationCall

#: Kind of an argument -> what is to be filled in.
KINDS = {
    "box": "x1,y1,x2,y2", "line": "x1,y1,x2,y2", "point": "x,y", "boxes": "x1,y1,x2,y2;...",
    "lines": "x1,y1,x2,y2;...", "points": "x,y;...", "image": "the number of an image",
    "images": "numbers of images: 1,3,5", "integer": "an integer", "number": "a number", "choice": "one of the options",
    "flag": "true or false", "text": "text", "texts": "text;text;...", "json": "JSON",
}  # fmt: skip
#: Kinds that are drawn onto an image -> how many numbers one shape has.
DRAWN = {"box": 4, "line": 4, "point": 2, "boxes": 4, "lines": 4, "points": 2}
#: Kinds of several shapes -> the kind of one.
SEVERAL = {"boxes": "box", "lines": "line", "points": "point"}
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of the conversation: exactly the text that a model would read or write, after the images."""

    role: str  # "system", "user" (the environment) or "assistant" (who sits here)
    text: str
    images: tuple[int, ...] = ()  # their numbers


class Seat:
    """Plays episodes of an environment, which may have wrappers, and keeps what was said and shown in the present one.

    Every turn goes through the environment's dialect and its `step`, as a model's would.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        self._wrapped = env
        self.env = cast(VisualReasoningEnv, env.unwrapped)  # below its wrappers
        self.info: dict[str, Any] = {}  # what it said last
        self._clear()

    def _clear(self) -> None:
        self.messages: list[Message] = []
        self.images: list[np.ndarray] = []  # uint8 HxWx3, image number n at n - 1
        self.reward: float | None = None  # of the episode once it is over, the sum over its turns
        # What the turns so far were paid, in all and by term.
        self._return, self._paid = 0.0, dict[str, float]()

    @property
    def is_over(self) -> bool:
        """Whether no episode is running."""
        return self.reward is not None or not self.messages

    def start(self, *, seed: int | None = None, sample_id: str | None = None) -> Message:
        """Begins an episode and returns its first message; without arguments the sample is drawn.

        ValueError for a negative seed, an unknown id, or a sample that cannot be shown; after the first two the running
        episode goes on.
        """
        if seed is not None and seed < 0:
            raise ValueError(f"got the seed {seed}, expected an integer of at least 0.")
        ids = self.env.data.sample_ids()
        if sample_id is not None and sample_id not in ids:
            raise DataError(
                f'got the sample "{quote(sample_id)}", expected one of {len(ids)} ids, "{ids[0]}" to "{ids[-1]}".'
                f"{did_you_mean(sample_id, ids)}"
            )
        self._clear()
        options = None if sample_id is None else {"sample_id": sample_id}
        observation, self.info = self._wrapped.reset(seed=seed, options=options)
        self.messages.append(Message(role="system", text=self.info["system_prompt"]))
        return self._show(observation)

    def call(self, operation: str, arguments: Mapping[str, Any]) -> Message:
        """Calls an operation, see `send`; ValueError too if the dialect cannot express the call."""
        return self.send(self.env.dialect.render_call(OperationCall(name=operation, arguments=arguments)))

    def answer(self, text: str) -> Message:
        """Gives the final answer, see `send`; ValueError too if the dialect cannot express it."""
        return self.send(self.env.dialect.render_answer(text))

    def send(self, turn: str) -> Message:
        """Sends a turn exactly as a model would write it, and returns the reply; ValueError if the episode is over."""
        if self.is_over:
            raise ValueError("got a turn after the end of the episode, expected a new episode first.")
        observation, reward, terminated, truncated, self.info = self._wrapped.step(turn)
        self.messages.append(Message(role="assistant", text=turn))
        self._return += float(reward)
        for name, value in self.info["reward_terms"].items():
            self._paid[name] = self._paid.get(name, 0.0) + value
        if terminated or truncated:
            self.reward = self._return
        return self._show(observation)

    def sent(self) -> list[str]:
        """The turns so far, as they were sent."""
        return [message.text for message in self.messages if message.role == "assistant"]

    def outcome(self) -> list[str]:
        """How the episode ended, and what could not be told before, line by line."""
        info = self.info
        limit = info.get("truncated_by")
        given = "no answer" if info["answer"] is None else f'"{info["answer"]}"'
        terms = " ".join(f"{name} {value:+g}" for name, value in self._paid.items())
        lines = [f"over, truncated by {limit}" if limit else "over"]
        lines.append(f'answer {given}, target "{info["target"]}": {"correct" if info["correct"] else "not correct"}')
        lines.append(f"reward {self.reward:g} = {terms}")
        if info["failures"]:
            lines.append("refused: " + ", ".join(f"{name} {count}" for name, count in info["failures"].items()))
        return lines + [f"{name} {info[name]}" for name in SAMPLE_FACTS if name in info]

    def _show(self, observation: Mapping[str, Any]) -> Message:
        first = len(self.images) + 1
        self.images += observation["images"]
        message = Message(role="user", text=observation["text"], images=tuple(range(first, len(self.images) + 1)))
        if message.text or message.images:
            self.messages.append(message)
        return message


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One argument of an operation, as a person fills it in."""

    name: str
    kind: str  # one of `KINDS`
    schema: Mapping[str, Any]
    required: bool
    default: Any = None  # what leaving it out means; None if nothing in particular

    @property
    def expects(self) -> str:
        """What to fill in, in a few words."""
        if self.kind == "choice":
            return " or ".join(map(str, self.schema["enum"]))
        words = KINDS[self.kind]
        if self.kind in ("integer", "number"):
            words += f" from {self.schema['minimum']}" if "minimum" in self.schema else ""
            words += f" to {self.schema['maximum']}" if "maximum" in self.schema else ""
        return words

    def read(self, text: str) -> Any:
        """The value that was typed; a ValueError for the person if it is none of this kind.

        Ranges and counts are left to the environment, whose text a model would read.
        """
        text = text.strip()
        try:
            return self._value(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{self.name} is "{quote(text)}"; expected {self.expects}.') from error

    def _value(self, text: str) -> Any:
        if self.kind == "json" or (text.startswith(("[", "{")) and self.kind not in ("text", "choice")):
            return json.loads(text, parse_constant=_no_constant)
        if self.kind in SEVERAL:
            return [[_number(part) for part in _parts(item)] for item in _items(text)]
        match self.kind:
            case "integer" | "image":
                return int(text)
            case "number":
                return _number(text)
            case "images":
                return [int(part) for part in _parts(text)]
            case "box" | "line" | "point":
                return [_number(part) for part in _parts(text)]
            case "texts":
                return _items(text)
            case "choice":
                return next((option for option in self.schema["enum"] if str(option) == text), text)
            case "flag":
                if text.lower() not in _FLAGS:
                    raise ValueError(text)
                return _FLAGS[text.lower()]
        return text


def fields_of(operation: Operation) -> list[Field]:
    """The fields of an operation, in the order of its schema."""
    parameters = inspect.signature(operation.function).parameters
    required = operation.parameters.get("required", ())
    fields = []
    for name, schema in operation.parameters["properties"].items():
        default = parameters[name].default if name in parameters and name not in required else None
        kind = kind_of(name, schema)
        fields.append(Field(name=name, kind=kind, schema=schema, required=name in required, default=default))
    return fields


def kind_of(name: str, schema: Mapping[str, Any]) -> str:
    """The kind of an argument: what its schema says, and its name where the schema leaves it open.

    Lists of four numbers are boxes unless they are called lines; integers and lists of them count images where
    the name says image or frame.
    """
    words = {word.removesuffix("s") for word in name.split("_")}
    counts_images = bool(words & {"image", "frame"})
    if "enum" in schema:
        return "choice"
    if schema["type"] != "array":
        kinds = {"boolean": "flag", "string": "text", "object": "json", "number": "number"}
        return kinds.get(schema["type"], "image" if counts_images else "integer")
    items = schema.get("items", {})
    if items.get("type") == "array":
        one = kind_of(name, items)
        return next((several for several, kind in SEVERAL.items() if kind == one), "json")
    if items.get("type") == "string":
        return "texts"
    if items.get("type") == "integer" and counts_images:
        return "images"
    n_numbers = schema.get("minItems")
    if items.get("type") not in ("number", "integer") or n_numbers not in (2, 4) or schema.get("maxItems") != n_numbers:
        return "json"
    return "point" if n_numbers == 2 else "line" if "line" in words else "box"


def read_arguments(operation: Operation, texts: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of a call from what was typed for each, blank texts left out; a ValueError for the person."""
    fields = {field.name: field for field in fields_of(operation)}
    for name in texts:
        if name not in fields:
            raise ValueError(
                f'{operation.name} got "{quote(name)}"; expected only {", ".join(fields) or "no arguments"}.'
                f"{did_you_mean(name, fields)}"
            )
    given = {name: text for name, text in texts.items() if text.strip()}
    for field in fields.values():
        if field.required and field.name not in given:
            raise ValueError(f"{operation.name} lacks {field.name}; expected {field.expects}.")
    return {name: fields[name].read(text) for name, text in given.items()}


def read_call(operation: Operation, text: str) -> dict[str, Any]:
    """The arguments of a call: name=value, or values in the order of the schema; a ValueError for the person."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"a quotation is not closed ({error}); expected a second quotation mark.") from error
    texts: dict[str, str] = {}
    unnamed: list[str] = []
    for word in words:
        match = re.fullmatch(r"([A-Za-z_]\w*)=(.*)", word, re.DOTALL)
        if match is None:
            unnamed.append(word)
        elif match[1] in texts:
            raise ValueError(f"got {match[1]} twice, expected it once.")
        else:
            texts[match[1]] = match[2]
    for field in fields_of(operation):
        if unnamed and field.name not in texts:
            count = _n_words(field, unnamed)
            texts[field.name] = ",".join(unnamed[:count])
            unnamed = unnamed[count:]
    if unnamed:
        raise ValueError(f'"{" ".join(unnamed)}" is left over; expected {usage(operation)}.')
    return read_arguments(operation, texts)


def _n_words(field: Field, words: list[str]) -> int:
    """How many words the next argument takes: the numbers of a box or of several images may be apart."""
    if words[0].startswith("[") or "," in words[0] or field.kind in SEVERAL:
        return 1
    return len(words) if field.kind == "images" else DRAWN.get(field.kind, 1)


def usage(operation: Operation) -> str:
    """A call of the operation in one line, with what is optional in brackets."""
    names = [field.name if field.required else f"[{field.name}]" for field in fields_of(operation)]
    return " ".join([operation.name, *names])


def explain(operation: Operation, frame: Frame) -> str:
    """The help of an operation: its usage, what it does, and its arguments."""
    fields = fields_of(operation)
    width = max((len(field.name) for field in fields), default=0)
    lines = [usage(operation), f"  {operation.description}", ""]
    for field in fields:
        about = field.schema.get("description", "")
        optional = "" if field.required else " (optional)"
        lines.append(f"  {field.name:<{width}}  {field.expects}{optional}{'. ' + about if about else ''}")
    if any(field.kind in DRAWN for field in fields):
        lines += ["", f"  {frame.description}"]
    return "\n".join(lines)


def _number(text: str) -> int | float:
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _parts(text: str) -> list[str]:
    return re.split(r"\s*,\s*|\s+", text)


def _items(text: str) -> list[str]:
    return [item.strip() for item in re.split(r"[;\n]", text) if item.strip()]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
