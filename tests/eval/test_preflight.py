"""What is found out about a server before a run, and what stops the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.records import RunFiles
from tests.eval.chat_server import ChatServer, Fault, n_images, pixels, serve, status, zoom_then_answer
from tests.eval.conftest import ENV_ARGS, ENV_ID


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def copying(body: dict[str, Any]) -> str:
    """Does what it is told, as far as the preflight asks for it, and plays otherwise."""
    asked = body["messages"][1]["content"][-1]["text"]
    if asked.startswith("Write these lines again"):
        return asked.partition("\n")[2]
    if asked.startswith("What is the colour"):
        red, _, blue = pixels(body["messages"][1]["content"][0])[0, 0]
        return "red" if red > blue else "blue"
    return zoom_then_answer(body)


def blind(body: dict[str, Any]) -> str:
    return copying(body) if "colour" not in body["messages"][1]["content"][-1]["text"] else "I see no picture."


class Picky(ChatServer):
    """A server that answers some requests with a fault."""

    def __init__(self, player: Any, wrong: Any, fault: Fault, **other: Any) -> None:
        super().__init__(player, **other)
        self._wrong, self._fault = wrong, fault

    def answer(self, handler: Any, body: dict[str, Any]) -> None:
        if self._wrong(body):
            self.bodies.append(body)
            self._fault(handler)
        else:
            super().answer(handler, body)


def run(server: ChatServer, out: Path, *more: str) -> int:
    env_args = [item for key, value in ENV_ARGS.items() for item in ("--set", f"{key}={value}")]
    with serve(server) as url:
        agent = ["--agent", "openai", "--model", "m", "--base-url", url, "--concurrency", "1", "--limit", "1"]
        return main(["run", ENV_ID, *agent, *env_args, "--out", str(out), "--no-report", *more])


def found(out: Path) -> dict[str, Any]:
    """What the manifest keeps."""
    result: dict[str, Any] = RunFiles(out).manifest()["server"]["preflight"]
    return result


def test_a_server_that_does_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = ChatServer(copying)
    assert run(server, tmp_path / "run") == 0
    # Without an image, with one, the longest conversation, log-probabilities; then two turns of the run.
    assert len(server.bodies) == 4 + 2
    alone, seen, longest, logprobs = server.bodies[:4]
    assert [n_images(body) for body in (alone, seen, longest, logprobs)] == [0, 1, 3, 0]
    # 3 turns, so 3 messages of the user; 2 operations beside the image of the question.
    assert [message["role"] for message in longest["messages"]] == ["system", *["user", "assistant"] * 2, "user"]
    assert (alone["max_tokens"], longest["max_tokens"], logprobs["logprobs"]) == (512, 1, True)
    assert found(tmp_path / "run") == {
        "sees_images": True,
        "image_tokens": 9,
        "image_size": [84, 84],
        "calls": "text",
        "images": 3,
        "turns": 3,
        "accepts_longest": True,
        "usage": True,
        "logprobs": False,
        "requests": 4,
        "problems": [],
        "notes": [],
    }
    assert "preflight, 4 requests: sees images: yes (9 tokens for 84x84); calls: text;" in capsys.readouterr().err


def test_a_server_that_drops_images_gets_no_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ChatServer(blind, image_tokens=0), tmp_path / "run") == 2
    assert (
        "a picture of 84x84 adds 0 tokens to the prompt, and a red one is answered like a blue"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
    # Words in the place of an image are tokens, too.
    assert run(ChatServer(blind, image_tokens=4), tmp_path / "run") == 2
    # Where it is meant, it is on record.
    assert run(ChatServer(blind, image_tokens=0), tmp_path / "blind", "--allow-blind") == 0
    assert found(tmp_path / "blind")["sees_images"] is False
    # And without questions nothing is.
    assert run(ChatServer(blind, image_tokens=0), tmp_path / "without", "--no-preflight") == 0
    assert "preflight" not in RunFiles(tmp_path / "without").manifest()["server"]


@pytest.mark.parametrize(
    ("player", "tokens", "sees"), [(copying, 0, True), (copying, None, True), (blind, None, None), (copying, 9, True)]
)
def test_what_is_answered_shows_it_where_tokens_do_not(
    player: Any, tokens: int | None, sees: bool | None, tmp_path: Path
) -> None:
    """A cache may hide tokens, and some servers count none: a red and a blue picture are answered differently."""
    assert run(ChatServer(player, image_tokens=tokens), tmp_path / "run") == 0
    assert found(tmp_path / "run")["sees_images"] is sees
    assert bool(found(tmp_path / "run")["notes"]) is (sees is None)


def test_a_server_that_refuses_images_is_no_server_for_this(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuses = status(400, b'{"error": {"message": "m is not a multimodal model"}}')
    assert run(Picky(copying, n_images, refuses), tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "answers a question without an image, and not one with a picture" in said
    assert "m is not a multimodal model" in said


def test_a_server_that_takes_fewer_images_than_the_task_allows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def many(body: dict[str, Any]) -> bool:
        return n_images(body) > 2

    too_many = status(400, b'{"error": {"message": "At most 2 image(s) may be provided in one prompt."}}')
    assert run(Picky(copying, many, too_many), tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "At most 2 image(s) may be provided in one prompt." in said
    assert """--limit-mm-per-prompt '{"image": 3}'""" in said
    # With as few operations as it has room for, it is fine.
    assert run(Picky(copying, many, too_many), tmp_path / "fewer", "--set", "max_operations=1") == 0


def test_a_context_that_is_short_is_said_and_one_without_room_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = status(400, b'{"error": {"message": "This model\'s maximum context length is 512 tokens."}}')
    assert run(Picky(copying, lambda body: len(body["messages"]) > 4, full), tmp_path / "run") == 0
    assert "Episodes that outgrow the context end without an answer." in capsys.readouterr().err
    assert found(tmp_path / "run")["accepts_longest"] is False
    assert run(Picky(copying, lambda body: body["max_tokens"] > 500, full), tmp_path / "none") == 2
    assert "no question fits" in capsys.readouterr().err


def test_calls_that_are_parsed_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def parse(text: str) -> dict[str, Any]:
        if "<tool_call>" not in text and "<zoom_in" not in text:
            return {"content": text}
        arguments = '{"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}'
        return {"content": "", "tool_calls": [{"function": {"name": "zoom_in", "arguments": arguments}}]}

    assert run(ChatServer(copying, message=parse), tmp_path / "run") == 0
    assert found(tmp_path / "run")["calls"] == "parsed"
    # Where they cannot be put back, no run is begun.
    assert run(ChatServer(copying, message=parse), tmp_path / "tags", "--set", "dialect=tags") == 2
    assert "Start the server without a parser of tool calls" in capsys.readouterr().err


def test_a_server_that_fails_for_now_is_asked_by_the_run(tmp_path: Path) -> None:
    """What is no property of the server stops nothing here; the run says what happens to its questions."""
    nothing = status(400, b'{"error": {"message": "no"}}')
    assert run(Picky(copying, lambda body: True, nothing), tmp_path / "run") == 1
    assert found(tmp_path / "run")["requests"] == 2
    assert len(found(tmp_path / "run")["notes"]) == 1


def test_a_server_that_breaks_on_a_wrong_call_is_asked_for_none(tmp_path: Path) -> None:
    def copies(body: dict[str, Any]) -> bool:
        return bool(body["messages"][1]["content"][-1]["text"].startswith("Write these lines"))

    broken = status(400, b'{"error": {"message": "could not parse region as JSON"}}')
    assert run(Picky(copying, copies, broken), tmp_path / "run") == 0
    assert (found(tmp_path / "run")["sees_images"], found(tmp_path / "run")["requests"]) == (True, 5)
    assert "could not parse" in found(tmp_path / "run")["notes"][0]
