"""The page: what a visitor can choose, and what answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import gradio as gr

from eval.demo.defaults import Defaults
from eval.demo.live import End, play
from eval.demo.questions import SAMPLE_ID, ask_about, draw_sample
from eval.demo.transcript import Transcript, describe_sample
from eval.suites import SUITES
from eval.view.runs_page import model_name
from pxr_agents.types import Agent, Sampling
from pxr_env.coordinates import FRAMES
from pxr_env.dialects import dialect_names

IMAGE, VIDEO, SAMPLE = "An image", "A video", "A synthetic sample"
#: Seconds after which uploaded files go, looked for every so many.
KEPT_SECONDS, SWEEP_SECONDS = 1800, 60
#: What a visitor's mistake, a file or a server can raise.
_MISTAKES = (ValueError, TypeError, OSError, ImportError)
_BUDGET = ("min_pixels", "max_pixels")
#: Arguments that only environments with samples to draw have.
_OF_ENVIRONMENTS = ("split", "num_samples", "data")


class Desk:
    """Answers the visitors. Nothing of one visitor is kept where another could see it.

    Args:
        open_player: opens an agent for one episode.
        defaults: how the model is asked.
        tasks: name -> id of the environments that samples are drawn from.
    """

    def __init__(
        self,
        open_player: Callable[[Sampling], AbstractContextManager[Agent]],
        defaults: Defaults,
        tasks: dict[str, str],
    ) -> None:
        self._open, self._defaults, self.tasks = open_player, defaults, tasks
        self._stops: dict[str, threading.Event] = {}

    def draw(self, task: str, seed: float, dialect: str, coordinates: str) -> tuple[str, dict[str, Any] | None]:
        """A sample to look at, and what `ask` has to know of it."""
        number = int(seed or 0)
        try:
            env, sample = draw_sample(self.tasks[task], number, self._for_samples(dialect, coordinates))
            env.close()
        except _MISTAKES as error:
            transcript = Transcript()
            transcript.fail(str(error))
            return transcript.html(), None
        return describe_sample(sample), {"task": task, "seed": number}

    def ask(
        self,
        what: str,
        image: str | None,
        video: str | None,
        question: str,
        drawn: dict[str, Any] | None,
        dialect: str,
        coordinates: str,
        min_pixels: float,
        max_pixels: float,
        temperature: float,
        max_tokens: float,
        request: gr.Request,
    ) -> Iterator[tuple[str, str]]:
        """Yields the transcript so far, and a line about what is going on."""
        transcript = Transcript()
        stop = self._stops[str(request.session_hash)] = threading.Event()
        try:
            env, sample_id, target = self._environment(
                what, image, video, question, drawn, dialect, coordinates, (min_pixels, max_pixels)
            )
        except _MISTAKES as error:
            transcript.fail(str(error))
            yield transcript.html(), ""
            return
        stops = tuple(self._defaults.sampling.get("stop", ()))
        sampling = Sampling(temperature=float(temperature), max_tokens=int(max_tokens), stop=stops)
        started, n_turns = time.monotonic(), 0
        html = transcript.html()
        for event in play(env, lambda: self._open(sampling), stop, sample_id=sample_id):
            if isinstance(event, End):
                transcript.finish(event, target)
                yield transcript.html(), f"{n_turns} turns, {time.monotonic() - started:.1f} s"
                return
            if event is not None:
                transcript.add(event)
                n_turns += event.turn is not None
                html = transcript.html()
            doing = "Stops after this turn" if stop.is_set() else f"Turn {n_turns + 1} is being written"
            yield html, f"{doing}, {time.monotonic() - started:.0f} s"

    def stop(self, request: gr.Request) -> str:
        """Ends the visitor's episode after the turn that is being written."""
        event = self._stops.get(str(request.session_hash))
        if event is not None:
            event.set()
        return "Stops after this turn"

    def forget(self, request: gr.Request) -> None:
        """The visitor has left."""
        event = self._stops.pop(str(request.session_hash), None)
        if event is not None:
            event.set()

    def _environment(
        self,
        what: str,
        image: str | None,
        video: str | None,
        question: str,
        drawn: dict[str, Any] | None,
        dialect: str,
        coordinates: str,
        budget: tuple[float, float],
    ) -> tuple[Any, str, str | None]:
        """The environment, the sample, and its target where one is known."""
        if what == SAMPLE:
            if drawn is None:
                raise ValueError("No sample came; draw one first.")
            env, sample = draw_sample(self.tasks[drawn["task"]], drawn["seed"], self._for_samples(dialect, coordinates))
            return env, sample.sample_id, sample.answers[0]
        arguments = {
            **{name: value for name, value in self._defaults.arguments.items() if name not in _OF_ENVIRONMENTS},
            "dialect": dialect,
            "coordinates": coordinates,
            **dict(zip(_BUDGET, map(int, budget), strict=True)),
        }
        is_video = what == VIDEO
        env = ask_about(video if is_video else image, question, is_video=is_video, arguments=arguments)
        return env, SAMPLE_ID, None

    def _for_samples(self, dialect: str, coordinates: str) -> dict[str, Any]:
        """Drawn pictures have pixel limits of their own, which fit them."""
        kept = {name: value for name, value in self._defaults.arguments.items() if name not in _BUDGET}
        return {**kept, "dialect": dialect, "coordinates": coordinates}


def build(
    open_player: Callable[[Sampling], AbstractContextManager[Agent]],
    *,
    title: str,
    defaults: Defaults,
    task: str | None,
    at_once: int,
) -> gr.Blocks:
    """The page.

    Args:
        open_player: opens an agent for one episode.
        title: what the model is called, or the path of its checkpoint.
        defaults: how it is asked unless a visitor says otherwise.
        task: an environment that samples are drawn from, besides the synthetic ones.
        at_once: most episodes that run at the same time; other visitors wait.
    """
    own = task or defaults.env_id
    tasks = {name: suite.env_id for name, suite in SUITES.items() if name.startswith("synthetic-")}
    tasks = ({own.rpartition("/")[2]: own} if own is not None and own not in tasks.values() else {}) | tasks
    first = next((name for name, env_id in tasks.items() if env_id == own), next(iter(tasks)))
    desk = Desk(open_player, defaults, tasks)
    with gr.Blocks(title="pxr demo", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)) as page:
        # Of a path, visitors need no more than its end.
        gr.Markdown(f"### Ask `{model_name(title).replace('`', '')}`")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                controls = _question(desk, first, defaults)
                settings = _settings(defaults)
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", elem_id="ask")
                    stop = gr.Button("Stop", elem_id="stop")
            with gr.Column(scale=3, min_width=320):
                status = gr.HTML("", elem_id="status")
                answer = gr.HTML("", elem_id="answer")
        _connect(desk, controls, settings, ask, stop, status, answer, at_once)
        page.unload(desk.forget)
    # Who has no turn yet sees the queue; longer ones are refused.
    page.queue(max_size=32)
    return page


def _question(desk: Desk, first: str, defaults: Defaults) -> dict[str, Any]:
    """The controls, with a first sample drawn: there is something to ask about before anybody has chosen anything."""
    shown, drawn = desk.draw(first, 0, *asked_as(defaults))
    what = gr.Radio([IMAGE, VIDEO, SAMPLE], value=SAMPLE, label="About", elem_id="what")
    with gr.Group(visible=False) as image_group:
        image = gr.Image(type="filepath", format="png", sources=["upload", "clipboard"], label="Image", elem_id="image")
    with gr.Group(visible=False) as video_group:
        video = gr.Video(sources=["upload"], label="Video of at most two minutes", elem_id="video")
    with gr.Group(visible=False) as text_group:
        question = gr.Textbox(label="Question", lines=2, elem_id="question", placeholder="What is written on the sign?")
    with gr.Group() as sample_group:
        task = gr.Dropdown(list(desk.tasks), value=first, label="Task", elem_id="task")
        seed = gr.Number(1, precision=0, minimum=0, label="Seed", elem_id="seed")
        draw = gr.Button("Draw a sample", elem_id="draw")
    preview = gr.HTML(shown, elem_id="preview")
    return {
        "what": what,
        "image": image,
        "video": video,
        "question": question,
        "task": task,
        "seed": seed,
        "draw": draw,
        "preview": preview,
        "drawn": gr.State(drawn),
        "groups": [image_group, video_group, text_group, sample_group, preview],
    }


def asked_as(defaults: Defaults) -> tuple[str, str]:
    """The dialect and the coordinates that the settings begin with."""
    return defaults.arguments.get("dialect", "hermes"), defaults.arguments.get("coordinates", "unit")


def _settings(defaults: Defaults) -> list[Any]:
    given, sampling = defaults.arguments, defaults.sampling
    dialect, coordinates = asked_as(defaults)
    with gr.Accordion("Settings", open=False):
        gr.Markdown(f"From {defaults.reason}.")
        return [
            gr.Dropdown(dialect_names(), value=dialect, label="Dialect"),
            gr.Dropdown(list(FRAMES), value=coordinates, label="Coordinates"),
            gr.Number(given.get("min_pixels", 401_408), precision=0, minimum=1, label="Own images: least pixels"),
            gr.Number(given.get("max_pixels", 4_014_080), precision=0, minimum=1, label="Own images: most pixels"),
            gr.Slider(0, 2, value=sampling.get("temperature", 0), step=0.1, label="Temperature (0 is greedy)"),
            gr.Slider(16, 16_384, value=sampling.get("max_tokens", 512), step=16, label="Tokens of a turn, at most"),
        ]


def _connect(
    desk: Desk,
    controls: dict[str, Any],
    settings: list[Any],
    ask: gr.Button,
    stop: gr.Button,
    status: gr.HTML,
    answer: gr.HTML,
    at_once: int,
) -> None:
    dialect, coordinates = settings[:2]

    def show(what: str) -> list[Any]:
        visible = (what == IMAGE, what == VIDEO, what != SAMPLE, what == SAMPLE)
        return [*(gr.Group(visible=one) for one in visible), gr.HTML(visible=what == SAMPLE)]

    controls["what"].change(show, controls["what"], controls["groups"], queue=False, show_progress="hidden")
    controls["draw"].click(
        desk.draw,
        [controls["task"], controls["seed"], dialect, coordinates],
        [controls["preview"], controls["drawn"]],
    ).then(lambda seed: int(seed or 0) + 1, controls["seed"], controls["seed"], queue=False)
    inputs = [controls[name] for name in ("what", "image", "video", "question", "drawn")]
    ask.click(
        desk.ask,
        [*inputs, *settings],
        [answer, status],
        concurrency_limit=at_once,
        concurrency_id="ask",
        show_progress="minimal",
        show_progress_on=status,
        trigger_mode="once",
    )
    stop.click(desk.stop, None, status, queue=False, show_progress="hidden")
