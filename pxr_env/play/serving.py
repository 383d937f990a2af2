"""Pages on this machine: the web server that `play --web`, `eval demo` and `eval view` share.

Pages of other sites cannot use it: names of other machines in the Host header are refused (DNS rebinding), and so are
requests that a page from elsewhere makes. Nothing is loaded from other machines, and nothing is told to them.
"""

from __future__ import annotations

import base64
import io
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib import resources
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import uvicorn
from PIL import Image
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
    """Serves an ASGI application, with `headers` in every answer that does not set them itself.

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
    is_here = host in LOOPBACK or host == listens_on.lower()
    if is_here or listens_on in LOOPBACK:
        return is_here
    # Listening for other machines: they come with an address, or with the name of this machine.
    try:
        return bool(ip_address(host))
    except ValueError:
        return host in {socket.gethostname().lower(), socket.getfqdn().lower()}


@contextmanager
def page_server(build: Callable[[], Any], *, host: str, port: int, path: str = "/") -> Iterator[PageServer]:
    """A server of a page made with Gradio, at a path from "/"; its files go with it.

    Args:
        build: makes the page, and imports Gradio no earlier.

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


#: Longest side of a view, and of a source, as they are sent to the browser.
VIEW_SIDE, SOURCE_SIDE = 420, 900
#: Pictures with more pixels are sent as JPEG, the others as PNG.
_PNG_PIXELS = 65_536

#: Cuts a turn into (kind, text): "text", "call", "answer" or "thought".
SplitTurn = Callable[[str], Iterable[tuple[str, str]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """What is new after the reset or a turn."""

    turn: str | None  # what was written, None after the reset
    reply: str  # what the environment said
    images: Sequence[np.ndarray] = ()  # the new views, HxWx3 uint8
    views: Sequence[Mapping[str, Any]] = ()  # what they show, see `View.as_dict`
    overview: np.ndarray | None = None  # the sources with the boxes of all views, where they may be shown


class Transcript:
    """Grows by what happens in an episode, whose turns `split_turn` cuts into parts. `html()` is all of it."""

    def __init__(self, split_turn: SplitTurn = lambda turn: [("text", turn)]) -> None:
        self._split_turn = split_turn
        self._overview = ""
        self._parts: list[str] = []
        self._n_turns = 0

    def add(self, moment: Moment) -> None:
        """Adds a turn, or what came before the first."""
        if moment.overview is not None:
            image = picture(moment.overview, SOURCE_SIDE, "the source with the boxes of all views")
            self._overview = f'<figure class="overview">{image}</figure>'
        if moment.turn is None:
            self._parts.append(f'<section class="question"><h4>Question</h4><p>{text(moment.reply)}</p></section>')
            return
        self._n_turns += 1
        parts = "".join(f'<span class="{kind}">{text(part)}</span>' for kind, part in self._split_turn(moment.turn))
        turn = f'<h4>Turn {self._n_turns}</h4><div class="text">{parts}</div>'
        reply = f'<p class="reply">{text(moment.reply)}</p>' if moment.reply else ""
        views = "".join(_view(image, view) for image, view in zip(moment.images, moment.views, strict=True))
        crops = f'<div class="views">{views}</div>' if views else ""
        self._parts.append(f'<section class="turn">{turn}{reply}{crops}</section>')

    def end(self, title: str, *lines: str, final: str | None = None, is_error: bool = False) -> None:
        """Adds how it ended: in a word, what there is to say of it, and the answer."""
        kind = 'end error" role="alert' if is_error else "end"
        answer = "" if final is None else f'<p class="final">{text(final)}</p>'
        said = "".join(f'<p class="verdict">{text(line)}</p>' for line in lines)
        self._parts.append(f'<section class="{kind}"><h4>{text(title)}</h4>{answer}{said}</section>')

    def html(self) -> str:
        """All of it."""
        return f'<div class="pxr">{self._overview}{"".join(self._parts)}</div>'


def picture(pixels: np.ndarray, side: int, description: str) -> str:
    """An image, uint8 HxWx3, as an `<img>` of at most `side` pixels that loads nothing."""
    image = enlarged(pixels, side // 2)
    image.thumbnail((side, side))
    kind = "PNG" if image.width * image.height <= _PNG_PIXELS else "JPEG"
    file = io.BytesIO()
    image.save(file, kind, **({"compress_level": 1} if kind == "PNG" else {"quality": 90}))
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/{kind.lower()};base64,{data}" alt="{text(description)}" '
        f'width="{image.width}" height="{image.height}">'
    )


def enlarged(pixels: np.ndarray, side: int) -> Image.Image:
    """A small image at a multiple of its size, up to `side`, with its pixels as they are: a model sees them."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    factor = max(1, side // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def describe_view(view: Mapping[str, Any]) -> str:
    """A view in one line: "Image 2: 280, 0, 560, 140, frame 3 at 0.50 s"."""
    if "panels" in view:
        return f"Image {view['index']}: two images side by side"
    box = ", ".join(f"{edge:.0f}" for edge in view["box"])
    frame = "" if view.get("frame") is None else f", frame {view['frame'] + 1} at {view['time']:.2f} s"
    return f"Image {view['index']}: {box}{frame}"


def text(plain: str) -> str:
    """Escaped; what is no character is shown as such."""
    return escape(plain.encode("utf-8", "replace").decode("utf-8"), quote=True)


def _view(image: np.ndarray, view: Mapping[str, Any]) -> str:
    caption = describe_view(view)
    return f"<figure>{picture(image, VIEW_SIDE, caption)}<figcaption>{text(caption)}</figcaption></figure>"
