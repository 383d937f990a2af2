"""Serves the pages. It only reads, listens on this machine unless told otherwise, and trusts nothing that it reads.

Addresses are looked up in the list of runs, never joined to paths; the policy of every page forbids scripts but its own
and everything from elsewhere. Pages that a run holds (reports, audits) are shown in a sandbox.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from pxr_env.errors import quote
from pxr_env.play.serving import PageServer
from ..rendering import render, template_file
from .curves import History
from .files import PAGES, EpisodeIndex, Library, OpenFiles, Run
from .query import NotThere, Query, run_key
from .run_pages import RunPages
from .runs_page import RunTable, compare_context

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
STATIC = {"pages.css": (("pages.css",), "text/css"), "view.js": (("pages.js", "view.js"), "text/javascript")}


class ViewServer(PageServer):
    """Serves the runs below a directory: `/` is the table of runs, `/run/NAME` a run; what is shown of it stands in
    the query.

    Args:
        port: 0 for any free one.
        replay: whether pictures are made by playing episodes again, which runs the code of their environments.

    Raises:
        OSError: the address is in use or not of this machine.
    """

    def __init__(self, root: Path, *, host: str = "127.0.0.1", port: int = 0, replay: bool = True) -> None:
        self.library = Library(root)
        indexes, histories = OpenFiles(EpisodeIndex), OpenFiles(History)
        self._table = RunTable(self.library, indexes, histories)
        self._pages = RunPages(self.library, indexes, histories, replay=replay)
        routes = [
            Route("/", lambda request: _page("view_runs.html.jinja", self._table.context(_query(request)))),
            Route("/compare", self._compare),
            Route("/static/{name}", _static),
            Route("/run/{name:path}", self._run),
            Route("/{name:path}", _nothing),
        ]
        app = Starlette(
            routes=routes,
            middleware=[Middleware(GZipMiddleware, minimum_size=2000, compresslevel=1)],
            exception_handlers={NotThere: _problem, HTTPException: _problem, Exception: _problem},
        )
        super().__init__(app, host=host, port=port, headers=HEADERS)

    def _compare(self, request: Request) -> Response:
        return _page("view_compare.html.jinja", compare_context(self.library, _query(request)))

    def _run(self, request: Request) -> Response:
        # The path as it was sent: the name of a directory need not be UTF-8.
        key, query = run_key(request.scope["raw_path"].decode("latin-1")), _query(request)
        run = self.library.runs().get(key)
        if run is None:
            raise NotThere(f'got "{quote(key)}"; there is no run of that name (any more).')
        if (name := query.get("file")) is not None:
            return _file(run, name)
        if query.get("picture") is not None:
            kind, content = self._pages.picture(run, query)
            return Response(content, media_type=kind)
        version = f'"{self._pages.version(run)}"'
        if request.headers.get("If-None-Match") == version:
            return Response(status_code=304, headers={"ETag": version})
        template, context = self._pages.page(run, query)
        return _page(template, context | {"version": version}, headers={"ETag": version})


def _query(request: Request) -> Query:
    return Query.parse(request.scope["query_string"].decode("latin-1"))


def _static(request: Request) -> Response:
    if request.path_params["name"] not in STATIC:
        return _nothing(request)
    files, kind = STATIC[request.path_params["name"]]
    return Response("\n".join(map(template_file, files)), media_type=kind)


def _nothing(request: Request) -> Response:
    raise NotThere(f'got "{quote(request.url.path)}"; there is nothing of that name.')


def _file(run: Run, name: str) -> Response:
    path = run.file(name)
    if path is None:
        raise NotThere(f'got the file "{quote(name)}", expected {" or ".join(PAGES)}, once written.')
    return HTMLResponse(path.read_bytes(), headers={"Content-Security-Policy": SANDBOX})


def _page(
    template: str, context: Mapping[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    page = render(template, {**context, "served": True})
    return HTMLResponse(page.encode("utf-8", "replace"), status, headers)


def _problem(request: Request, error: Exception) -> Response:
    match error:
        case NotThere():
            status, message = HTTPStatus.NOT_FOUND, str(error)
        case HTTPException():
            status, message = HTTPStatus(error.status_code), error.detail
        case _:
            # A file that is not what its name says, or a mistake of ours: the page says what, the terminal where.
            traceback.print_exception(error)
            status, message = HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}"
    return _page("base.html.jinja", {"status": status, "message": message}, status)
