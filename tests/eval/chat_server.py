"""A chat-completions server on loopback that tests can make fail in every way a real one does."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

#: What the server does with a request: a status with headers and a body, or something done to the connection.
Fault = Callable[[BaseHTTPRequestHandler], None]
#: Answers a request body with the text of a turn.
Player = Callable[[dict[str, Any]], str]


def status(code: int, body: bytes = b'{"error": {"message": "no"}}', **headers: str) -> Fault:
    """Answer with this status; header names are written with underscores."""

    def fail(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {"Content_Type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return fail


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Promise more than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "10000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"message": {"content": "hal')
    handler.close_connection = True


def cut_chunks(handler: BaseHTTPRequestHandler) -> None:
    """Stop in the middle of a chunk."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'40\r\n{"choices": [')
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Say nothing and close."""
    handler.close_connection = True


class ChatServer:
    """Counts what it is asked, and answers with a player's turns.

    Args:
        player: writes the turns.
        faults: the fault of each request in order, None for none; when they are used up there are no more.
        key: the key that it wants, None for none.
        message: makes the message of a completion out of the player's text.
        image_tokens: what an image counts as, None if nothing is counted.
    """

    def __init__(
        self,
        player: Player,
        faults: Iterable[Fault | None] = (),
        key: str | None = None,
        message: Callable[[str], dict[str, Any]] = lambda text: {"content": text},
        image_tokens: int | None = 9,
    ) -> None:
        self.image_tokens = image_tokens
        self.player, self.faults, self.key, self.message = player, iter(faults), key, message
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.n_answered = 0
        self.most_at_once = 0
        self.models: dict[str, Any] | None = {"data": [{"id": "m", "root": "/weights", "owned_by": "us"}]}
        self.models_status = 200
        self.released = threading.Event()
        self._at_once = 0
        self._lock = threading.Lock()

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self.bodies.append(body)
            self.headers.append({name.title(): value for name, value in handler.headers.items()})
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault = next(self.faults, None)
        try:
            if self.key is not None and handler.headers["Authorization"] != f"Bearer {self.key}":
                said = f"Incorrect API key: {handler.headers['Authorization']}"
                fault = status(401, json.dumps({"error": {"message": said, "code": "invalid_api_key"}}).encode())
            if fault is not None:
                fault(handler)
                return
            text = self.player(body)
        finally:
            with self._lock:
                self._at_once -= 1
        with self._lock:
            self.n_answered += 1
        completion = {
            "model": "m-2026",
            "system_fingerprint": "fp_1",
            "choices": [{"message": {"role": "assistant", **self.message(text)}, "finish_reason": "stop"}],
            "usage": self._usage(body),
        }
        status(200, json.dumps(completion).encode())(handler)

    def _usage(self, body: dict[str, Any]) -> dict[str, int] | None:
        if self.image_tokens is None:
            return None
        prompt = 10 * len(body["messages"]) + self.image_tokens * n_images(body)
        return {"prompt_tokens": prompt, "completion_tokens": 7}


def n_images(body: dict[str, Any]) -> int:
    """How many images a request holds."""
    parts = [part for message in body["messages"] for part in message.get("content") or () if isinstance(part, dict)]
    return sum(part["type"] == "image_url" for part in parts)


@contextmanager
def serve(server: ChatServer) -> Iterator[str]:
    """Serve on a free port of loopback; gives the base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = server.models is not None and self.path == "/v1/models"
            status(server.models_status if found else 404, json.dumps(server.models).encode())(self)

        def do_POST(self) -> None:
            server.answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1"
    finally:
        server.released.set()
        httpd.shutdown()
        httpd.server_close()


def pixels(part: dict[str, Any]) -> np.ndarray:
    """The image of a message part, HxWx3 uint8."""
    kind, data = part["image_url"]["url"].split(",", 1)
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def zoom_then_answer(body: dict[str, Any]) -> str:
    """Zooms once, then answers with a letter that depends on the colour that was asked for."""
    if len(body["messages"]) == 2:
        call = '{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}}'
        return f"<tool_call>\n{call}\n</tool_call>"
    question = body["messages"][1]["content"][-1]["text"]
    found = re.search(r"in the (\w)\w* box", question)
    assert found is not None, question
    return rf"\boxed{{{found[1].upper()}}}"
