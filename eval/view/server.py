"""Serves the pages. It only reads, listens on this machine unless told otherwise, and trusts nothing that it reads.

Names of other machines in the Host header are refused (DNS rebinding); addresses are looked up in the list of runs,
never joined to paths; the policy of every page forbids scripts but its own and everything from elsewhere. Pages that a
run holds (reports, audits) are shown in a sandbox.
"""

from __future__ import annotations

import gzip
import http.server
import socket
import sys
import traceback
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eval.rendering import render, template_file
from eval.view.compare_page import Comparisons
from eval.view.curves import Histories
from eval.view.index import Indexes
from eval.view.library import PAGES, Library, Run
from eval.view.pictures import Pictures
from eval.view.query import NotThere, Query, run_key
from eval.view.run_pages import RunPages
from eval.view.runs_page import RunTable
from pxr_env.errors import quote

LOOPBACK = ("127.0.0.1", "localhost", "::1")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
#: A page that a run holds was written by us or by anybody: its scripts run, but in an origin of their own.
SANDBOX = (
    "sandbox allow-scripts allow-popups; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'none'"
)
HTML = "text/html; charset=utf-8"
STATIC = {
    "/static/view.css": (("report.css", "view.css"), "text/css; charset=utf-8"),
    "/static/view.js": (("figures.js", "view.js"), "text/javascript; charset=utf-8"),
    "/static/pairs.js": (("pairs.js",), "text/javascript; charset=utf-8"),
}


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: of the answer.
        message: what came, what was expected, what to do.
    """

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class ViewServer(http.server.ThreadingHTTPServer):
    """Serves the runs below a directory.

    Args:
        root: the directory.
        host: address to listen on.
        port: port, 0 for any free one.
        replay: whether pictures are made by playing episodes again, which runs the code of their environments.

    Raises:
        OSError: the address is in use or not of this machine.
    """

    daemon_threads = True
    # On Windows two servers would share the port.
    allow_reuse_address = sys.platform != "win32"

    def __init__(self, root: Path, *, host: str = "127.0.0.1", port: int = 0, replay: bool = True) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), ViewHandler)
        self.host = host
        self.library = Library(root)
        indexes, histories = Indexes(), Histories()
        self.table = RunTable(self.library, indexes, histories)
        self.comparisons = Comparisons(self.library)
        self.pages = RunPages(self.library, indexes, histories, Pictures(replay=replay))

    @property
    def url(self) -> str:
        """The address of the table of runs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"


class ViewHandler(http.server.BaseHTTPRequestHandler):
    """Answers one request: `/` is the table of runs, `/run/NAME` a run; what is shown of it stands in the query."""

    server: ViewServer
    #: Seconds that a client may take to send its request.
    timeout = 30
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answers with a page."""
        try:
            self._check_host()
            self._get()
        except Refusal as refusal:
            self._send_problem(refusal.status, str(refusal))
        except NotThere as error:
            self._send_problem(HTTPStatus.NOT_FOUND, str(error))
        except ConnectionError:
            self.close_connection = True
        except Exception as error:
            # A file that is not what its name says, or a mistake of ours: the page says what, the terminal where.
            traceback.print_exc()
            self._send_problem(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")

    def do_HEAD(self) -> None:
        """Answers as GET does, without the page."""
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the terminal quiet."""

    def _check_host(self) -> None:
        host = _host_name(self.headers.get("Host", ""))
        if not _is_of(host, self.server.host):
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                f'the host "{quote(str(host))}" came; expected the address that the command printed.',
            )

    def _get(self) -> None:
        address = urlsplit(self.path)
        query = Query.parse(address.query)
        if address.path in STATIC:
            files, kind = STATIC[address.path]
            self._send("\n".join(template_file(name) for name in files).encode("utf-8"), kind)
        elif address.path == "/":
            self._send_page("view_runs.html.jinja", self.server.table.context(query))
        elif address.path == "/compare":
            self._send_page("view_compare.html.jinja", self.server.comparisons.context(query))
        elif address.path.startswith("/run/"):
            self._run(self._find(address.path), query)
        else:
            raise Refusal(HTTPStatus.NOT_FOUND, f'"{quote(self.path)}" came; there is nothing of that name.')

    def _find(self, path: str) -> Run:
        run = self.server.library.runs().get(run_key(path))
        if run is None:
            raise Refusal(
                HTTPStatus.NOT_FOUND, f'"{quote(run_key(path))}" came; there is no run of that name (any more).'
            )
        return run

    def _run(self, run: Run, query: Query) -> None:
        if (name := query.get("file")) is not None:
            self._send_file(run, name)
            return
        if query.get("picture") is not None:
            kind, content = self.server.pages.picture(run, query)
            self._send(content, kind)
            return
        version = f'"{self.server.pages.version(run, query)}"'
        if self.headers.get("If-None-Match") == version:
            self._send(b"", HTML, HTTPStatus.NOT_MODIFIED, {"ETag": version})
            return
        template, context = self.server.pages.page(run, query)
        self._send_page(template, context | {"version": version}, {"ETag": version})

    def _send_file(self, run: Run, name: str) -> None:
        path = run.file(name)
        if path is None:
            known = " or ".join(PAGES)
            raise Refusal(HTTPStatus.NOT_FOUND, f'the file "{quote(name)}" came; expected {known}, once written.')
        self._send(path.read_bytes(), HTML, headers={"Content-Security-Policy": SANDBOX})

    def _send_page(
        self,
        template: str,
        context: dict[str, Any],
        headers: dict[str, str] | None = None,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        page = render(template, context | {"served": True}).encode("utf-8", "replace")
        self._send(page, HTML, status, headers)

    def _send_problem(self, status: HTTPStatus, message: str) -> None:
        self._send_page("view_problem.html.jinja", {"status": status, "message": message, "live": False}, None, status)

    def _send(
        self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
    ) -> None:
        packed = {}
        if len(content) > 2000 and "gzip" in self.headers.get("Accept-Encoding", ""):
            content, packed = gzip.compress(content, compresslevel=1), {"Content-Encoding": "gzip"}
        self.send_response(status)
        own = {"Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in {**HEADERS, **own, **packed, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _host_name(header: str) -> str | None:
    """The name in a Host header, without its port; None if it makes no sense."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _is_of(host: str | None, listens_on: str) -> bool:
    """Whether a Host header names this server: a name that another page chose would make us its own origin."""
    if host is None:
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
