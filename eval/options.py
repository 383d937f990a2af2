"""What the commands of `python -m eval` declare alike, what they make of it, and how they print."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from pxr_agents.chat_client import Retries, Server


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Arguments of the environment, as `env_args`."""
    parser.add_argument(
        "--set", "--env-arg", dest="env_args", action="append", default=[], type=key_value, metavar="KEY=VALUE",
        help="argument of the environment, VALUE as JSON or plain text; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--set-file", dest="env_args", action="append", type=key_file, metavar="KEY=FILE",
        help="the same with the text of a file, such as system_prompt=prompt.txt",
    )  # fmt: skip


def add_engine(group: Any, concurrency: str) -> None:
    """How many episodes at once (and what that is by default), and how an engine is started."""
    group.add_argument(
        "--concurrency", "--envs", dest="concurrency", type=int, help=f"episodes at once (default: {concurrency})"
    )
    group.add_argument(
        "--engine", action="append", default=[], type=key_value, metavar="KEY=VALUE",
        help="start argument of vllm or transformers, such as dtype=bfloat16; may be repeated",
    )  # fmt: skip


def add_server(group: Any) -> None:
    """Where a server is, and when it is given up; see `server_of`."""
    group.add_argument("--base-url", metavar="URL", help="such as http://localhost:8000/v1")
    group.add_argument(
        "--api-key-env", default="OPENAI_API_KEY", metavar="NAME",
        help="environment variable that holds the key (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--timeout", type=float, default=300.0, help="seconds for one attempt (default: 300)")
    group.add_argument("--attempts", type=int, default=8, help="most attempts of one request (default: 8)")
    group.add_argument("--retry-seconds", type=float, default=900.0, help="no retries after this (default: 900)")


def server_of(
    arguments: argparse.Namespace, model: str, base_url: str | None = None, api_key_env: str | None = None
) -> Server:
    """The server of `add_server`, or another one that is given up in the same way."""
    return Server(
        base_url=base_url or arguments.base_url,
        model=model,
        api_key_env=api_key_env or arguments.api_key_env,
        timeout=arguments.timeout,
        retries=Retries(attempts=arguments.attempts, total=arguments.retry_seconds),
    )


def key_value(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` with the value as JSON, or else as text: `max_turns=4` is ("max_turns", 4)."""
    key, value = _split(text, "KEY=VALUE, such as max_turns=4")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def key_file(text: str) -> tuple[str, str]:
    """`KEY=FILE` with the text of the file, without its last line break."""
    key, path = _split(text, "KEY=FILE, such as system_prompt=prompt.txt")
    try:
        return key, Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{path!r} cannot be read as text: {error}") from error


def _split(text: str, expected: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
    return key, value


def open_console(width: int = 240) -> Console:
    """Where a command prints; nothing is cut where the output is no terminal."""
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = width
    return console


def say(console: Console, *lines: str) -> None:
    """Print lines as they are, whatever brackets and numbers they hold, and even halves of surrogate pairs."""
    for line in lines:
        console.print(line.encode("utf-8", "replace").decode("utf-8"), soft_wrap=True, markup=False, highlight=False)
