"""The page on which a model takes the seat: what a visitor can choose, and what answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from pxr_agents.types import Sampling
from pxr_env.coordinates import FRAMES
from pxr_env.dialects import dialect_names
from pxr_env.play.page import seat_page
from pxr_env.play.serving import Transcript
from ..facts import split_turn
from ..suites import SUITES
from ..view.runs_page import model_name
from . import Defaults, OpenPlayer
from .live import SAMPLE_ID, End, ask_about, describe_sample, draw_sample, play

IMAGE, VIDEO, SAMPLE = "An image", "A video", "A synthetic sample"
#: What a visitor's mistake, a file or a server can raise.
_MISTAKES = (ValueError, TypeError, OSError, ImportError)
_BUDGET = ("min_pixels", "max_pixels")
#: Arguments that only environments with samples to draw have.
_OF_ENVIRONMENTS = ("split", "num_samples", "data")
_QUIETLY: dict[str, Any] = {"queue": False, "show_progress": "hidden"}


class ModelSeat:
    """The page. Nothing of one visitor is kept where another could see it.

    `title` is what the model is called, or the path of its checkpoint; `task` an environment that samples are drawn
    from, besides the synthetic ones. At most `at_once` episodes run at the same time; other visitors wait.
    """

    def __init__(
        self,
        open_player: OpenPlayer,
        title: str,
        defaults: Defaults,
        *,
        task: str | None,
        at_once: int,
    ) -> None:
        self._open, self._defaults = open_player, defaults
        self._stops: dict[str, threading.Event] = {}
        own = task or defaults.env_id
        tasks = {name: suite.env_id for name, suite in SUITES.items() if name.startswith("synthetic-")}
        self._tasks = ({own.rpartition("/")[2]: own} if own is not None and own not in tasks.values() else {}) | tasks
        first = next((name for name, env_id in self._tasks.items() if env_id == own), next(iter(self._tasks)))
        # Of a path, visitors need no more than its end.
        heading = f"### Ask `{model_name(title).replace('`', '')}`"
        with seat_page("pxr demo", heading) as (self.page, status, transcript):
            self._choices(first)
            self._settings()
            with gr.Row():
                ask = gr.Button("Ask", variant="primary", elem_id="ask")
                stop = gr.Button("Stop", elem_id="stop")
            ask.click(
                self._ask,
                set(self._inputs.values()),
                [transcript, status],
                concurrency_limit=at_once,
                concurrency_id="ask",
                show_progress="minimal",
                show_progress_on=status,
                trigger_mode="once",
            )
            stop.click(self._stop, None, status, **_QUIETLY)
            self.page.unload(self._forget)
        # Who has no turn yet sees the queue; longer ones are refused.
        self.page.queue(max_size=32)

    def _choices(self, first: str) -> None:
        """What is asked about, with a first sample drawn: there is something to ask about from the beginning."""
        asked_as = self._defaults.arguments
        dialect, coordinates = asked_as.get("dialect", "hermes"), asked_as.get("coordinates", "unit")
        shown, drawn = self._draw(first, 0, dialect, coordinates)
        what = gr.Radio([IMAGE, VIDEO, SAMPLE], value=SAMPLE, label="About", elem_id="what")
        with gr.Group(visible=False) as of_image:
            image = gr.Image(
                type="filepath", format="png", sources=["upload", "clipboard"], label="Image", elem_id="image"
            )
        with gr.Group(visible=False) as of_video:
            video = gr.Video(sources=["upload"], label="Video of at most two minutes", elem_id="video")
        with gr.Group(visible=False) as of_own:
            question = gr.Textbox(
                label="Question", lines=2, elem_id="question", placeholder="What is written on the sign?"
            )
        with gr.Group() as of_sample:
            task = gr.Dropdown(list(self._tasks), value=first, label="Task", elem_id="task")
            seed = gr.Number(1, precision=0, minimum=0, label="Seed", elem_id="seed")
            draw = gr.Button("Draw a sample", elem_id="draw")
        preview = gr.HTML(shown, elem_id="preview")
        sample = gr.State(drawn)
        self._inputs: dict[str, Any] = {"what": what, "image": image, "video": video, "question": question}
        self._inputs |= {
            "sample": sample,
            "dialect": gr.Dropdown(dialect_names(), value=dialect, label="Dialect", render=False),
            "coordinates": gr.Dropdown(list(FRAMES), value=coordinates, label="Coordinates", render=False),
        }

        def show(chosen: str) -> list[Any]:
            own = chosen != SAMPLE
            groups = [gr.Group(visible=one) for one in (chosen == IMAGE, chosen == VIDEO, own, not own)]
            return [*groups, gr.HTML(visible=not own)]

        what.change(show, what, [of_image, of_video, of_own, of_sample, preview], **_QUIETLY)
        draw.click(
            self._draw, [task, seed, self._inputs["dialect"], self._inputs["coordinates"]], [preview, sample]
        ).then(lambda number: int(number or 0) + 1, seed, seed, queue=False)

    def _settings(self) -> None:
        given, sampling = self._defaults.arguments, self._defaults.sampling
        with gr.Accordion("Settings", open=False):
            gr.Markdown(f"From {self._defaults.reason}.")
            for name in ("dialect", "coordinates"):
                self._inputs[name].render()
            for name, value, label in (
                ("min_pixels", 401_408, "Own images: least pixels"),
                ("max_pixels", 4_014_080, "Own images: most pixels"),
            ):
                self._inputs[name] = gr.Number(given.get(name, value), precision=0, minimum=1, label=label)
            for name, low, high, step, value, label in (
                ("temperature", 0, 2, 0.1, 0, "Temperature (0 is greedy)"),
                ("max_tokens", 16, 16_384, 16, 512, "Tokens of a turn, at most"),
            ):
                self._inputs[name] = gr.Slider(low, high, value=sampling.get(name, value), step=step, label=label)

    def _draw(self, task: str, seed: float, dialect: str, coordinates: str) -> tuple[str, dict[str, Any] | None]:
        """A sample to look at, and what `_ask` has to know of it."""
        number = int(seed or 0)
        try:
            env, sample = draw_sample(self._tasks[task], number, self._for_samples(dialect, coordinates))
            env.close()
        except _MISTAKES as error:
            return _error(error), None
        return describe_sample(sample), {"task": task, "seed": number}

    def _ask(self, data: dict[Any, Any], request: gr.Request) -> Iterator[tuple[str, str]]:
        """Yields the transcript so far, and a line about what is going on."""
        given = {name: data[place] for name, place in self._inputs.items()}
        stop = self._stops[str(request.session_hash)] = threading.Event()
        try:
            env, sample_id, target = self._environment(given)
        except _MISTAKES as error:
            yield _error(error), ""
            return
        transcript = Transcript(lambda turn: [(part.kind, part.text) for part in split_turn(turn)])
        sampling = Sampling(
            temperature=float(given["temperature"]),
            max_tokens=int(given["max_tokens"]),
            stop=tuple(self._defaults.sampling.get("stop", ())),
        )
        started, n_turns = time.monotonic(), 0
        html = transcript.html()
        for event in play(env, lambda: self._open(sampling), stop, sample_id=sample_id):
            if isinstance(event, End):
                finish(transcript, event, target)
                yield transcript.html(), f"{n_turns} turns, {time.monotonic() - started:.1f} s"
                return
            if event is not None:
                transcript.add(event)
                n_turns += event.turn is not None
                html = transcript.html()
            doing = "Stops after this turn" if stop.is_set() else f"Turn {n_turns + 1} is being written"
            yield html, f"{doing}, {time.monotonic() - started:.0f} s"

    def _stop(self, request: gr.Request) -> str:
        """Ends the visitor's episode after the turn that is being written."""
        if event := self._stops.get(str(request.session_hash)):
            event.set()
        return "Stops after this turn"

    def _forget(self, request: gr.Request) -> None:
        """The visitor has left."""
        if event := self._stops.pop(str(request.session_hash), None):
            event.set()

    def _environment(self, given: Mapping[str, Any]) -> tuple[Any, str, str | None]:
        """The environment, the sample, and its target where one is known."""
        if given["what"] == SAMPLE:
            if given["sample"] is None:
                raise ValueError("Got no sample; draw one first.")
            task, seed = self._tasks[given["sample"]["task"]], given["sample"]["seed"]
            env, sample = draw_sample(task, seed, self._for_samples(given["dialect"], given["coordinates"]))
            return env, sample.sample_id, sample.answers[0]
        known = {name: value for name, value in self._defaults.arguments.items() if name not in _OF_ENVIRONMENTS}
        chosen = {"dialect": given["dialect"], "coordinates": given["coordinates"]}
        budget = {name: int(given[name]) for name in _BUDGET}
        is_video = given["what"] == VIDEO
        path = given["video" if is_video else "image"]
        env = ask_about(path, given["question"], is_video=is_video, arguments=known | chosen | budget)
        return env, SAMPLE_ID, None

    def _for_samples(self, dialect: str, coordinates: str) -> dict[str, Any]:
        """Drawn pictures have pixel limits of their own, which fit them."""
        kept = {name: value for name, value in self._defaults.arguments.items() if name not in _BUDGET}
        return {**kept, "dialect": dialect, "coordinates": coordinates}


def finish(transcript: Transcript, end: End, target: str | None) -> None:
    """Adds the answer, or why there is none; `target` is None where nobody knows it."""
    episode = end.episode
    if end.error is not None:
        transcript.end("Error", end.error, is_error=True)
    elif episode is None:
        transcript.end("Stopped")
    elif episode.answer is None:
        transcript.end("No answer", f"The limit {episode.truncated_by} was reached.")
    else:
        verdict = "correct" if episode.correct else f"wrong, the target is {target}"
        transcript.end("Answer", *([] if target is None else [verdict]), final=episode.answer)


def _error(error: Exception) -> str:
    transcript = Transcript()
    transcript.end("Error", str(error), is_error=True)
    return transcript.html()
