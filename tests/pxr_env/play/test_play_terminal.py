"""Whole games in the terminal: in a process of their own, and on streams."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from PIL import Image

from pxr_env.__main__ import main
from pxr_env.operations import get_operation
from pxr_env.play import Seat, make_environment, read_settings
from pxr_env.play import terminal as terminal_module
from pxr_env.play.seat import read_call
from pxr_env.play.terminal import COMMANDS, Terminal, blocks, contact_sheet, detect, line_reader

SEARCH = "pxr/SyntheticSearch-v0"


def play(env, directory, *lines, mode="files", **start):
    """Plays these lines and returns what was written."""
    out = io.StringIO()
    typed = io.StringIO("".join(f"{line}\n" for line in lines))
    terminal = Terminal(Seat(env), read_line=line_reader(typed, out), out=out, directory=directory, mode=mode)
    terminal.start(**(start or {"seed": 0}))
    terminal.run()
    return out.getvalue()


def test_an_oracle_plays_a_whole_episode_in_a_process(search, oracle, tmp_path):
    search.reset(seed=5)
    box, target = oracle(search), search.sample.answers[0]
    typed = f"zoom_in target_image=1 bbox_2d={box}\nanswer {target}\nquit\n"
    command = [sys.executable, "-m", "pxr_env", "play", SEARCH, "--seed", "5", "--out", str(tmp_path)]
    result = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert search.sample.question in result.stdout
    assert f'answer "{target}", target "{target}": correct' in result.stdout
    assert "reward 1 = correct +1" in result.stdout

    # The saved images are what a model is shown, byte for byte.
    (first,) = search.reset(seed=5)[0]["images"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "episode_001" / "image_01.png")), first)
    call = f'{{"name": "zoom_in", "arguments": {{"bbox_2d": [{box}], "target_image": 1}}}}'
    second = search.step(f"<tool_call>{call}</tool_call>")[0]["images"][0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "episode_001" / "image_02.png")), second)
    assert (tmp_path / "episode_001" / "overview.png").is_file()


def test_the_turn_that_is_sent_is_what_the_dialect_writes(search, oracle, tmp_path):
    search.reset(seed=0)
    written = play(search, tmp_path, f"zoom_in {oracle(search)} 1", "answer X")
    assert "« <tool_call>\n" in written
    assert '« {"name": "zoom_in", "arguments": {"bbox_2d": [' in written
    assert "« \\boxed{X}\n" in written


def test_mistakes_of_the_person_send_nothing(search, tmp_path):
    lines = ["zom_in 1", "zoom_in target_image=1", "zoom_in 0 0 1 1 one", "show 2", "help nothing", "", "answer"]
    written = play(search, tmp_path, *lines)
    assert written.count("Nothing was sent.") == 6
    assert 'Did you mean "zoom_in"?' in written
    assert search._episode.n_turns == 0


def test_mistakes_that_a_model_could_make_are_answered_as_to_a_model(search, tmp_path):
    lines = ["zoom_in 0 0 2 2 1", "raw I think.", "raw", "<tool_call>", "{}", "</tool_call>", "."]
    written = play(search, tmp_path, *lines)
    search.reset(seed=0)
    zoom = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 2, 2], "target_image": 1}}</tool_call>'
    for turn in (zoom, "I think.", "<tool_call>\n{}\n</tool_call>"):
        assert search.step(turn)[0]["text"] in written
    assert "truncated by max_turns" in written
    assert "answer no answer" in written


def test_after_the_end_only_a_new_episode_can_begin(search, tmp_path):
    lines = ["answer T", "answer T", "zoom_in 0 0 1 1 1", "again", "next", "sample train-3", "sample no", "quit"]
    written = play(search, tmp_path, *lines)
    assert written.count("no episode is running; expected next, again, sample ID or quit.") == 2
    search.reset(seed=0)
    assert written.count(f"sample {search.sample.sample_id} ·") == 2
    assert "sample train-3 ·" in written
    assert 'got the sample "no"' in written
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"episode_{number:03d}" for number in (1, 2, 3, 4)]


def test_what_would_help_to_answer_is_told_at_the_end_only(search, tmp_path):
    before = play(search, tmp_path, "help", "help zoom_in", "prompt", "show 1")
    after = play(search, tmp_path, "answer T")
    for secret in ("evidence_box", "needs_operation", "category", 'target "'):
        assert secret not in before
        assert secret in after


def test_a_question_cannot_command_the_terminal(ask, tmp_path):
    written = play(ask("\x1b]0;title\x07\x1b[2J\x9b31m wide \u202etfel"), tmp_path, "quit")
    for control in "\x1b\x07\x9b\u202e":
        assert control not in written
    assert "�]0;title��[2J�31m wide �tfel" in written


def test_images_are_drawn_where_the_terminal_can(search, tmp_path):
    # An image as wide as the 80 characters, and half as high.
    assert play(search, tmp_path, "quit", mode="blocks").count("▀\x1b[0m\n") == 40
    assert "▀" not in play(search, tmp_path, "quit")


def test_frames_of_a_video_are_drawn_as_one_sheet(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(terminal_module, "blocks", lambda pixels, columns: drawn.append(pixels.shape[1]) or "")
    env = make_environment("pxr/SyntheticVideo-v0", {"max_turns": 6})
    written = play(env, tmp_path, "select_frames 1 2", "seek 0 0.5", "show 3", mode="blocks")
    # The first frames as a sheet of four columns, two frames apart, the four or more of half a second as a sheet, one.
    assert [width == 4 * 320 for width in drawn] == [True, False, False, True, False]
    shown = len(list((tmp_path / "episode_001").glob("image_*.png")))
    assert written.count("[image ") == shown + 1


def test_blocks_by_hand():
    # Two columns and four rows of pixels are two columns and two lines of half blocks; red, green, blue and white rows.
    rows = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    pixels = np.array([[row, row] for row in rows], dtype=np.uint8)
    assert blocks(pixels, 2) == (
        "\x1b[38;2;255;0;0;48;2;0;255;0m▀▀\x1b[0m\n\x1b[38;2;0;0;255;48;2;255;255;255m▀▀\x1b[0m"
    )


def test_blocks_keep_the_shape_of_the_image():
    # A character is about twice as high as wide: as many lines as half the columns times height over width.
    for shape, columns, n_lines in (((100, 100), 40, 20), ((10, 400), 80, 1), ((1, 1), 3, 2)):
        lines = blocks(np.zeros((*shape, 3), dtype=np.uint8), columns).split("\n")
        assert [line.count("▀") for line in lines] == [columns] * n_lines


def test_the_terminal_is_told_from_its_environment():
    for environment, mode in (({"TERM": "xterm-256color"}, "blocks"), ({"TERM": "dumb"}, "files"), ({}, "files")):
        assert detect(environment, is_terminal=True) == mode
        assert detect(environment, is_terminal=False) == "files"


def test_small_images_are_enlarged_to_half_the_terminal(ask, tmp_path):
    written = play(ask(min_pixels=28 * 28, max_pixels=28 * 28), tmp_path, "quit", mode="blocks", seed=0)
    assert {line.count("▀") for line in written.splitlines() if "▀" in line} == {40}


def test_a_contact_sheet_shows_every_image_in_its_place():
    images = [np.full((100, 200, 3), 40 * (index + 1), dtype=np.uint8) for index in range(5)]
    sheet = contact_sheet(images, [3, 4, 5, 6, 7])
    # Four cells of 320 across; two rows of 100 and the 22 of the number above it.
    assert sheet.shape == (2 * 122, 4 * 320, 3)
    centres = [sheet[22 + 50, 160 + 320 * column, 0] for column in range(4)] + [sheet[122 + 22 + 50, 160, 0]]
    assert centres == [40, 80, 120, 160, 200]
    assert sheet[:22].any(), "the numbers"


@pytest.mark.parametrize("typed", ["", "help\n", "zoom_in", "raw\nhalf a turn"])
def test_the_end_of_the_input_ends_the_game(typed, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert main(["play", SEARCH, "--seed", "0", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""


def test_ctrl_c_ends_the_game_without_a_traceback(search, tmp_path, monkeypatch, capsys):
    class Interrupted(io.StringIO):
        def readline(self, *size):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert main(["play", SEARCH, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().out.endswith("left with Ctrl-C\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pxr/SyntheticSerch-v0"], 'Did you mean "pxr/SyntheticSearch-v0"'),
        (["nowhere:pxr/X-v0"], "nowhere"),
        ([SEARCH, "--set", "max_turn=3"], 'Did you mean "max_turns"'),
        ([SEARCH, "--set", "max_turns"], "expected key=value"),
        ([SEARCH, "--set", "max_turns=0"], "got max_turns=0"),
        ([SEARCH, "--set", "max_turns=1", "max_turns=2"], "twice, expected it once"),
        ([SEARCH, "--sample", "no"], 'got the sample "no"'),
        ([SEARCH, "--seed", "-1"], "got the seed -1"),
        (["pxr/VStar-v0"], 'needs data="DIR"'),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys, tmp_path):
    assert main(["play", *arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_settings_are_read_as_their_defaults_are():
    settings = ["operations=zoom_in,rotate", "max_turns=3", "split=test", "max_images=null", 'costs={"format": 0.5}']
    values = {"operations": ["zoom_in", "rotate"], "max_turns": 3, "split": "test", "max_images": None}
    assert read_settings(SEARCH, settings) == {**values, "costs": {"format": 0.5}}
    assert read_settings("pxr/VStar-v0", ["data=2024"]) == {"data": "2024"}


def test_other_environments_are_refused():
    with pytest.raises(ValueError, match="expected a task with questions about images"):
        make_environment("CartPole-v1", {"render_mode": None})


def test_the_temporary_directory_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("quit\n"))
    assert main(["play", SEARCH, "--seed", "0"]) == 0
    directory = Path(capsys.readouterr().out.split("saved in ")[1].split(" ·")[0])
    assert (directory / "episode_001" / "image_01.png").is_file()


def test_the_page_of_the_documentation_lists_the_commands():
    text = (Path(__file__).parents[3] / "docs" / "play.md").read_text(encoding="utf-8")
    for name, (argument, meaning) in COMMANDS.items():
        assert f"| `{f'{name} {argument}'.rstrip()}` | {meaning} |" in text
    calls = re.findall(r"^(zoom_in .*)$", text, re.MULTILINE)
    arguments = [read_call(get_operation("zoom_in"), call.removeprefix("zoom_in")) for call in calls]
    assert arguments == [{"target_image": 1, "bbox_2d": [0.1, 0.2, 0.4, 0.5]}] * 3


class Priced(gymnasium.Wrapper):
    """Takes 0.25 for every turn."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["reward_terms"] = {**info["reward_terms"], "turn": -0.25}
        return observation, reward - 0.25, terminated, truncated, info


def test_the_reward_is_that_of_all_turns_and_of_wrappers_of_its_own():
    seat = Seat(Priced(gymnasium.make("pxr/SyntheticSearch-v0", costs={"operation": 0.125})))
    seat.start(seed=5)
    seat.call("zoom_in", {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1})
    seat.answer(seat.env.sample.answers[0])
    assert seat.reward == 1 - 0.125 - 2 * 0.25
    assert "reward 0.375 = turn -0.5 correct +1 operation_cost -0.125" in seat.outcome()
