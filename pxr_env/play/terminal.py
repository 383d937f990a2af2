"""Play in a terminal: read short commands, show what a model would see."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pxr_env.errors import did_you_mean, quote
from pxr_env.play.seat import Message, Seat, explain, read_call, usage

#: Command -> its argument and what it does, as `help` lists them.
COMMANDS = {
    "answer": ("TEXT", "give the final answer"),
    "raw": ("[TEXT]", "send a turn exactly as a model would write it; alone: several lines, then a line with one dot"),
    "show": ("N", "show image N again"),
    "prompt": ("", "show the system prompt"),
    "next": ("", "begin an episode with a new sample"),
    "again": ("", "begin this sample again"),
    "sample": ("ID", "begin the sample of that id"),
    "help": ("[NAME]", "explain a command or an operation"),
    "quit": ("", "leave; so do end of file and Ctrl-C"),
}

#: Reads one line without its end, after showing a prompt; None at the end of the input.
ReadLine = Callable[[str], "str | None"]
#: Ways to show images; "files" shows none.
MODES = ("blocks", "files")
#: From this many images on they are shown as one contact sheet.
SHEET_FROM = 4
_SHEET_COLUMNS, _SHEET_CELL, _SHEET_MARGIN = 4, 320, 22
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Terminal:
    """One person at a terminal, `columns` characters wide.

    Every image is saved below `directory` as a PNG file, in a folder for each episode; `mode` is one of `MODES`.
    """

    def __init__(
        self, seat: Seat, *, read_line: ReadLine, out: TextIO, directory: Path, mode: str = "files", columns: int = 80
    ) -> None:
        self.seat, self.directory, self.mode, self.columns = seat, directory, mode, columns
        self._read_line, self._out = read_line, out
        self._n_episodes = 0
        self._sample_id: str | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "answer": lambda text: self._turn(lambda: self.seat.answer(text)),
            "raw": self._raw,
            "show": self._show_again,
            "prompt": lambda rest: self._write(self.seat.messages[0].text),
            "next": lambda rest: self.start(),
            "again": lambda rest: self.start(sample_id=self._sample_id),
            "sample": lambda rest: self.start(sample_id=rest),
            "help": self._help,
        }

    def run(self) -> None:
        """Reads commands until `quit` or the end of the input."""
        while (line := self._read_line("> ")) is not None:
            name, rest = [*line.split(maxsplit=1), "", ""][:2]
            if name == "quit":
                return
            try:
                self._do(name, rest.strip())
            except ValueError as error:
                self._write(f"{error}\nNothing was sent. `help` lists what there is.")

    def start(self, *, seed: int | None = None, sample_id: str | None = None) -> None:
        """Begins an episode and shows it; ValueError if the sample is unknown or cannot be shown."""
        message = self.seat.start(seed=seed, sample_id=sample_id)
        self._n_episodes += 1
        self._sample_id = self.seat.info["sample_id"]
        env = self.seat.env
        limits = f"at most {env.limits.max_turns} turns and {env.limits.max_operations} operations"
        operations = ", ".join(usage(operation) for operation in env.operations.values()) or "none"
        self._write(f"\nsample {self._sample_id} · {limits}")
        self._write(f"operations: {operations}\n{env.frame.description}\n")
        self._show(message)

    def _do(self, name: str, rest: str) -> None:
        operations = self.seat.env.operations
        if name in self._commands:
            self._commands[name](rest)
        elif name in operations:
            self._turn(lambda: self.seat.call(name, read_call(operations[name], rest)))
        elif name:
            names = [*operations, *COMMANDS]
            raise ValueError(f'got "{quote(name)}", expected one of {", ".join(names)}.{did_you_mean(name, names)}')

    def _turn(self, play: Callable[[], Message]) -> None:
        if self.seat.is_over:
            raise ValueError("no episode is running; expected next, again, sample ID or quit.")
        message = play()
        self._write("\n".join(f"« {line}" for line in self.seat.sent()[-1].splitlines()))
        self._show(message)
        if not self.seat.is_over:
            return
        title, *lines = self.seat.outcome()
        self._write("\n".join([f"\n— {title} —", *lines]))
        picture = self.seat.env.render()
        if picture is not None:
            path = self._folder() / "overview.png"
            Image.fromarray(picture).save(path)
            self._write(f"sources with the boxes of all images: {path}")
        self._write("next, again, sample ID or quit?")

    def _raw(self, text: str) -> None:
        lines = [text] if text else []
        while not text and (line := self._read_line("| ")) not in (None, "."):
            lines.append(str(line))
        self._turn(lambda: self.seat.send("\n".join(lines)))

    def _show_again(self, text: str) -> None:
        if not text.isdecimal() or not 1 <= int(text) <= len(self.seat.images):
            raise ValueError(f'got image "{quote(text)}", expected a number from 1 to {len(self.seat.images)}.')
        self._show_images([int(text)])

    def _help(self, name: str) -> None:
        env = self.seat.env
        if not name:
            rows = [(usage(operation), operation.description) for operation in env.operations.values()]
            rows += [(f"{command} {argument}".rstrip(), text) for command, (argument, text) in COMMANDS.items()]
            left = max(len(usage) for usage, _ in rows)
            self._write("\n".join(f"  {usage:<{left}}  {text}" for usage, text in rows))
            self._write("\n  `help NAME` explains the arguments of an operation.")
        elif name in env.operations:
            self._write(explain(env.operations[name], env.frame))
        elif name in COMMANDS:
            argument, text = COMMANDS[name]
            self._write(f"{name} {argument}".rstrip() + f"\n  {text}")
        else:
            names = [*env.operations, *COMMANDS]
            raise ValueError(f'got help for "{quote(name)}", expected one of {", ".join(names)}.')

    def _show(self, message: Message) -> None:
        for number in message.images:
            Image.fromarray(self.seat.images[number - 1]).save(self._file(number), compress_level=1)
        self._show_images(message.images)
        if message.text:
            self._write(message.text)

    def _show_images(self, numbers: Sequence[int]) -> None:
        images = [self.seat.images[number - 1] for number in numbers]
        if len(images) >= SHEET_FROM:
            self._draw(contact_sheet(images, numbers))
        for number, image in zip(numbers, images, strict=True):
            if len(images) < SHEET_FROM:
                self._draw(image)
            height, width = image.shape[:2]
            self._write(f"[image {number}, {width}x{height}: {self._file(number)}]")

    def _draw(self, image: np.ndarray) -> None:
        if self.mode == "blocks":
            # Enlarged to half the terminal at least, and never wider than it.
            columns = max(1, min(self.columns, max(image.shape[1], self.columns // 2)))
            self._out.write(blocks(image, columns) + "\n")

    def _folder(self) -> Path:
        folder = self.directory / f"episode_{self._n_episodes:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _file(self, number: int) -> Path:
        return self._folder() / f"image_{number:02d}.png"

    def _write(self, text: str) -> None:
        """Writes foreign text: control characters could command the terminal, so they are replaced."""
        self._out.write(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text) + "\n")
        self._out.flush()


def line_reader(source: TextIO, out: TextIO) -> ReadLine:
    """What reads commands: with editing and history from a terminal, else line by line with an echo."""
    if source is sys.stdin and source.isatty() and out.isatty():
        # Importing readline gives `input` its line editing; not every Python has it.
        if importlib.util.find_spec("readline") is not None:
            importlib.import_module("readline").parse_and_bind("tab: complete")
        return _ask

    def read(prompt: str) -> str | None:
        line = source.readline()
        if not line:
            return None
        line = line.rstrip("\r\n")
        out.write(f"{prompt}{line}\n")
        return line

    return read


def _ask(prompt: str) -> str | None:
    try:
        return input(prompt)
    except EOFError:
        print()
        return None


def detect(environment: Mapping[str, str], *, is_terminal: bool) -> str:
    """How a terminal with these environment variables shows images, one of `MODES`."""
    return "blocks" if is_terminal and environment.get("TERM", "") not in ("", "dumb") else "files"


def blocks(pixels: np.ndarray, columns: int) -> str:
    """An image, uint8 HxWx3, as lines of `columns` half blocks in 24-bit colours, two pixels each."""
    height, width = pixels.shape[:2]
    rows = max(1, round(height * columns / width / 2))
    grid = np.asarray(Image.fromarray(pixels).resize((columns, 2 * rows), Image.Resampling.LANCZOS))
    return "\n".join(_row(upper, lower) for upper, lower in zip(grid[::2], grid[1::2], strict=True))


def _row(upper: np.ndarray, lower: np.ndarray) -> str:
    """One line of half blocks; a colour is only set where it changes."""
    codes, before = [], ""
    for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
        colours = f"\x1b[38;2;{above[0]};{above[1]};{above[2]};48;2;{below[0]};{below[1]};{below[2]}m"
        codes.append(("" if colours == before else colours) + "\N{UPPER HALF BLOCK}")
        before = colours
    return "".join(codes) + "\x1b[0m"


def contact_sheet(images: Sequence[np.ndarray], numbers: Sequence[int]) -> np.ndarray:
    """Several images as one, uint8 HxWx3, each small and under its number, as the frames of a video are."""
    columns = min(_SHEET_COLUMNS, len(images))
    small = [Image.fromarray(image) for image in images]
    for picture in small:
        picture.thumbnail((_SHEET_CELL, _SHEET_CELL), Image.Resampling.LANCZOS)
    row_height = max(picture.height for picture in small) + _SHEET_MARGIN
    sheet = Image.new("RGB", (columns * _SHEET_CELL, math.ceil(len(small) / columns) * row_height))
    draw = ImageDraw.Draw(sheet)
    for place, (picture, number) in enumerate(zip(small, numbers, strict=True)):
        row, column = divmod(place, columns)
        left, top = column * _SHEET_CELL, row * row_height
        draw.text((left + 4, top + 3), str(number), fill="white", font=ImageFont.load_default(16))
        sheet.paste(picture, (left + (_SHEET_CELL - picture.width) // 2, top + _SHEET_MARGIN))
    return np.array(sheet, dtype=np.uint8)
