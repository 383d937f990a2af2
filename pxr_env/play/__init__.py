"""Play: a person takes the agent's seat, in the terminal or in a browser, and sees exactly what a model sees.

`python -m pxr_env play ID`: its arguments, and the environment they describe.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.wrappers import OrderEnforcing

from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import did_you_mean, quote
from pxr_env.play.seat import Seat
from pxr_env.play.terminal import MODES, Terminal, detect, line_reader
from pxr_env.tasks import TASKS, import_module_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    add = parser.add_argument
    add("task", metavar="ID", help="id of the task; `python -m pxr_env list` lists them")
    add("--sample", metavar="ID", help="begin with the sample of that id (default: one is drawn)")
    add("--seed", type=int, help="seed of the draw")
    settings = "arguments of the task, such as data=DIR or operations=zoom_in,rotate"
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=settings)
    add = parser.add_argument_group("in the terminal").add_argument
    add("--out", type=Path, help="where images are saved (default: a temporary directory)")
    add("--images", choices=MODES, help="how images are shown (default: what the terminal can do)")
    add = parser.add_argument_group("in the browser").add_argument
    add("--web", action="store_true", help="serve a page on this machine and open it")
    add("--port", type=int, default=8765, help="its port, 0 for any free one (default: %(default)s)")
    add("--host", default="127.0.0.1", help="address to listen on; others than the default let the network in")
    add("--no-browser", action="store_true", help="only print the address")


def run(args: argparse.Namespace) -> int:
    """Plays until the person leaves; returns 0, 2 for wrong arguments, or 130 after Ctrl-C."""
    try:
        arguments = read_settings(import_module_of(args.task), args.set)
        (_play_in_browser if args.web else _play_in_terminal)(args, arguments)
    except KeyboardInterrupt:
        print("\nleft with Ctrl-C")
        return 130
    except (ValueError, TypeError, ImportError, OSError, gymnasium.error.Error) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def make_environment(task: str, arguments: dict[str, Any]) -> Any:
    """The environment of a task, one of this package or one of your own as "module:namespace/Name-v0".

    ValueError if there is no such task, or it is another kind of environment; TypeError for wrong arguments.
    """
    if import_module_of(task) not in gymnasium.registry:
        raise ValueError(
            f'got the task "{quote(task)}", expected one of {", ".join(TASKS)}.{did_you_mean(task, TASKS)} '
            'Write "module:ID" for your own.'
        )
    env = gymnasium.make(task, disable_env_checker=True, **{"render_mode": "rgb_array", **arguments})
    if not isinstance(env.unwrapped, VisualReasoningEnv):
        raise ValueError(f"{task} is a {type(env.unwrapped).__name__}; expected a task with questions about images.")
    # Wrappers of a task's own belong to it.
    return env.env if isinstance(env, OrderEnforcing) else env


def read_settings(task: str, settings: Sequence[str]) -> dict[str, Any]:
    """Reads key=value: JSON where it is JSON, else text; commas make a list where the default is one."""
    defaults = TASKS[task].parameters() if task in TASKS else {}
    arguments: dict[str, Any] = {}
    for setting in settings:
        match = re.fullmatch(r"(\w+)=(.*)", setting, re.DOTALL)
        if match is None:
            raise ValueError(f'got --set "{quote(setting)}", expected key=value, such as max_turns=3.')
        key, text = match.groups()
        if key in arguments:
            raise ValueError(f"got --set {key}=... twice, expected it once.")
        arguments[key] = _value(text, defaults.get(key))
    return arguments


def _value(text: str, default: object) -> Any:
    if isinstance(default, str) or default is inspect.Parameter.empty:
        return text
    if isinstance(default, tuple | list) and not text.startswith("["):
        return [part for part in text.split(",") if part]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _play_in_terminal(args: argparse.Namespace, arguments: dict[str, Any]) -> None:
    seat = Seat(make_environment(args.task, arguments))
    directory = args.out or Path(tempfile.mkdtemp(prefix="pxr-play-"))
    terminal = Terminal(
        seat,
        read_line=line_reader(sys.stdin, sys.stdout),
        out=sys.stdout,
        directory=directory,
        mode=args.images or detect(os.environ, is_terminal=sys.stdout.isatty()),
        columns=shutil.get_terminal_size().columns,
    )
    print(f"{args.task} · images are saved in {directory} · `help` lists what you can type")
    terminal.start(seed=args.seed, sample_id=args.sample)
    terminal.run()


def _play_in_browser(args: argparse.Namespace, arguments: dict[str, Any]) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("--web needs Gradio, which is not installed. Install it: pip install 'pxr-gym[play]'.")
    from pxr_env.play.serving import LOOPBACK, page_server

    def build() -> Any:
        from pxr_env.play.page import PersonSeat

        first = {"seed": args.seed, "sample_id": args.sample}
        return PersonSeat(lambda: make_environment(args.task, arguments), args.task, first).page

    # Nobody else can play along: the address holds a secret.
    path = f"/{secrets.token_urlsafe(18)}"
    with page_server(build, host=args.host, port=args.port, path=path) as server:
        url = f"{server.url.rstrip('/')}{path}/"
        print(f"{args.task} is played at {url}\nCtrl-C ends it.", flush=True)
        if args.host not in LOOPBACK:
            print("Everybody in the network who has this address can play.", flush=True)
        if not args.no_browser:
            webbrowser.open(url)
        server.run()
