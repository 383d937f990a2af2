"""What servers say: every shape of an answer and of an error that is known, each as a server really wrote it."""

from __future__ import annotations

from typing import Any

import pytest

from pxr_agents.chat_reply import NoReply, ServerCall, error_text, is_too_long, read_reply


def completion(message: dict[str, Any] | None = None, finish: Any = "stop", **choice: Any) -> dict[str, Any]:
    said = {} if message is None else {"message": {"role": "assistant", **message}}
    return {"model": "m", "choices": [{"index": 0, "finish_reason": finish, **said, **choice}], "usage": None}


CALL = {"id": "1", "type": "function", "function": {"name": "zoom_in", "arguments": '{"target_image": 1}'}}


@pytest.mark.parametrize(
    ("payload", "text", "reasoning"),
    [
        (completion({"content": "B"}), "B", ""),
        (completion({"content": "B", "reasoning_content": "hm"}), "B", "hm"),
        (completion({"content": "B", "reasoning": "hm", "reasoning_content": None}), "B", "hm"),
        (completion({"content": "B", "reasoning_content": "hm", "reasoning": "hm"}), "B", "hm"),
        (completion({"content": "B", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}), "B", "hm"),
        (completion({"content": "B", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}), "B", ""),
        # The whole answer as thoughts.
        (completion({"content": None, "reasoning_content": "B"}), "B", ""),
        (completion({"content": "", "reasoning": "B"}), "B", ""),
        (completion({"reasoning": "B"}), "B", ""),
        # Thoughts that the limit cut are no answer.
        (completion({"content": None, "reasoning_content": "perhaps A"}, "length"), "", "perhaps A"),
        (completion({"content": None}, "length"), "", ""),
        # A list of parts.
        (completion({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), "ab", ""),
        (completion({"content": [{"type": "output_text", "text": "a", "annotations": []}]}), "a", ""),
        (completion({"content": ["a", "b"]}), "ab", ""),
        (completion({"content": {"type": "text", "text": "a"}}), "a", ""),
        (
            completion(
                {
                    "content": [
                        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                        {"type": "text", "text": "B"},
                    ]
                }
            ),
            "B",
            "hm",
        ),
        (completion({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "B"}]}), "B", "hm"),
        (completion({"content": [{"type": "refusal", "refusal": "I cannot."}]}), "I cannot.", ""),
        (completion({"content": None, "refusal": "I cannot."}), "I cannot.", ""),
        (completion({"content": "B", "refusal": None}), "B", ""),
        # The older shape.
        (completion(text="B"), "B", ""),
        ({**completion({"content": "B"}), "error": None}, "B", ""),
        # One token, which is the end of the turn: the model really said nothing.
        ({**completion({"content": ""}), "usage": {"completion_tokens": 1}}, "", ""),
    ],
)
def test_every_shape_of_an_answer_is_read(payload: Any, text: str, reasoning: str) -> None:
    reply = read_reply(payload)
    assert (reply.text, reply.reasoning, reply.calls) == (text, reasoning, ())


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ({"content": None, "tool_calls": [CALL]}, ['{"target_image": 1}']),
        ({"content": "", "tool_calls": [CALL, CALL]}, ['{"target_image": 1}', '{"target_image": 1}']),
        ({"content": "I look.", "tool_calls": [CALL], "reasoning_content": "hm"}, ['{"target_image": 1}']),
        (
            {"tool_calls": [{"function": {"name": "zoom_in", "arguments": {"target_image": 1}}}]},
            ['{"target_image": 1}'],
        ),
        ({"content": None, "tool_calls": [{"name": "zoom_in", "arguments": None}]}, ["{}"]),
        ({"content": None, "function_call": {"name": "zoom_in", "arguments": ""}}, ["{}"]),
        ({"content": None, "tool_calls": [], "function_call": {"name": "zoom_in", "arguments": "{"}}, ["{"]),
    ],
)
def test_calls_that_a_server_took_out_are_read(message: dict[str, Any], arguments: list[str]) -> None:
    reply = read_reply(completion(message, "tool_calls"))
    assert reply.calls == tuple(ServerCall(name="zoom_in", arguments=text) for text in arguments)
    assert reply.text == (message.get("content") or "")


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (completion({"content": None}), r'an empty turn came \(finish_reason "stop"; the message holds nothing\)'),
        (completion({"content": ""}), "an empty turn"),
        (completion({}), "an empty turn"),
        (completion({"content": []}), "an empty turn"),
        (completion({"content": None, "audio": {"data": "x"}}), "the message holds audio"),
        ({**completion({"content": ""}), "usage": {"completion_tokens": 9}}, "9 tokens written"),
        (completion({"content": 5}), "whose content is 5"),
        (completion({"content": [{"type": "image_url"}]}), r'with the part \{"type": "image_url"\}'),
        (completion({"content": [5]}), "with the part 5"),
        (completion({"content": None, "tool_calls": [{"function": {"arguments": "{}"}}]}), "with the call"),
        (completion({"content": None, "tool_calls": [5]}), "with the call 5"),
        (completion(), "no completion"),
        (completion(delta={"content": "B"}), "no completion"),
        (completion(message=None), "no completion"),
        ({"choices": []}, r'no completion: \{"choices": \[\]\}'),
        ({}, "no completion"),
        ([], "no completion"),
        (None, "no completion"),
        ("B", "no completion"),
    ],
)
def test_what_is_no_answer_is_named(payload: Any, named: str) -> None:
    with pytest.raises(NoReply, match=named) as raised:
        read_reply(payload)
    assert (raised.value.status, raised.value.of_question) == (None, False)


@pytest.mark.parametrize(
    ("payload", "named", "status"),
    [
        ({"choices": None, "error": {"message": "Provider returned error", "code": 429}}, "Provider returned", 429),
        ({"error": {"message": "flagged", "code": 502}}, "flagged", 502),
        ({"error": {"message": "busy", "code": "503"}}, "busy", 503),
        ({"error": {"message": "m is not loaded", "code": "model_error"}}, r"not loaded \(model_error\)", None),
        ({"error": "busy"}, "busy", None),
        ({"object": "error", "message": "At most 1 image(s)", "code": 400}, r"At most 1 image\(s\)", 400),
        ({"detail": "Not authenticated"}, "Not authenticated", None),
        ({"detail": [{"msg": "field required"}]}, "field required", None),
        (completion({"content": ""}, "error", error={"message": "Upstream", "code": 504}), "Upstream", 504),
        ({**completion({"content": "half"}), "error": {"message": "cut", "code": 500}}, "cut", 500),
    ],
)
def test_an_error_with_status_200_is_an_error(payload: Any, named: str, status: int | None) -> None:
    with pytest.raises(NoReply, match=f"an error came with status 200: .*{named}") as raised:
        read_reply(payload)
    assert raised.value.status == status


@pytest.mark.parametrize(
    ("finish", "of_question"),
    [
        *((word, False) for word in ("error", "abort", {"type": "abort", "message": "x"}, "cancelled")),
        *((word, True) for word in ("content_filter", "content_filter: RECITATION", "SAFETY")),
    ],
)
def test_a_turn_that_the_server_broke_off_is_no_turn(finish: Any, of_question: bool) -> None:
    with pytest.raises(NoReply, match="finish_reason") as raised:
        read_reply(completion({"content": r"\boxed{A}"}, finish))
    assert raised.value.of_question is of_question


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        *((word, "stop") for word in ("stop", "eos_token", "stop_sequence", {"type": "stop"})),
        *((word, "length") for word in ("length", "MAX_TOKENS", "model_length")),
        *((word, word) for word in ("tool_calls", "something_new", None)),
    ],
)
def test_how_a_turn_ended_is_kept(finish: Any, expected: str | None) -> None:
    assert read_reply(completion({"content": "B"}, finish)).finish_reason == expected


#: From the documentation, the source or the trackers of the servers named, some cut short.
TOO_LONG = [
    # OpenAI
    "This model's maximum context length is 4097 tokens. However, your messages resulted in 6988 tokens.",
    "Your input exceeds the context window of this model. (context_length_exceeded)",
    # vLLM, by version
    "This model's maximum context length is 16384 tokens. However, you requested 19591 tokens (9591 in the messages",
    "This model's maximum context length is 262144 tokens. However, you requested 128000 output tokens and your prompt",
    "This model's maximum context length is 2048 tokens. However, your prompt contains 90000 characters (more than",
    "The prompt (total length 25938) is too long to fit into the model (context length 4096). Make sure that",
    "The decoder prompt (length 337896) is longer than the maximum model length of 128000. Make sure that",
    "The decoder prompt (length 2048) plus the number of requested output tokens (at least 1) is longer than the "
    "maximum model length of 2048. Make sure that `max_model_len` is no smaller than the number of text tokens.",
    "max_tokens must be at least 1, got -186.",
    # SGLang
    "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
    "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a total of 9000",
    "Multimodal prompt is too long after expanding multimodal tokens. After expanding ",
    # llama.cpp, by version; llama-cpp-python; LM Studio
    "the request exceeds the available context size. try increasing the context size or enable context shift",
    "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "the request is too large (exceed_context_size_error)",
    "Context size has been exceeded.",
    "Requested tokens (2285) exceed context window of 2048",
    "Trying to keep the first 10136 tokens when context the overflows. However, the model is loaded with context "
    "length of only 7866 tokens, which is not enough.",
    # TGI, and hosts that use it
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 1512. Given: 1000 `inputs` tokens and 1024",
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 1872",
    # OpenRouter, Anthropic, Fireworks, Gemini, Mistral, Cohere, Bedrock, xAI, DashScope
    "This endpoint's maximum context length is 65536 tokens. However, you requested about 92208 tokens",
    "prompt is too long: 208310 tokens > 200000 maximum",
    "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length",
    "The prompt is too long: 9023, model maximum context length: 8191",
    "The input token count (314175) exceeds the maximum number of tokens allowed (131072).",
    "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    "too many tokens: size limit exceeded by 5013 tokens. Try using shorter or fewer inputs.",
    "Input is too long for requested model.",
    "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]",
]

#: Errors with some of the same words that say something else.
NOT_TOO_LONG = [
    "At most 1 image(s) may be provided in one request.",
    "max_tokens is too large: 100000. This model supports at most 4096 completion tokens.",
    "Request too large for model on tokens per minute (TPM): Limit 6000, Requested 7021, please reduce your message "
    "size and try again.",
    "Rate limit reached: too many tokens per minute",
    "max_tokens must be at least 1, got 0.",
    "The image length and width do not match the context.",
    "m is not a multimodal model",
    "no",
    "",
]


@pytest.mark.parametrize(("text", "is_full"), [(t, True) for t in TOO_LONG] + [(t, False) for t in NOT_TOO_LONG])
def test_a_context_that_is_full_is_recognized(text: str, is_full: bool) -> None:
    assert is_too_long(f"status 400: {error_text({'error': {'message': text, 'code': 400}})}") is is_full


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"error": {"message": "no", "code": "bad"}}, "no (bad)"),
        (
            {"error": {"message": "no", "code": 400, "type": "exceed_context_size_error"}},
            "no (exceed_context_size_error)",
        ),
        ({"error": {"message": "no"}}, "no"),
        ({"error": {"reason": "no"}}, '{"reason": "no"}'),
        ({"error": "no"}, "no"),
        ({"object": "error", "message": "no"}, "no"),
        ({"detail": "no"}, "no"),
        ({"error": None}, None),
        ({}, None),
        ([], None),
        ("no", None),
    ],
)
def test_the_text_of_an_error(payload: Any, expected: str | None) -> None:
    assert error_text(payload) == expected
