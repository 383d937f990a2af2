"""What a server of chat completions says: the shapes of an answer, and those of an error.

Servers agree on little beside `choices[0].message.content`. Whatever else is valid is read here; what is not raises
`NoReply`, which names what came. There is no silent empty turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pxr_env.errors import quote, show

#: Words of other servers for the two ends of a turn.
_FINISH = {
    "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop", "eos": "stop",
    "max_tokens": "length", "model_length": "length",
}  # fmt: skip
#: Ends that are the server's failure, by how they begin. Whatever text came with them is no turn of the model.
_FAILED = ("error", "abort", "cancel", "fail", "content_filter", "content-filter", "safety", "recitation", "blocklist")
_FILTERED = ("content_filter", "content-filter", "safety", "recitation", "blocklist")

#: Parts of a content that is a list: type -> the field that holds its words.
_WORDS = {"text": "text", "output_text": "text", "input_text": "text", "refusal": "refusal"}
_THOUGHTS = {"thinking": "thinking", "reasoning": "text", "reasoning_text": "text", "redacted_thinking": ""}

#: How servers say that a conversation does not fit the model's context, each from a real message (the tests have them).
#: {start}: where a message begins, which others may quote.
_TOO_LONG = re.compile(
    "|".join(
        (
            r"context_length_exceeded|exceed_context_size_error",
            # OpenAI, vLLM, DeepSeek, OpenRouter; SGLang; xAI
            r"maximum (?:context|prompt) length (?:is|of) \d+",
            # vLLM beside images, by version
            r"prompt \((?:total )?length \d+\)[^.]* (?:too long to fit into the model|longer than the maximum model)",
            r"{start}max_(?:completion_)?tokens must be at least 1, got -\d+",
            # SGLang
            r"input \(\d+ tokens\) is longer than the model's context length",
            r"{start}Multimodal prompt is too long after expanding multimodal tokens",
            # llama.cpp, llama-cpp-python, LM Studio
            r"exceeds the available context size|{start}Context size has been exceeded",
            r"{start}Requested tokens \(\d+\) exceed context window of \d+",
            r"model is loaded with context length of only \d+ tokens",
            # TGI, Together
            r"`inputs` (?:tokens \+ `max_new_tokens` must be <=|must have less than) \d+",
            # Anthropic, Fireworks, Gemini, Bedrock, Mistral, Cohere, DashScope
            r"prompt is too long: \d+",
            r"{start}input length and `max_tokens` exceed context limit",
            r"input token count \(\d+\) exceeds the maximum number of tokens allowed",
            r"{start}Input is too long for requested model",
            r"{start}Prompt contains \d+ tokens.* too large for model with \d+ maximum context length",
            r"{start}too many tokens: ",
            r"Range of input length should be \[\d+, ?\d+\]",
        )
    ).replace("{start}", "(?:^|[:-] )"),
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerCall:
    """A call that the server took out of the model's text."""

    name: str  # of the function
    arguments: str  # as JSON text, as the server wrote it


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One completion."""

    text: str  # what the model said
    reasoning: str = ""  # its thoughts, where the server reports them apart
    calls: tuple[ServerCall, ...] = ()  # those that the server took out of the text, in order
    finish_reason: str | None = None  # "stop", "length", or the server's own word
    stop_reason: str | None = None  # the stop string that ended it, where the server tells (vLLM does)
    prompt_tokens: int | None = None  # what the server counted, None if it did not
    completion_tokens: int | None = None
    served: str = ""  # the model and the system fingerprint as the server names them
    attempts: int = 1  # how often it was asked
    has_logprobs: bool = False


class NoReply(Exception):
    """JSON came that is no turn of the model.

    `status`: the HTTP status that an error inside the JSON names. `of_question`: it says something about this question,
    and nothing about the server.
    """

    def __init__(self, reason: str, *, status: int | None = None, of_question: bool = False) -> None:
        super().__init__(reason)
        self.status, self.of_question = status, of_question


def read_reply(payload: Any) -> Reply:
    """What a completion says; NoReply if it is none, or one that the server broke off."""
    choice = _choice(payload)
    finish = _finish(choice)
    message = choice["message"] if "message" in choice else {"content": choice.get("text")}
    if not isinstance(message, Mapping):
        raise _unreadable(payload)
    text, reasoning = _content(message)
    # The thoughts that a server reports apart, by the names that servers give them.
    apart = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
    reasoning = reasoning or next(filter(None, (_text_of(message.get(name)) for name in apart)), "")
    calls = _calls(message)
    refusal = message.get("refusal")
    if not text and isinstance(refusal, str):
        text = refusal
    usage = payload.get("usage")
    written = _count(usage, "completion_tokens")
    if not text and not calls:
        if reasoning and finish != "length":
            # With a reasoning parser and thinking off, the whole answer arrives as thoughts.
            text, reasoning = reasoning, ""
        elif not reasoning and finish != "length" and written not in (0, 1):
            fields = ", ".join(sorted(name for name, value in message.items() if value and name != "role")) or "nothing"
            tokens = "" if written is None else f", {written} tokens written"
            raise NoReply(f"an empty turn came (finish_reason {show(finish)}{tokens}; the message holds {fields})")
    stop_reason = choice.get("stop_reason")
    names = (payload.get("model"), payload.get("system_fingerprint"))
    return Reply(
        text=text,
        reasoning=reasoning,
        calls=calls,
        finish_reason=finish,
        stop_reason=stop_reason if isinstance(stop_reason, str) else None,
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=written,
        served=" ".join(quote(name) for name in names if isinstance(name, str)),
        has_logprobs=bool(choice.get("logprobs")),
    )


def error_text(payload: Any) -> str | None:
    """What a JSON object says is wrong, on one line; None if it names no error."""
    if not isinstance(payload, Mapping):
        return None
    error = payload.get("error")
    if isinstance(error, Mapping):
        message = error.get("message")
        if isinstance(message, str):
            words = [word for word in (error.get("code"), error.get("type")) if isinstance(word, str)]
            return quote(f"{message} ({words[0]})" if words else message, 300)
        return show(dict(error), 300)
    # Older vLLM; FastAPI, whose details may be a list.
    said = error or payload.get("message") or payload.get("detail")
    if not said:
        return None
    return quote(said, 300) if isinstance(said, str) else show(said, 300)


def is_too_long(text: str) -> bool:
    """Whether the text of an error says that the conversation does not fit the model's context."""
    return _TOO_LONG.search(text) is not None


def _choice(payload: Any) -> Mapping[str, Any]:
    """The first choice of a completion."""
    choices = payload.get("choices") if isinstance(payload, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    # An error with status 200, from those who forward requests to others.
    broken = next((holder for holder in (choice, payload) if isinstance(holder, Mapping) and holder.get("error")), None)
    if broken is None and choice is None:
        broken = payload
    if said := error_text(broken):
        raise NoReply(f"an error came with status 200: {said}", status=_status(broken))
    if not isinstance(choice, Mapping) or not ("message" in choice or isinstance(choice.get("text"), str)):
        raise _unreadable(payload)
    return choice


def _status(payload: Any) -> int | None:
    """The HTTP status that an error names."""
    error = payload.get("error")
    code = error.get("code") if isinstance(error, Mapping) else payload.get("code")
    if isinstance(code, str) and code.isascii() and code.isdecimal():
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else None


def _finish(choice: Mapping[str, Any]) -> str | None:
    """How the turn ended, in the server's word or the usual one; NoReply if by the server's failure."""
    finish = choice.get("finish_reason")
    if isinstance(finish, Mapping):
        finish = finish.get("type")
    if not isinstance(finish, str):
        return None
    word = finish.lower()
    if word.startswith(_FAILED):
        filtered = word.startswith(_FILTERED)
        what = "its content filter kept the answer back" if filtered else "the server broke the turn off"
        raise NoReply(f"{what} (finish_reason {show(finish)})", of_question=filtered)
    return _FINISH.get(word, finish)


def _content(message: Mapping[str, Any]) -> tuple[str, str]:
    """The words and the thoughts of a message's content, which is a text, nothing, or a list of parts."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or "", ""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise NoReply(f"a completion came whose content is {show(content)}; expected text, or a list of parts")
    words, thoughts = [], []
    for part in content:
        if isinstance(part, str):
            part = {"text": part}
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        if kind in _WORDS and isinstance(part.get(_WORDS[kind]), str):
            words.append(part[_WORDS[kind]])
        elif kind in _THOUGHTS:
            thoughts.append(_text_of(part.get(_THOUGHTS[kind]) or part.get("summary")))
        else:
            raise NoReply(f"a completion came with the part {show(part)}; expected parts of text or thoughts")
    return "".join(words), "".join(thoughts)


def _text_of(value: Any) -> str:
    """The words in a text, in an object with `text` or `summary`, or in a list of them."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_text_of, value))
    if isinstance(value, Mapping):
        return _text_of(value.get("text") or value.get("summary") or value.get("thinking"))
    return ""


def _calls(message: Mapping[str, Any]) -> tuple[ServerCall, ...]:
    """The calls that the server read, as `tool_calls` or as the older `function_call`."""
    older = message.get("function_call")
    given = message.get("tool_calls") or ([{"function": older}] if older else [])
    calls = []
    for entry in given if isinstance(given, list) else [given]:
        function = entry.get("function", entry) if isinstance(entry, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str):
            raise NoReply(f"a completion came with the call {show(entry)}; expected a function with a name")
        arguments = function.get("arguments") or {}
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append(ServerCall(name=name, arguments=text))
    return tuple(calls)


def _unreadable(payload: Any) -> NoReply:
    return NoReply(f"JSON came that is no completion: {show(payload, 120)}")


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
