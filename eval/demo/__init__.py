"""`python -m eval demo`: a local page to ask an agent about an image or a video, and to watch its turns arrive."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium

from pxr_agents.chat_client import Retries, Server
from pxr_agents.types import Agent, Sampling
from ..agents import AgentChoice, open_agent
from ..options import key_file, key_value
from ..suites import Recipe, read_recipe, recipe_names

#: What a run of `python -m training` leaves below its directory.
_MODELS_OF_RUNS = ("model", "arms/curiosity/model")
#: Parts of a model's name or `model_type`, lower case without "_" and "-" -> arguments of the environment.
_FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "qwen3vl": {"dialect": "qwen3-vl", "coordinates": "permille", "size_multiple": 32},
    "qwen25vl": {"dialect": "hermes", "coordinates": "pixel", "size_multiple": 28},
    "qwen2.5vl": {"dialect": "hermes", "coordinates": "pixel", "size_multiple": 28},
}
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
    """The server of a command line, with the model loaded, and how it is asked: for `at_once` episodes at most."""
    from pxr_env.play.serving import page_server

    choice, defaults = choose(arguments)
    with player(choice) as open_player:

        def build() -> Any:
            from .page import ModelSeat

            # A model in this process writes for one visitor at a time; the others wait for their turn.
            n = 1 if choice.server is None else at_once
            return ModelSeat(open_player, str(arguments.model), defaults, task=arguments.env, at_once=n).page

        with page_server(build, host=arguments.host, port=arguments.port) as server:
            yield server, defaults


def choose(arguments: argparse.Namespace) -> tuple[AgentChoice, Defaults]:
    """The agent of a command line, and how it is asked."""
    recipe = None if arguments.recipe is None else read_recipe(arguments.recipe)
    model, server = arguments.model, None
    if arguments.base_url is None:
        model = find_model(model)
    else:
        server = Server(
            base_url=arguments.base_url,
            model=model,
            api_key_env=arguments.api_key_env,
            timeout=arguments.timeout,
            retries=Retries(attempts=3, total=60.0),
        )
    defaults = find_defaults(model, recipe)
    defaults = replace(defaults, arguments={**defaults.arguments, **dict(arguments.env_args)})
    name, engine = "transformers" if server is None else "openai", dict(arguments.engine)
    choice = AgentChoice(name=name, model=model, server=server, engine=engine)
    return choice, defaults


@contextmanager
def player(choice: AgentChoice) -> Iterator[OpenPlayer]:
    """What opens an agent for one episode: a conversation of its own with a server, or the one model that is loaded."""
    if choice.server is not None:
        yield lambda sampling: open_agent(replace(choice, sampling=sampling))
        return
    with open_agent(choice) as loaded:
        agent: Any = loaded
        yield lambda sampling: nullcontext(agent.with_sampling(sampling))


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """How a model is asked unless the visitor says otherwise: `arguments` of every environment, and of `sampling`
    `temperature`, `max_tokens` and `stop`, as far as they are known. It was trained in `env_id`; `reason` says in words
    where all this comes from.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    env_id: str | None = None
    reason: str = "the defaults of this project"


def find_model(path: str) -> str:
    """The checkpoint of a run's directory, or `path` itself."""
    if not (Path(path) / "config.json").is_file():
        for inside in _MODELS_OF_RUNS:
            if (Path(path) / inside / "config.json").is_file():
                return str(Path(path) / inside)
    return path


def find_defaults(model: str, recipe: Recipe | None = None) -> Defaults:
    """What a model, a checkpoint's directory or a server's name, wants: as the recipe says, else the run that trained
    it, a recipe with its name, or its family.
    """
    if recipe is not None:
        return _of_recipe(recipe)
    for folder in (Path(model).parent, Path(model).parent.parent):
        env = _trained_in(folder / "recipe.json")
        if Path(model).is_dir() and env is not None:
            wanted = {**_budget(env["id"], env["kwargs"]), **env["kwargs"]}
            return Defaults(arguments=wanted, env_id=env["id"], reason=f"the run {folder.resolve().name}")
    for name in recipe_names():
        known = read_recipe(name)
        if known.model is not None and known.model.rpartition("/")[2].lower() in model.lower():
            return _of_recipe(known)
    kind = str(_read(Path(model) / "config.json").get("model_type") or model)
    for family, arguments in _FAMILIES.items():
        if family in kind.lower().replace("_", "").replace("-", ""):
            return Defaults(arguments=arguments, reason="its family (docs/models.md)")
    return Defaults()


def _of_recipe(recipe: Recipe) -> Defaults:
    return Defaults(arguments=recipe.env, sampling=recipe.sampling, reason=f"the recipe {recipe.name}")


def _trained_in(path: Path) -> dict[str, Any] | None:
    told = _read(path)
    env = told.get("env")
    if isinstance(env, dict) and isinstance(env.get("id"), str) and isinstance(env.get("kwargs"), dict):
        return env
    return None


def _budget(env_id: str, arguments: Mapping[str, Any]) -> dict[str, int]:
    """The pixel budget of the images a model was trained on; nothing where the environment cannot be made here."""
    try:
        env = gymnasium.make(env_id, disable_env_checker=True, **arguments)
    except (gymnasium.error.Error, ValueError, TypeError, OSError, ImportError):
        return {}
    base: Any = env.unwrapped
    return dict(base.rules.image_budget)


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
