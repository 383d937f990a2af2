"""Serves the page: on this machine, without a word to any other, and with nothing left behind."""

from __future__ import annotations

import os
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from eval.demo.defaults import Defaults

#: Bytes that an uploaded file may have.
MAX_UPLOAD = 50 * 1024 * 1024
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: The page may load what this server sends and nothing else, whatever Gradio's own files mention.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'"
)


def serve(
    open_player: Any,
    *,
    title: str,
    defaults: Defaults,
    task: str | None,
    at_once: int,
    host: str,
    port: int,
) -> None:
    """Serve until Ctrl-C. The arguments are those of `launch` and `eval.demo.page.build`."""
    with tempfile.TemporaryDirectory(prefix="pxr-demo-") as folder:
        demo, url = launch(
            open_player,
            title=title,
            defaults=defaults,
            task=task,
            at_once=at_once,
            host=host,
            port=port,
            folder=Path(folder),
        )
        print(f"{title}, asked as by {defaults.reason}: {url}\nCtrl-C ends it.", flush=True)
        if host not in _LOOPBACK:
            print("Everybody in the network who can reach this machine can use it.", flush=True)
        try:
            demo.block_thread()
        finally:
            demo.close(verbose=False)


def launch(
    open_player: Any,
    *,
    title: str,
    defaults: Defaults,
    task: str | None,
    at_once: int,
    host: str,
    port: int,
    folder: Path,
) -> tuple[Any, str]:
    """Start the server; returns Gradio's page and its address. `folder` holds the uploads.

    Raises:
        OSError: the address is in use.
    """
    # Read when Gradio is imported or a page is built: before both.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import gradio as gr

    from eval.demo.page import build

    page = build(open_player, title=title, defaults=defaults, task=task, at_once=at_once)
    # Fonts of the visitor's own machine: Gradio's themes would fetch theirs.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    _, url, _ = page.launch(
        server_name=host,
        server_port=port or _free_port(host),
        share=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=True,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        theme=theme,
        css=resources.files("eval.demo").joinpath("page.css").read_text(encoding="utf-8"),
        app_kwargs={"docs_url": None, "redoc_url": None, "middleware": _middleware()},
    )
    return page, url


def _middleware() -> list[Any]:
    from starlette.middleware import Middleware

    return [Middleware(_Headers)]


class _Headers:
    """Adds the headers that keep the page to itself."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_more(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        await self.app(scope, receive, send_more if scope["type"] == "http" else send)


def _free_port(host: str) -> int:
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
