"""`python -m eval demo`: a local page to ask an agent about an image or a video, and to watch its turns arrive."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from eval.agents import AgentChoice, open_agent
from eval.demo.defaults import Defaults, find_defaults, find_model
from eval.options import key_file, key_value
from eval.suites import read_recipe
from pxr_agents.chat_client import Retries, Server
from pxr_agents.types import Agent, Sampling

#: Opens an agent for one episode, with this sampling.
OpenPlayer = Callable[[Sampling], AbstractContextManager[Agent]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whom to ask, how, and where the page is served."""
    parser.add_argument("--model", metavar="PATH", help="checkpoint or run directory; with --base-url the model's name")
    parser.add_argument("--base-url", metavar="URL", help="any OpenAI-compatible server, http://localhost:8000/v1")
    parser.add_argument("--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help="variable that holds the key")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one attempt (default: 120)")
    parser.add_argument(
        "--engine",
        action="append",
        default=[],
        type=key_value,
        metavar="KEY=VALUE",
        help="how a checkpoint is loaded, such as dtype=bfloat16 or device=cuda:0; may be repeated",
    )
    parser.add_argument("--recipe", metavar="NAME", help="how a released model wants to be asked (docs/reproduce.md)")
    parser.add_argument(
        "--env", metavar="ENV_ID", help="environment that samples are drawn from, besides the synthetic"
    )
    parser.add_argument(
        "--set",
        dest="env_args",
        action="append",
        default=[],
        type=key_value,
        metavar="KEY=VALUE",
        help="argument of every environment, VALUE as JSON or plain text; may be repeated",
    )
    parser.add_argument("--set-file", dest="env_args", action="append", type=key_file, metavar="KEY=FILE")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=7860, help="port, 0 for any free one (default: 7860)")


def run(arguments: argparse.Namespace) -> int:
    """Load the model, serve the page until Ctrl-C."""
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("the demo needs Gradio, which is not installed. Install it: pip install 'pxr-gym[demo]'.")
    if arguments.model is None:
        raise ValueError(
            "got no model; expected --model PATH, a checkpoint or what a training run left, or --base-url URL --model "
            "NAME, a server."
        )
    from pxr_env.play.serving import LOOPBACK

    with open_demo(arguments) as (server, defaults):
        print(f"{arguments.model}, asked as by {defaults.reason}: {server.url}\nCtrl-C ends it.", flush=True)
        if arguments.host not in LOOPBACK:
            print("Everybody in the network who can reach this machine can use it.", flush=True)
        try:
            server.run()
        except KeyboardInterrupt:
            print()
    return 0


@contextmanager
def open_demo(arguments: argparse.Namespace, at_once: int = 8) -> Iterator[tuple[Any, Defaults]]:
    """The server of a command line, with the model loaded, and how it is asked.

    Args:
        arguments: of `add_arguments`.
        at_once: most episodes that a server is asked for at the same time.
    """
    from pxr_env.play.serving import page_server

    choice, defaults = choose(arguments)
    with player(choice) as open_player:

        def build() -> Any:
            from eval.demo.page import ModelSeat

            # A model in this process writes for one visitor at a time; the others wait for their turn.
            n = 1 if choice.server is None else at_once
            return ModelSeat(open_player, str(arguments.model), defaults, task=arguments.env, at_once=n).page

        with page_server(build, host=arguments.host, port=arguments.port) as server:
            yield server, defaults


def choose(arguments: argparse.Namespace) -> tuple[AgentChoice, Defaults]:
    """The agent of a command line, and how it is asked."""
    recipe = None if arguments.recipe is None else read_recipe(arguments.recipe)
    server = None
    model = arguments.model
    if arguments.base_url is not None:
        retries = Retries(attempts=3, total=60.0)
        server = Server(
            base_url=arguments.base_url,
            model=model,
            api_key_env=arguments.api_key_env,
            timeout=arguments.timeout,
            retries=retries,
        )
    else:
        model = find_model(model)
    defaults = find_defaults(model, recipe)
    defaults = replace(defaults, arguments={**defaults.arguments, **dict(arguments.env_args)})
    choice = AgentChoice(
        name="transformers" if server is None else "openai",
        model=model,
        server=server,
        engine=dict(arguments.engine),
    )
    return choice, defaults


@contextmanager
def player(choice: AgentChoice) -> Iterator[OpenPlayer]:
    """What opens an agent for one episode: a conversation of its own with a server, or the one model that is loaded."""
    if choice.server is not None:

        @contextmanager
        def talk(sampling: Sampling) -> Iterator[Agent]:
            with open_agent(replace(choice, sampling=sampling), concurrency=1) as agent:
                yield agent

        yield talk
        return
    with open_agent(choice) as loaded:

        @contextmanager
        def use(sampling: Sampling) -> Iterator[Agent]:
            agent: Any = loaded
            yield agent.with_sampling(sampling)

        yield use
