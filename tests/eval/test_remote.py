"""Models behind a server: what is sent, what is survived, what is never written."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from eval.__main__ import main
from eval.agents import AgentChoice
from eval.records import RunFiles
from pxr_agents.chat_client import ChatClient, RemoteError, Retries, Server, ServerRefused, Unanswered
from pxr_agents.chat_reply import Reply, ServerCall
from pxr_agents.remote import with_calls, with_stop_string
from pxr_agents.types import Sampling
from pxr_env.coordinates import get_frame
from pxr_env.dialects import get_dialect
from tests.eval.chat_server import ChatServer, Fault, cut, cut_chunks, hang_up, pixels, serve, status, zoom_then_answer
from tests.eval.conftest import ENV_ARGS, ENV_ID, episodes_of, run_evaluation

ROOT = Path(__file__).parents[2]
CANARY = "sk-canary-3141592653589793"
QUICK = Retries(attempts=6, first_wait=0.01, longest_wait=0.02, total=30.0)


def choice(url: str, *, retries: Retries = QUICK, timeout: float = 10.0, **other: Any) -> AgentChoice:
    server = Server(base_url=url, model="m", retries=retries, timeout=timeout)
    values = {"sampling": Sampling(temperature=0.0, max_tokens=64)}
    return AgentChoice(name="openai", model="m", server=server, **{**values, **other})


def client(url: str, **other: Any) -> ChatClient:
    return ChatClient(Server(base_url=url, model="m", **{"retries": QUICK, "timeout": 10.0, **other}))


def echo(handler: Any) -> None:
    """Repeat the key, as hostile servers do."""
    said = f"you sent {handler.headers['Authorization']}"
    status(400, json.dumps({"error": {"message": said}}).encode())(handler)


BODY = {"messages": [{"role": "user", "content": "x"}]}


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_a_conversation_is_sent_as_the_environment_shows_it(tmp_path: Path) -> None:
    server = ChatServer(zoom_then_answer)
    with serve(server) as url:
        run_evaluation(tmp_path / "run", agent=choice(url), limit=1)
    env = gymnasium.make(ENV_ID, **ENV_ARGS)
    first, info = env.reset(options={"sample_id": "test-0"})
    turn = zoom_then_answer(server.bodies[0])
    second, *_ = env.step(turn)
    messages = server.bodies[1]["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"] == info["system_prompt"]
    assert messages[2]["content"] == turn
    for message, observation in ((messages[1], first), (messages[3], second)):
        *images, text = message["content"]
        assert text == {"type": "text", "text": observation["text"]}
        assert len(images) == len(observation["images"]) == 1
        assert np.array_equal(pixels(images[0]), observation["images"][0])
    assert server.bodies[0] == {"model": "m", "temperature": 0.0, "max_tokens": 64, "messages": messages[:2]}
    assert "Authorization" not in server.headers[0]


def test_tokens_and_the_servers_own_name_are_recorded(tmp_path: Path) -> None:
    server = ChatServer(zoom_then_answer)
    with serve(server) as url:
        metrics = run_evaluation(tmp_path / "run", agent=choice(url), limit=3)
    for record in RunFiles(tmp_path / "run").records():
        # Two turns, of two messages with an image and of four with two.
        assert (record.prompt_tokens, record.completion_tokens, record.n_retries) == (87, 14, 0)
        assert record.vision_tokens == 18
    assert metrics["statistics"]["prompt_tokens"] == 87
    assert metrics["served"] == {"m-2026 fp_1": 3}
    manifest = RunFiles(tmp_path / "run").manifest()
    host = url.removeprefix("http://").removesuffix("/v1")
    says = {"id": "m", "root": "/weights", "owned_by": "us"}
    assert manifest["server"] == {"host": host, "base_url": url, "model": "m", "says": says}
    assert manifest["chat_template_sha256"] is None


def test_requests_run_side_by_side_and_never_more_than_asked_for(tmp_path: Path) -> None:
    both = threading.Barrier(3, timeout=20)

    def player(body: dict[str, Any]) -> str:
        # Nobody is answered before three ask at once.
        both.wait()
        return r"\boxed{A}"

    server = ChatServer(player)
    with serve(server) as url:
        run_evaluation(tmp_path / "run", agent=choice(url), limit=9, n_envs=3)
    assert server.most_at_once == 3


def says(content: Any, finish: str = "stop", **choice: Any) -> Fault:
    """A completion of status 200."""
    message = {"content": content}
    return status(200, json.dumps({"choices": [{"message": message, "finish_reason": finish, **choice}]}).encode())


TOO_MANY = status(400, b'{"error": {"message": "At most 1 image(s) may be provided.", "type": "BadRequestError"}}')
FILTERED = says(r"\boxed{Z}", "content_filter")
FAULTS: list[Fault] = [
    *(status(500), status(503, Retry_After="0"), status(429, Retry_After="0"), status(429), status(408)),
    *(cut, cut_chunks, hang_up, status(502, b""), status(200, b"not json"), status(200, b"[]"), status(200, b"null")),
    *(status(200, b"<html>please log in</html>", Content_Type="text/html"), status(200, b'{"choices": []}')),
    status(200, b'{"choices": null, "error": {"message": "Provider returned error", "code": 429}}'),
    *(says(5), says(None), says(""), says(r"\boxed{Z}", "abort"), FILTERED, says(r"\boxed{Z}", "error")),
]


def test_a_server_that_fails_in_every_way_loses_nothing(tmp_path: Path) -> None:
    clean = ChatServer(zoom_then_answer)
    with serve(clean) as url:
        run_evaluation(tmp_path / "clean", agent=choice(url))
    # Every second request fails, in all ways in turn; the last is a turn that the server broke off.
    server = ChatServer(zoom_then_answer, itertools.chain.from_iterable((fault, None) for fault in 2 * FAULTS))
    with serve(server) as url:
        metrics = run_evaluation(tmp_path / "faulty", agent=choice(url), n_envs=1)
    assert metrics["statistics"]["n_errors"] == 0
    assert episodes_of(tmp_path / "faulty") == episodes_of(tmp_path / "clean")
    # 12 episodes of 2 turns: each turn was answered once, however often it had to be asked for.
    assert server.n_answered == 24
    assert len(server.bodies) == 48
    assert sum(record.n_retries for record in RunFiles(tmp_path / "faulty").records()) == 24 >= len(FAULTS)


def test_a_json_answer_of_another_content_type_is_taken() -> None:
    body = json.dumps({"choices": [{"message": {"content": "yes"}}]}).encode()
    server = ChatServer(zoom_then_answer, iter([status(200, body, Content_Type="text/plain")]))
    with serve(server) as url:
        assert client(url).complete(BODY) == Reply(text="yes")


def test_a_question_that_cannot_be_answered_is_counted_apart(tmp_path: Path) -> None:
    def player(body: dict[str, Any]) -> str:
        return r"\boxed{A}"

    server = ChatServer(player, iter([None, TOO_MANY, None]))
    with serve(server) as url:
        metrics = run_evaluation(tmp_path / "run", agent=choice(url), limit=3, n_envs=1)
    assert (metrics["statistics"]["n_episodes"], metrics["statistics"]["n_errors"]) == (2, 1)
    [(reason, count)] = metrics["errors"].items()
    assert "status 400: At most 1 image(s) may be provided. (BadRequestError)" in reason
    assert count == 1
    lost = episodes_of(tmp_path / "run")[1]
    assert (lost.error, lost.steps, lost.correct, lost.answer, lost.truncated_by) == (reason, [], False, None, None)
    # A wrong request is not repeated.
    assert len(server.bodies) == 3

    # Asked again, only what is missing is asked; everything else stays what it was.
    kept = episodes_of(tmp_path / "run")
    with serve(ChatServer(player)) as url2:
        server2 = choice(url2)
        metrics = run_evaluation(tmp_path / "run", agent=server2, limit=3, n_envs=1, retry_errors=True)
    assert metrics["statistics"]["n_errors"] == 0
    again = episodes_of(tmp_path / "run")
    assert (again[0], again[2]) == (kept[0], kept[2])
    assert again[1].answer == "A"


@pytest.mark.parametrize(
    ("fault", "asked", "named"),
    [(TOO_MANY, 1, "At most 1 image"), (FILTERED, 2, "its content filter kept the answer back")],
)
def test_the_trouble_of_questions_stops_nothing(fault: Fault, asked: int, named: str, tmp_path: Path) -> None:
    server = ChatServer(zoom_then_answer, itertools.repeat(fault))
    with serve(server) as url:
        agent = choice(url, retries=Retries(attempts=2, first_wait=0.0))
        metrics = run_evaluation(tmp_path / "run", agent=agent, limit=25, n_envs=4)
    assert (metrics["statistics"]["n_episodes"], metrics["statistics"]["n_errors"]) == (0, 25)
    [(reason, count)] = metrics["errors"].items()
    assert named in reason
    assert count == 25
    assert len(server.bodies) == 25 * asked


def test_a_conversation_that_outgrows_the_context_is_a_wrong_answer(tmp_path: Path) -> None:
    full = status(400, b'{"error": {"message": "This model\'s maximum context length is 512 tokens.", "code": 400}}')
    # Of three episodes the second is full after its first turn, which was a zoom.
    server = ChatServer(zoom_then_answer, iter([None, None, None, full]))
    with serve(server) as url:
        metrics = run_evaluation(tmp_path / "run", agent=choice(url), limit=3, n_envs=1)
    assert len(server.bodies) == 6
    assert (metrics["statistics"]["n_episodes"], metrics["statistics"]["n_errors"]) == (3, 0)
    cut = RunFiles(tmp_path / "run").records()[1]
    assert (cut.episode.truncated_by, cut.episode.answer, cut.episode.correct) == ("context", None, False)
    assert (cut.score, cut.episode.error, cut.episode.usage) == (0.0, None, {"zoom_in": 1})
    assert metrics["statistics"]["truncated_rate"] == pytest.approx(1 / 3)


def test_a_server_that_stays_away_is_given_up_after_as_many_attempts() -> None:
    server = ChatServer(zoom_then_answer, itertools.repeat(status(500)))
    with serve(server) as url:
        with pytest.raises(Unanswered, match=r"127\.0\.0\.1:\d+: status 500: no\. Gave up after 6 attempts"):
            client(url).complete(BODY)
        assert len(server.bodies) == 6
        # A wait that would go beyond the total is not begun.
        patient = Retries(attempts=6, first_wait=1000.0, longest_wait=1000.0, total=1e-6)
        with pytest.raises(Unanswered, match="Gave up after 1 attempts"):
            client(url, retries=patient).complete(BODY)


def test_a_slow_answer_times_out_and_is_asked_for_again() -> None:
    released = threading.Event()

    def stall(handler: Any) -> None:
        released.wait(20)
        handler.close_connection = True

    def drip(handler: Any) -> None:
        # Each byte comes in time, the whole never.
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        try:
            while not released.wait(0.05):
                handler.wfile.write(b" ")
        except OSError:
            pass

    server = ChatServer(lambda body: "late", iter([stall, drip]))
    with serve(server) as url:
        assert client(url, timeout=0.3).complete(BODY).attempts == 3
        server.faults = itertools.repeat(stall)
        with pytest.raises(Unanswered, match=r"no whole answer within 0\.1 s"):
            client(url, timeout=0.1, retries=Retries(attempts=2, first_wait=0.0)).complete(BODY)
        released.set()


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_holds_back_all_threads(as_date: bool) -> None:
    if as_date:
        # Dates have whole seconds: between one and two of them from now.
        header, least = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True), 0.9
    else:
        header, least = "1", 0.95
    server = ChatServer(lambda body: "x", iter([status(429, Retry_After=header)]))
    with serve(server) as url:
        asking, started = client(url), time.monotonic()
        asked = threading.Thread(target=asking.complete, args=(BODY,))
        asked.start()
        while not server.bodies:
            time.sleep(0.005)
        # Until the refusal has arrived.
        while asking._open_at == 0.0:
            time.sleep(0.005)
        asking.complete(BODY)
        assert time.monotonic() - started >= least
        asked.join(20)
    assert server.n_answered == 2


def test_a_server_that_wants_to_be_left_alone_for_long_is_given_up_at_once() -> None:
    server = ChatServer(lambda body: "x", iter([status(429, Retry_After="86400")]))
    with serve(server) as url, pytest.raises(Unanswered, match="Gave up after 1 attempts"):
        client(url).complete(BODY)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(401), "The environment variable OPENAI_API_KEY is not set"),
        (status(404), "Check the base URL and the model's name"),
        (status(307, Location="http://127.0.0.1:9/v1"), "Redirects are not followed"),
        (status(429, b'{"error": {"message": "pay", "code": "insufficient_quota"}}'), "Nothing is left to pay with"),
    ],
)
def test_what_no_request_survives_stops_the_run_and_it_continues(fault: Fault, message: str, tmp_path: Path) -> None:
    server = ChatServer(zoom_then_answer, iter([None, None, None, None, fault]))
    with serve(server) as url:
        agent = choice(url)
        with pytest.raises(ServerRefused, match=message):
            run_evaluation(tmp_path / "run", agent=agent, limit=4, n_envs=1)
        assert len(episodes_of(tmp_path / "run")) == 2
        run_evaluation(tmp_path / "run", agent=agent, limit=4, n_envs=1)
    assert len(episodes_of(tmp_path / "run")) == 4
    # Eight turns were needed, and eight were answered: nothing was paid for twice.
    assert server.n_answered == 8


def test_a_run_of_failures_stops_the_run(tmp_path: Path) -> None:
    server = ChatServer(zoom_then_answer, itertools.repeat(status(500)))
    with serve(server) as url:
        agent = choice(url, retries=Retries(attempts=1))
        with pytest.raises(RemoteError, match=r"2\d turns in a row could not be had.*status 500"):
            run_evaluation(tmp_path / "run", agent=agent, limit=40, n_envs=4)
    assert len(server.bodies) <= 24


def test_a_wrong_address_is_known_at_once(tmp_path: Path) -> None:
    with serve(ChatServer(zoom_then_answer)) as url:
        pass
    with pytest.raises(Unanswered, match="nobody answers at this address"):
        run_evaluation(tmp_path / "run", agent=choice(url), limit=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("code", [400, 403, 404, 500])
def test_a_server_without_a_list_of_models_can_be_asked(code: int) -> None:
    server = ChatServer(lambda body: "x")
    server.models_status = code
    with serve(server) as url:
        asking = client(url, retries=Retries(attempts=2, first_wait=0.0))
        assert asking.served_model() is None
        assert asking.complete(BODY).text == "x"


def test_sampling_sends_seeds_that_depend_on_sample_repeat_and_turn_only(tmp_path: Path) -> None:
    def seeds(out: Path, concurrency: int) -> dict[str, list[int]]:
        server = ChatServer(zoom_then_answer)
        with serve(server) as url:
            agent = choice(url, sampling=Sampling(temperature=0.7))
            run_evaluation(out, agent=agent, limit=2, repeats=2, n_envs=concurrency, seed=3)
        found: dict[str, list[int]] = {}
        for body in server.bodies:
            found.setdefault(body["messages"][1]["content"][0]["image_url"]["url"], []).append(body["seed"])
        return {image: sorted(of_image) for image, of_image in found.items()}

    one, four = seeds(tmp_path / "one", 1), seeds(tmp_path / "four", 4)
    assert one == four
    assert len({seed for of_image in one.values() for seed in of_image}) == 8


def test_the_key_is_sent_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PXR_TEST_KEY", CANARY)

    # A hostile server that repeats the key in a turn, in an error and in its own name.
    server = ChatServer(lambda body: rf"\boxed{{{CANARY}}}", iter([None, echo]), key=CANARY)
    server.models = {"data": [{"id": "m", "root": CANARY}]}
    more = ["--api-key-env", "PXR_TEST_KEY", "--limit", "4", "--concurrency", "1"]
    with serve(server) as url:
        assert main(command(url, tmp_path / "run", *more)) == 0
    assert all(headers["Authorization"] == f"Bearer {CANARY}" for headers in server.headers)
    printed = capsys.readouterr()
    written = {path.name: path.read_text() for path in (tmp_path / "run").iterdir()}
    assert written.keys() == {"manifest.json", "episodes.jsonl", "metrics.json", "report.html"}
    assert "[API key]" in written["episodes.jsonl"]
    for text in (printed.out, printed.err, *written.values()):
        assert CANARY not in text

    monkeypatch.setenv("PXR_TEST_KEY", f"{CANARY}-wrong")
    with serve(server) as url:
        assert main(command(url, tmp_path / "other", *more)) == 2
        with pytest.raises(ServerRefused) as refused:
            client(url, api_key_env="PXR_TEST_KEY").complete(BODY)
    error = capsys.readouterr().err
    assert "PXR_TEST_KEY is set, and was refused" in error
    for text in (error, str(refused.value), repr(refused.value), repr(vars(client(url, api_key_env="PXR_TEST_KEY")))):
        assert CANARY not in text


def test_the_key_of_a_judge_is_in_no_file_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PXR_TEST_KEY", CANARY)

    def player(body: dict[str, Any]) -> str:
        # The judge says neither word, and the key.
        return f"Perhaps. {CANARY}" if body["model"] == "j" else rf"\boxed{{{CANARY}}}"

    # Three turns of the model, then the judge's requests.
    server = ChatServer(player, iter([None, None, None, echo]), key=CANARY)
    with serve(server) as url:
        more = ["--api-key-env", "PXR_TEST_KEY", "--limit", "3", "--concurrency", "1", "--judge-model", "j"]
        more += ["--judge-base-url", url, "--judge-api-key-env", "PXR_TEST_KEY"]
        # The judge decided over no answer.
        assert main(command(url, tmp_path / "run", *more)) == 1
        assert "j" in {body["model"] for body in server.bodies}
        # The server takes another key by now: the run stops.
        server.key = f"{CANARY}-new"
        assert main(command(url, tmp_path / "other", *more)) == 2
    printed = capsys.readouterr()
    assert CANARY not in printed.out + printed.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in written} >= {"manifest.json", "episodes.jsonl", "metrics.json"}
    for path in written:
        assert CANARY.encode() not in path.read_bytes(), path


def test_a_key_that_no_header_carries_is_refused_without_quoting_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{CANARY}\nX-Other: 1")
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds blanks") as refused:
        client("http://127.0.0.1:9/v1")
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"https://user:{CANARY}@host/v1", "with a name, a password or a query"),
        (f"https://host/v1?api-key={CANARY}", "with a name, a password or a query"),
        ("localhost:8000/v1", "expected one like"),
        ("ftp://host/v1", "expected one like"),
    ],
)
def test_addresses_that_are_none_or_hold_a_key_are_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        Server(base_url=url, model="m")
    assert CANARY not in str(refused.value)


def test_waits_grow_and_are_bounded() -> None:
    retries = Retries(first_wait=1.0, longest_wait=10.0)
    assert [retries.wait(attempt, 1.0) for attempt in (1, 2, 3, 4, 5, 1000)] == [1, 2, 4, 8, 10, 10]
    assert [retries.wait(3, drawn) for drawn in (0.25, 0.0)] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "stop_reason", "finish", "expected"),
    [
        ("<tool_call>{}", None, "stop", "<tool_call>{}</tool_call>"),
        ("<tool_call>{}", "</tool_call>", "stop", "<tool_call>{}</tool_call>"),
        ("x <answer>A", None, "stop", "x <answer>A</answer>"),
        ("<tool_call>{}</tool_call>", None, "stop", "<tool_call>{}</tool_call>"),
        ("no call", None, "stop", "no call"),
        ("<tool_call>{", None, "length", "<tool_call>{"),
    ],
)
def test_a_stop_string_that_was_cut_off_is_put_back(
    text: str, stop_reason: str | None, finish: str, expected: str
) -> None:
    reply = Reply(text=text, finish_reason=finish, stop_reason=stop_reason)
    assert with_stop_string(reply, ("</tool_call>", "</answer>")) == expected


CALL = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}}\n</tool_call>'


@pytest.mark.parametrize("arguments", ["object", "text"])
def test_a_server_that_parses_calls_makes_no_difference(tmp_path: Path, arguments: str) -> None:
    clean = ChatServer(zoom_then_answer)
    with serve(clean) as url:
        run_evaluation(tmp_path / "clean", agent=choice(url))

    def parse(text: str) -> dict[str, Any]:
        """As a server does that looks for calls whether tools were asked for or not."""
        if "<tool_call>" not in text:
            return {"content": text}
        before, _, block = text.partition("<tool_call>")
        call = json.loads(block.removesuffix("</tool_call>"))
        given = call["arguments"] if arguments == "object" else json.dumps(call["arguments"])
        return {"content": before, "tool_calls": [{"function": {"name": call["name"], "arguments": given}}]}

    server = ChatServer(zoom_then_answer, message=parse)
    with serve(server) as url:
        run_evaluation(tmp_path / "parsed", agent=choice(url))
    assert [e.answer for e in episodes_of(tmp_path / "parsed")] == [e.answer for e in episodes_of(tmp_path / "clean")]
    assert episodes_of(tmp_path / "parsed")[0].usage == {"zoom_in": 1}
    # The next request holds the call as the model wrote it.
    assert server.bodies[-1]["messages"][2] == clean.bodies[-1]["messages"][2] == {"role": "assistant", "content": CALL}


@pytest.mark.parametrize(
    ("dialect", "frame", "calls", "expected"),
    [
        ("hermes", "unit", [("zoom_in", '{"target_image": 1}')], ["zoom_in"]),
        ("hermes", "unit", [("zoom_in", '{"target_image": 1}'), ("rotate", "{}")], ["zoom_in", "rotate"]),
        ("qwen3-vl", "permille", [("zoom_in", '{"label": "</tool_call>"}')], ["zoom_in"]),
        ("pixel-reasoner", "unit", [("crop_image_normalized", "{}")], ["zoom_in"]),
        ("deepeyes", "pixel", [("image_zoom_in_tool", '{"bbox_2d": [1, 2, 3, 4], "label": "x"}')], ["zoom_in"]),
        # What the model got wrong is its own mistake, as it would be in text.
        ("hermes", "unit", [("zoom_in", '{"target_image": ')], [None]),
        ("mini-o3", "unit", [("grounding", "{}")], None),
        ("tags", "unit", [("zoom_in", "{}")], None),
    ],
)
def test_a_call_is_put_back_where_it_can_be(
    dialect: str, frame: str, calls: list[tuple[str, str]], expected: list[str | None] | None
) -> None:
    known = get_dialect(dialect, get_frame(frame))
    reply = Reply(text="I look. ", calls=tuple(ServerCall(name=name, arguments=given) for name, given in calls))
    if expected is None:
        with pytest.raises(Unanswered, match=r"took a call out of the text .*without a parser of tool calls"):
            with_calls(reply, known)
        return
    text = with_calls(reply, known)
    assert text.startswith("I look.\n<tool_call>")
    assert [getattr(call, "name", None) for call in known.parse(text).calls] == expected
    # Some servers leave the calls in the text as well.
    assert with_calls(replace(reply, text=text), known) == text


def test_thoughts_reported_apart_are_recorded_and_not_sent_back(tmp_path: Path) -> None:
    thinking = says(None, message={"content": "and so on", "reasoning_content": "hm"})
    server = ChatServer(zoom_then_answer, iter([thinking]))
    with serve(server) as url:
        run_evaluation(tmp_path / "run", agent=choice(url), limit=1)
    [episode] = episodes_of(tmp_path / "run")
    assert episode.steps[0].turn == "<think>\nhm\n</think>\n\nand so on"
    assert server.bodies[1]["messages"][2] == {"role": "assistant", "content": "and so on"}


def test_fields_of_the_request_can_be_added_and_left_out(tmp_path: Path) -> None:
    server = ChatServer(zoom_then_answer)
    with serve(server) as url:
        body = {"max_tokens": None, "max_completion_tokens": 9}
        greedy = Sampling(temperature=0.0, max_tokens=64, stop=("</answer>",))
        run_evaluation(tmp_path / "run", agent=choice(url, body=body, sampling=greedy), limit=1)
    assert server.bodies[0].keys() == {"model", "messages", "temperature", "max_completion_tokens", "stop"}
    sampling = RunFiles(tmp_path / "run").manifest()["sampling"]
    assert sampling == {"temperature": 0.0, "max_tokens": 64, "stop": ["</answer>"], "body": body}


def command(url: str, out: Path, *more: str) -> list[str]:
    env_args = [item for key, value in ENV_ARGS.items() for item in ("--set", f"{key}={value}")]
    agent = ["--agent", "openai", "--model", "m", "--base-url", url, "--no-preflight"]
    return ["run", ENV_ID, *agent, *env_args, "--out", str(out), *more]


def test_a_run_that_scored_nothing_says_why_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(ChatServer(zoom_then_answer, itertools.repeat(TOO_MANY))) as url:
        assert main(command(url, tmp_path / "run", "--limit", "3", "--no-report")) == 1
    printed = capsys.readouterr()
    assert "3 not scored: model: " in printed.out
    assert "At most 1 image(s) may be provided." in printed.out
    assert "nothing was scored: 3 of 3 episodes have no score" in printed.err
    assert RunFiles(tmp_path / "run").metrics()["statistics"]["n_errors"] == 3
    # What the answers would have been stays on record.
    assert all(episode.target is not None for episode in episodes_of(tmp_path / "run"))


def test_waits_are_told(caplog: pytest.LogCaptureFixture) -> None:
    server = ChatServer(lambda body: "x", iter([status(429, Retry_After="1"), status(500)]))
    with serve(server) as url:
        client(url).complete(BODY)
    # Not every repeated request has a line of its own.
    [told] = [record.getMessage() for record in caplog.records if record.name == "pxr_agents.chat_client"]
    assert "the server asks to wait 1 s: status 429: no; attempt 2 of 6 in 1.0 s" in told


def test_a_killed_run_pays_for_no_finished_episode_again(tmp_path: Path) -> None:
    go_on = threading.Event()

    def player(body: dict[str, Any]) -> str:
        if server.n_answered >= 10:
            go_on.wait(60)
        return zoom_then_answer(body)

    server = ChatServer(player)
    with serve(server) as url:
        arguments = command(url, tmp_path / "run", "--limit", "8", "--concurrency", "2")
        process = subprocess.Popen([sys.executable, "-m", "eval", *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
        # Two requests are under way, and ten or a few more turns have been answered.
        while server.n_answered < 10 or len(server.bodies) < server.n_answered + 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait(20)
        go_on.set()
        done = len(episodes_of(tmp_path / "run"))
        assert 0 < done < 8
        asked_before = len(server.bodies)
        assert main(arguments) == 0
    # An episode has two turns; what was finished is not asked for again.
    assert len(server.bodies) - asked_before == 2 * (8 - done)
    assert RunFiles(tmp_path / "run").metrics()["statistics"]["n_episodes"] == 8


def test_a_model_behind_a_server_needs_no_torch(tmp_path: Path) -> None:
    absent = ["torch", "transformers", "tokenizers", "ray", "vllm", "pyarrow", "av", "decord", "datasets", "wandb"]
    absent += ["gradio", "huggingface_hub", "pandas"]
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in absent)
    runs = [str(tmp_path / "one"), str(tmp_path / "two")]
    with serve(ChatServer(zoom_then_answer)) as url:
        one = command(url, tmp_path / "one", "--limit", "2", "--no-report")
        two = command(url, tmp_path / "two", "--limit", "2", "--recipe", "mini-o3")
        commands = [one, two, ["report", runs[0]], ["replay", *runs]]
        commands += [["compare", *runs, "--json", str(tmp_path / "both.json")]]
        code = (
            f"import sys\n{blocked}from eval.__main__ import main\n"
            f"for arguments in {commands!r}:\n    if main(arguments): sys.exit(arguments[0])"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for run in runs:
        assert {path.name for path in Path(run).iterdir()} >= {"manifest.json", "episodes.jsonl", "metrics.json"}
        assert (Path(run) / "report.html").is_file()
    assert json.loads((tmp_path / "both.json").read_text())
    demo = f"import sys\n{blocked}from eval.__main__ import main\nsys.exit(main(['demo', '--model', 'm']))"
    done = subprocess.run([sys.executable, "-c", demo], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Install it: pip install 'pxr-gym[demo]'" in done.stderr


def test_ctrl_c_does_not_wait_for_requests_under_way(tmp_path: Path) -> None:
    waiting = threading.Event()

    def player(body: dict[str, Any]) -> str:
        waiting.wait(60)
        return "late"

    server = ChatServer(player)
    with serve(server) as url:
        arguments = command(url, tmp_path / "run", "--limit", "3")
        process = subprocess.Popen(
            [sys.executable, "-m", "eval", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        while len(server.bodies) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        waiting.set()
    assert process.returncode == 130
    assert "The same command continues" in said
