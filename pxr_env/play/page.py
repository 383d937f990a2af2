"""The page on which a person takes the seat, and the frame of the page on which a model does (`eval.demo`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import gradio as gr
import gymnasium
import numpy as np
from PIL import Image, ImageDraw

from pxr_env.coordinates import Frame
from pxr_env.env import VisualReasoningEnv
from pxr_env.operations import Operation
from pxr_env.play.seat import DRAWN, SEVERAL, Field, Message, Seat, fields_of, read_arguments
from pxr_env.play.serving import Moment, Transcript, describe_view, enlarged, text
from pxr_env.views import Size

#: People who play at the same time; one more closes the seat that was not used for longest.
MAX_SEATS = 8
#: Seconds after which files of the page go, looked for every so many.
KEPT_SECONDS, SWEEP_SECONDS = 1800, 60
#: Side up to which a small image is enlarged, so that a click can hit a pixel of it.
_PICTURE_SIDE = 840
_COLOUR, _HALO = (255, 157, 0), (0, 0, 0)
_QUIET: dict[str, Any] = {"show_progress": "hidden"}
#: Turns are played one after the other: the environments of two seats may share a file.
_IN_TURN: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "turn", **_QUIET}


@dataclass(frozen=True, kw_only=True)
class Form:
    """The inputs of one operation; what stands in them is what is sent."""

    operation: Operation
    inputs: Mapping[str, tuple[Field, Any]]  # name of an argument -> what it is, and where it is filled in
    draws: Any  # chooses the argument that clicks on the image draw, None where nothing is drawn

    def texts(self, data: Mapping[Any, Any]) -> dict[str, str]:
        """What was filled in for each argument; an optional one that stands at its default is left out."""
        given = {}
        for name, (argument, place) in self.inputs.items():
            value = data[place]
            if value is not None and (argument.required or value != argument.default):
                given[name] = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        return given

    def of_kind(self, *kinds: str) -> list[tuple[Field, Any]]:
        return [(argument, place) for argument, place in self.inputs.values() if argument.kind in kinds]


def input_for(argument: Field, operation: str) -> Any:
    """Where an argument is filled in."""
    schema, required = argument.schema, argument.required
    facts: dict[str, Any] = {
        "label": argument.name if required else f"{argument.name} (optional)",
        "info": schema.get("description") or argument.expects,
        "elem_id": f"{operation}-{argument.name}",
    }
    match argument.kind:
        case "choice" | "flag":
            options = [str(option) for option in schema.get("enum", ("true", "false"))]
            return gr.Dropdown(options if required else ["", *options], value=options[0] if required else "", **facts)
        case "image":
            return gr.Number(1, precision=0, **facts)
        case "integer" | "number":
            whole = argument.kind == "integer"
            low, high = schema.get("minimum"), schema.get("maximum")
            if low is None or high is None or not (required or isinstance(argument.default, int | float)):
                return gr.Number(None, precision=0 if whole else None, **facts)
            step = 1 if whole or high - low > 100 else 0.1 if high - low > 2 else 0.01
            value = argument.default if isinstance(argument.default, int | float) else low
            return gr.Slider(low, high, value=value, step=step, **facts)
    lines = 2 if argument.kind in SEVERAL or argument.kind in ("texts", "json") else 1
    return gr.Textbox(lines=lines, placeholder=argument.expects, **facts)


def shapes_of(argument: Field, typed: str, extent: Size) -> list[list[float]]:
    """The shapes that were typed, in fractions of the image; none where they cannot be read yet."""
    try:
        value = argument.read(typed or "")
    except ValueError:
        return []
    shapes = value if argument.kind in SEVERAL else [value]
    return [
        [number / extent[axis % 2] for axis, number in enumerate(shape)]
        for shape in shapes
        if isinstance(shape, list)
        and len(shape) == DRAWN[argument.kind]
        and all(isinstance(number, int | float) and abs(number) < 1e9 for number in shape)
    ]


def write_shapes(shapes: Sequence[Sequence[float]], extent: Size, frame: Frame) -> str:
    """Writes shapes, in fractions of the image, as they would be typed."""
    written = []
    for shape in shapes:
        numbers = [round(number * extent[axis % 2], frame.decimals) for axis, number in enumerate(shape)]
        written.append(", ".join(str(int(number)) if number == int(number) else str(number) for number in numbers))
    return ";\n".join(written)


def draw_shape(image: Image.Image, numbers: Any, *, is_box: bool) -> None:
    """Draws a box, a line or a point, given in fractions of the image, with a dark edge that shows on any ground."""
    ends = [number * (image.size[axis % 2] - 1) for axis, number in enumerate(numbers)]
    draw = ImageDraw.Draw(image)
    for colour, width in ((_HALO, 5), (_COLOUR, 3)):
        if len(ends) == 2:
            draw.circle(ends, width + 2, fill=colour)
        elif is_box:
            x1, y1, x2, y2 = ends
            draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=width)
        else:
            draw.line(ends, fill=colour, width=width)


@contextmanager
def seat_page(title: str, heading: str) -> Iterator[tuple[gr.Blocks, gr.HTML, gr.HTML]]:
    """The frame of a page: what is done in the open context stands at the left, what comes of it at the right.

    Yields:
        The page, a line about what is going on, and the place of the transcript.
    """
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(heading)
        with gr.Row():
            left = gr.Column(min_width=320)
            with gr.Column(min_width=320):
                status = gr.HTML("", elem_id="status")
                transcript = gr.HTML("", elem_id="transcript")
        with left:
            yield page, status, transcript


@dataclass(kw_only=True)
class Person:
    """What one browser tab plays, looks at and draws."""

    seat: Seat
    operation: str | None  # the one whose form is open
    transcript: Transcript = field(default_factory=Transcript)
    looked: int = 1  # number of the image that is looked at
    corner: tuple[float, float] | None = None  # where the shape that is being drawn began, in fractions of the image
    n_picked: int = 0  # images that were clicked for the form

    @property
    def extent(self) -> Size:
        """The numbers at the right and the lower edge of the image that is looked at."""
        return self.seat.env.frame.extent(self.seat.env.views[self.looked - 1].size)

    def enlarged(self) -> Image.Image:
        """That image, so large that a click can hit a pixel."""
        return enlarged(self.seat.images[self.looked - 1], _PICTURE_SIDE)

    def record(self, turn: str | None, message: Message) -> None:
        """Adds a turn and its reply to the transcript, and looks at the first new image."""
        images = [self.seat.images[number - 1] for number in message.images]
        views = self.seat.info["views"][len(self.seat.images) - len(images) :]
        overview = self.seat.env.render() if turn is not None and self.seat.is_over else None
        self.transcript.add(Moment(turn=turn, reply=message.text, images=images, views=views, overview=overview))
        if images:
            self.looked, self.corner, self.n_picked = message.images[0], None, 0
        if self.seat.is_over:
            title, *lines = self.seat.outcome()
            self.transcript.end(title, *lines)


class PersonSeat:
    """The page of one task; `first` are the `seed` and the `sample_id` of the first episode of a seat."""

    def __init__(self, make: Callable[[], gymnasium.Env], task: str, first: Mapping[str, Any]) -> None:
        self._make, self._first = make, first
        # The first visitor gets the environment that the forms were made from.
        self._made = [make()]
        env = cast(VisualReasoningEnv, self._made[0].unwrapped)
        heading = f"### Play `{task.replace('`', '')}`"
        with seat_page(f"{task} · pxr play", heading) as (self.page, self._status, self._transcript):
            self.page.state_session_capacity = MAX_SEATS
            self._state = gr.State(None)
            self._question = gr.HTML(elem_id="question")
            self._picture = gr.Image(
                interactive=False, format="png", show_label=False, buttons=["fullscreen"], elem_id="picture"
            )
            self._caption = gr.HTML(elem_id="caption")
            erase = gr.Button("Erase the last shape", size="sm", elem_id="erase", visible=bool(env.operations))
            self._gallery = gr.Gallery(
                format="png", columns=6, height=120, allow_preview=False, show_label=False, buttons=[],
                fit_columns=False, object_fit="contain", elem_id="gallery",
            )  # fmt: skip
            with gr.Column(elem_id="turn") as self._turn:
                self._forms, tabs, calls = self._operations(env)
                self._answer = gr.Textbox(label="Answer", submit_btn="Answer", elem_id="answer")
                with gr.Accordion("Write a turn as a model would", open=False):
                    self._raw = gr.Textbox(label="It is sent as it stands here", lines=4, elem_id="raw")
                    send = gr.Button("Send", elem_id="send")
            starts = self._chooser()
            with gr.Accordion("System prompt", open=False):
                self._prompt = gr.HTML(elem_id="prompt")
            self._connect(erase, tabs, calls, send, starts)

    def _operations(self, env: VisualReasoningEnv) -> tuple[dict[str, Form], dict[str, gr.Tab], dict[str, gr.Button]]:
        """A tab with a form for each operation."""
        forms, tabs, calls = {}, {}, {}
        for name, operation in env.operations.items():
            with gr.Tab(name) as tabs[name]:
                fields = fields_of(operation)
                drawn = [argument.name for argument in fields if argument.kind in DRAWN]
                how = f" {env.frame.description} Click on the image to draw." if drawn else ""
                gr.HTML(f'<div class="pxr"><p>{text(operation.description + how)}</p></div>')
                draws = gr.Radio(drawn, value=drawn[0], label="Clicks draw", visible=len(drawn) > 1) if drawn else None
                inputs = {argument.name: (argument, input_for(argument, name)) for argument in fields}
                calls[name] = gr.Button(f"Call {name}", variant="primary", elem_id=f"call-{name}")
            forms[name] = Form(operation=operation, inputs=inputs, draws=draws)
        return forms, tabs, calls

    def _chooser(self) -> dict[str, Callable[..., Any]]:
        """What begins an episode: how -> what happens to a button or to a text."""
        with gr.Row():
            following = gr.Button("Next sample", elem_id="next")
            again = gr.Button("Begin this sample again", elem_id="again")
        with gr.Accordion("Choose a sample", open=False), gr.Row():
            self._sample_id = gr.Textbox(label="Sample id", submit_btn="Begin", elem_id="sample-id")
            self._seed = gr.Textbox(label="Seed of the draw", submit_btn="Draw", elem_id="seed")
        events = {"sample_id": self._sample_id.submit, "seed": self._seed.submit}
        return {"next": following.click, "again": again.click, **events}

    def _connect(
        self, erase: gr.Button, tabs: Mapping[str, gr.Tab], calls: Mapping[str, gr.Button], send: gr.Button, starts: Any
    ) -> None:
        arguments = [place for form in self._forms.values() for _, place in form.inputs.values()]
        choices = [form.draws for form in self._forms.values() if form.draws is not None]
        given = {self._state, self._answer, self._raw, self._sample_id, self._seed, *arguments, *choices}
        shown = [self._state, self._question, self._picture, self._caption, self._gallery, self._turn]
        shown += [self._status, self._transcript, self._prompt, self._answer, self._raw, *arguments]
        looked = [self._picture, self._caption, *arguments]
        self.page.load(lambda: self._start(None, **self._first), None, shown, **_IN_TURN)
        for what, begins in starts.items():
            begins(lambda data, what=what: self._begin(data, what), given, shown, **_IN_TURN)
        for name in self._forms:
            tabs[name].select(lambda data, name=name: self._open(data, name), given, looked, **_QUIET)
            calls[name].click(lambda data, name=name: self._call(data, name), given, shown, **_IN_TURN)
        self._answer.submit(
            lambda data: self._act(data, lambda seat: seat.answer(data[self._answer])), given, shown, **_IN_TURN
        )
        send.click(lambda data: self._act(data, lambda seat: seat.send(data[self._raw])), given, shown, **_IN_TURN)
        self._picture.select(self._click, given, looked, trigger_mode="multiple", **_QUIET)
        self._gallery.select(self._pick, given, looked, trigger_mode="multiple", **_QUIET)
        erase.click(self._erase, given, looked, **_QUIET)
        for form in self._forms.values():
            for argument, place in form.of_kind("image", *DRAWN):
                typed = self._look if argument.kind == "image" else self._looked
                place.input(
                    lambda data, typed=typed, place=place: typed(data, data[place]), given, looked,
                    trigger_mode="always_last", **_QUIET,
                )  # fmt: skip

    def _person(self, data: Mapping[Any, Any]) -> Person:
        if data[self._state] is None:
            raise gr.Error("the seat is closed; expected an open one. Reload.", print_exception=False)
        return data[self._state]

    def _begin(self, data: Mapping[Any, Any], what: str) -> dict[Any, Any]:
        person = self._person(data)
        if what == "again":
            return self._start(person, sample_id=person.seat.info.get("sample_id"))
        if what == "sample_id":
            return self._start(person, sample_id=data[self._sample_id].strip())
        seed = data[self._seed].strip() if what == "seed" else None
        if seed is not None and not seed.isdecimal():
            return self._refused(person, ValueError(f'got the seed "{seed}", expected an integer of at least 0.'))
        return self._start(person, seed=None if seed is None else int(seed))

    def _start(self, person: Person | None, *, seed: int | None = None, sample_id: str | None = None) -> dict[Any, Any]:
        if person is None:
            seat = Seat(self._made.pop() if self._made else self._make())
            person = Person(seat=seat, operation=next(iter(seat.env.operations), None))
        try:
            message = person.seat.start(seed=seed, sample_id=sample_id)
        except (ValueError, OSError) as error:
            return self._refused(person, error)
        person.transcript = Transcript()
        person.record(None, message)
        return self._shown(person) | {self._answer: "", self._raw: ""}

    def _call(self, data: Mapping[Any, Any], name: str) -> dict[Any, Any]:
        form = self._forms[name]
        return self._act(data, lambda seat: seat.call(name, read_arguments(form.operation, form.texts(data))))

    def _act(self, data: Mapping[Any, Any], play: Callable[[Seat], Message]) -> dict[Any, Any]:
        """Plays a turn; one that cannot be read is refused, and nothing is sent."""
        person = self._person(data)
        try:
            message = play(person.seat)
        except (ValueError, OSError) as error:
            return self._refused(person, error)
        person.record(person.seat.sent()[-1], message)
        if message.images or person.seat.is_over:
            return self._shown(person)
        # What was filled in for a call that was refused stays, to be mended.
        return {self._status: _status(person.seat), self._transcript: person.transcript.html()}

    def _refused(self, person: Person, error: Exception) -> dict[Any, Any]:
        alert = f'<div class="pxr"><p class="error" role="alert">{text(str(error))}</p></div>'
        return {self._state: person, self._status: _status(person.seat) + alert}

    def _shown(self, person: Person) -> dict[Any, Any]:
        """The whole page, with the forms emptied of what was drawn."""
        seat = person.seat
        drawn = {place: "" for form in self._forms.values() for _, place in form.of_kind(*DRAWN)}
        images = {place: person.looked for form in self._forms.values() for _, place in form.of_kind("image")}
        times = ["" if view.get("time") is None else f" · {view['time']:.2f} s" for view in seat.info["views"]]
        labels = [f"{number}{time}" for number, time in enumerate(times, start=1)]
        return {
            self._state: person,
            self._question: f'<div class="pxr"><h2>{text(seat.env.sample.question)}</h2></div>',
            self._picture: self._drawn(person, drawn),
            self._caption: self._describe(person),
            self._gallery: gr.Gallery([*zip(seat.images, labels, strict=True)]),
            self._turn: gr.Column(visible=not seat.is_over),
            self._status: _status(seat),
            self._transcript: person.transcript.html(),
            self._prompt: f'<div class="pxr"><p>{text(seat.messages[0].text)}</p></div>',
            **drawn,
            **images,
        }

    def _open(self, data: Mapping[Any, Any], name: str) -> dict[Any, Any]:
        """The form of another operation was opened."""
        person = data[self._state]
        # The first tab opens before the seat does.
        if person is None:
            return {self._picture: gr.skip()}
        person.operation, person.corner, person.n_picked = name, None, 0
        return self._looked(data)

    def _look(self, data: Mapping[Any, Any], number: Any) -> dict[Any, Any]:
        """Looks at the image whose number was typed."""
        person = self._person(data)
        if isinstance(number, int | float) and 1 <= number <= len(person.seat.images):
            person.looked, person.corner = int(number), None
        return self._looked(data)

    def _looked(self, data: Mapping[Any, Any], typed: object = None) -> dict[Any, Any]:
        person = self._person(data)
        return {self._picture: self._drawn(person, data), self._caption: self._describe(person)}

    def _pick(self, data: dict[Any, Any], event: gr.SelectData) -> dict[Any, Any]:
        """Looks at an image that was clicked, and fills its number into the form."""
        person = self._person(data)
        number = int(event.index) + 1
        filled: dict[Any, Any] = {}
        if person.operation is not None:
            form = self._forms[person.operation]
            if images := form.of_kind("image"):
                # The next click is for the next argument: compare asks for two.
                filled[images[person.n_picked % len(images)][1]] = number
                person.n_picked += 1
            for _, place in form.of_kind("images"):
                chosen = [part.strip() for part in data[place].split(",") if part.strip()]
                kept = [part for part in chosen if part != str(number)]
                filled[place] = ", ".join(kept if len(kept) < len(chosen) else [*chosen, str(number)])
        return filled | self._look(data, number)

    def _click(self, data: dict[Any, Any], event: gr.SelectData) -> dict[Any, Any]:
        """A point, or one of the two ends of a box or a line."""
        person = self._person(data)
        if (found := self._drawing(person, data)) is None:
            return {self._picture: gr.skip()}
        argument, place = found
        edges = person.enlarged().size
        x, y = (min(max(at / edge, 0.0), 1.0) for at, edge in zip(event.index, edges, strict=True))
        numbers: tuple[float, ...] = (x, y)
        if DRAWN[argument.kind] == 4:
            if person.corner is None:
                person.corner = x, y
                return self._looked(data)
            (x1, y1), person.corner = person.corner, None
            numbers = (x1, y1, x, y)
            if argument.kind in ("box", "boxes"):
                numbers = (min(x1, x), min(y1, y), max(x1, x), max(y1, y))
        before = shapes_of(argument, data[place], person.extent) if argument.kind in SEVERAL else []
        return self._write(person, data, found, [*before, numbers])

    def _erase(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Takes back a corner, or the last shape."""
        person = self._person(data)
        if (found := self._drawing(person, data)) is None:
            return {self._picture: gr.skip()}
        shapes = shapes_of(found[0], data[found[1]], person.extent)
        if person.corner is None:
            return self._write(person, data, found, shapes[:-1])
        person.corner = None
        return self._looked(data)

    def _write(
        self, person: Person, data: dict[Any, Any], found: tuple[Field, Any], shapes: list[Any]
    ) -> dict[Any, Any]:
        """Fills shapes, in fractions of the image, into an input."""
        place = found[1]
        data[place] = write_shapes(shapes, person.extent, person.seat.env.frame)
        return {place: data[place]} | self._looked(data)

    def _drawing(self, person: Person, data: Mapping[Any, Any]) -> tuple[Field, Any] | None:
        """The argument that is drawn; None if there is none."""
        if person.operation is None or person.seat.is_over or self._forms[person.operation].draws is None:
            return None
        form = self._forms[person.operation]
        return form.inputs[data[form.draws]]

    def _drawn(self, person: Person, data: Mapping[Any, Any]) -> np.ndarray | None:
        """The image that is looked at, with the shapes of the open form."""
        if not person.seat.images:
            return None
        image = person.enlarged()
        if person.operation is not None and not person.seat.is_over:
            for argument, place in self._forms[person.operation].of_kind(*DRAWN):
                for numbers in shapes_of(argument, data[place], person.extent):
                    draw_shape(image, numbers, is_box=argument.kind in ("box", "boxes"))
            if person.corner is not None:
                draw_shape(image, person.corner, is_box=False)
        return np.asarray(image)

    def _describe(self, person: Person) -> str:
        """The line below the image that is looked at."""
        if not person.seat.images:
            return ""
        view = person.seat.info["views"][person.looked - 1]
        line = f"{describe_view(view)}, shown at {view['size'][0]}x{view['size'][1]}"
        if person.operation is not None and self._forms[person.operation].draws is not None:
            line += f" · clicks draw for {person.operation}"
        return f'<div class="pxr"><p>{text(line)}</p></div>'


def _status(seat: Seat) -> str:
    if not seat.messages:
        return ""
    n_turns, n_operations, limits = len(seat.sent()), sum(seat.info["usage"].values()), seat.env.limits
    return (
        f'<div class="pxr"><p>sample <b id="sample">{text(seat.info["sample_id"])}</b> · turns {n_turns} / '
        f"{limits.max_turns} · operations {n_operations} / {limits.max_operations}</p></div>"
    )
