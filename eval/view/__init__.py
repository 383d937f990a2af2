"""`python -m eval view RUNS_DIR`: a local server for looking at many runs. It only reads."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the runs are, and where the pages go."""
    parser.add_argument(
        "directory", type=Path, metavar="RUNS_DIR", nargs="?", default=Path("runs"), help="default: runs"
    )
    parser.add_argument("--port", type=int, default=8780, help="default: 8780; 0 for any free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--no-pictures",
        action="store_true",
        help="make no environment, so that no code runs that a manifest names: for runs of people you do not trust",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    try:
        from pxr_env.play.serving import LOOPBACK
        from .server import ViewServer
    except ImportError as error:
        raise ImportError(
            f"the viewer needs Starlette and uvicorn, and one of them cannot be imported ({error}). "
            "Install them: pip install 'pxr-gym[api]'."
        ) from error
    if not arguments.directory.is_dir():
        raise FileNotFoundError(
            f'"{arguments.directory}" is no directory. Expected one with runs in it, such as the --out of '
            "`pxr eval run` or a directory above it."
        )
    server = ViewServer(arguments.directory, host=arguments.host, port=arguments.port, replay=not arguments.no_pictures)
    n_runs = len(server.library.runs())
    print(
        f"{n_runs} run{'s' if n_runs != 1 else ''} in {arguments.directory}: {server.url}\nCtrl-C ends it.", flush=True
    )
    if arguments.host not in LOOPBACK:
        print("Everybody in the network can read these runs.", flush=True)
    if arguments.open:
        webbrowser.open(server.url)
    try:
        server.run()
    except KeyboardInterrupt:
        print()
    return 0
