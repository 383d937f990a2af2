"""Pages on this machine: the web server that `play --web`, `eval demo` and `eval view` share.

Pages of other sites cannot use it: names of other machines in the Host header are refused (DNS rebinding), and so are
requests that a page from elsewhere makes. Nothing is loaded from other machines, and nothing is told to them.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from pxr_env.errors import quote

LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Bytes that a file uploaded to a page may have.
MAX_UPLOAD = 50 * 1024 * 1024
#: A page made with Gradio may load what this server sends and nothing else, whatever Gradio's own files mention.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class PageServer:
    """Serves an ASGI application.

    Args:
        app: the application.
        host: address to listen on.
        port: port, 0 for any free one.
        headers: of every answer that does not set them itself.

    Raises:
        OSError: the address is in use or not of this machine.
    """

    def __init__(self, app: Any, *, host: str, port: int, headers: Mapping[str, str]) -> None:
        self.host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            reason = str(error).rstrip(".")
            raise OSError(f"{host}, port {port}: {reason}. Choose another --port, or 0 for any free one.") from error
        self.port = int(self._socket.getsockname()[1])
        # Pages keep a connection open to hear news: whoever ends the server does not wait for them.
        config = uvicorn.Config(
            Guard(app, host, headers), log_level="critical", ws="none", server_header=False, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        """The address of the first page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    def run(self) -> None:
        """Serves until Ctrl-C, which is raised again as KeyboardInterrupt."""
        with self._socket:
            self._server.run(sockets=[self._socket])

    @contextmanager
    def running(self) -> Iterator[PageServer]:
        """Serves from a thread for as long as the context is open."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.should_exit = True
            thread.join()


class Guard:
    """Refuses requests from elsewhere, and adds headers to every answer."""

    def __init__(self, app: Any, host: str, headers: Mapping[str, str]) -> None:
        self.app, self.host, self.headers = app, host, headers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_more(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = _refusal(Headers(scope=scope), self.host)
        app = self.app if refusal is None else PlainTextResponse(refusal, 403)
        await app(scope, receive, send_more)


def _refusal(headers: Headers, listens_on: str) -> str | None:
    """Why a request is not answered; None where it is."""
    given = headers.get("host", "")
    if not _is_of(given, listens_on):
        return f'got the host "{quote(given)}", expected the address that the command printed.'
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != given:
        return f'got a request of "{quote(origin)}", expected one of the page itself.'
    return None


def _is_of(given: str, listens_on: str) -> bool:
    """Whether a Host header names this server: a name that another page chose would make us its own origin."""
    try:
        host = urlsplit(f"//{given}").hostname or ""
    except ValueError:
        return False
    if host in LOOPBACK or host == listens_on.lower():
        return True
    if listens_on in LOOPBACK:
        return False
    # Listening for other machines: they come with an address, or with the name of this machine.
    try:
        ip_address(host)
    except ValueError:
        return host in {socket.gethostname().lower(), socket.getfqdn().lower()}
    return True


@contextmanager
def page_server(build: Callable[[], Any], *, host: str, port: int, path: str = "/") -> Iterator[PageServer]:
    """A server of a page made with Gradio; its files go with it.

    Args:
        build: makes the page, and imports Gradio no earlier.
        host: address to listen on.
        port: port, 0 for any free one.
        path: of the page, from "/".

    Raises:
        OSError: the address is in use or not of this machine.
    """
    with tempfile.TemporaryDirectory(prefix="pxr-page-") as folder:
        # Read when Gradio is imported or a page is built: before both.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import gradio as gr
        from fastapi import FastAPI

        # Fonts of the visitor's own machine: Gradio's themes would fetch theirs.
        theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        hidden: dict[str, Any] = {"docs_url": None, "redoc_url": None, "openapi_url": None}
        app = gr.mount_gradio_app(
            FastAPI(**hidden),
            build(),
            path,
            footer_links=[],
            run_history=False,
            max_file_size=MAX_UPLOAD,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=theme,
            css=resources.files("pxr_env.play").joinpath("page.css").read_text(encoding="utf-8"),
            app_kwargs=hidden,
        )
        yield PageServer(app, host=host, port=port, headers=_HEADERS)
