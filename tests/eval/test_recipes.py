"""Recipes for released models: what they send, what their calls show, and what the command line still decides."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image

from eval.__main__ import main
from eval.records import RunFiles
from eval.suites import SUITES, read_recipe, recipe_names
from pxr_env.types import OperationCall
from tests.eval.chat_server import ChatServer, pixels, serve
from tests.eval.conftest import episodes_of

QUESTION = "What is the colour of the door?\n(A) red\n(B) blue"
INSTRUCTION = "\nAnswer with the option's letter from the given choices directly."


@pytest.fixture
def vstar(tmp_path: Path) -> Path:
    """V* in its published layout: one picture of 1400x700, 50x25 vision tokens of Qwen2.5-VL."""
    folder = tmp_path / "vstar"
    (folder / "direct_attributes").mkdir(parents=True)
    ramp = np.linspace(0, 255, 1400 * 700 * 3).reshape(700, 1400, 3).astype(np.uint8)
    Image.fromarray(ramp).save(folder / "direct_attributes" / "door.png")
    row = {
        "image": "direct_attributes/door.png",
        "text": QUESTION + INSTRUCTION,
        "category": "direct_attributes",
        "label": "B",
        "question_id": "0",
    }
    (folder / "test_questions.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def play(recipe: str, vstar: Path, turns: list[str], *more: str) -> tuple[Any, dict[str, Any], list[dict[str, Any]]]:
    """Run V* with a recipe on a server that writes these turns; episode, manifest, and what the server was sent."""
    server = ChatServer(lambda body: turns[len(body["messages"]) // 2 - 1])
    out = vstar.parent / "run"
    with serve(server) as url:
        command = ["run", "--suite", "vstar", "--data", str(vstar), "--agent", "openai", "--base-url", url]
        command += ["--no-preflight"]
        assert main([*command, "--recipe", recipe, "--out", str(out), "--no-report", *more]) == 0
    directory = RunFiles(out)
    [episode] = episodes_of(directory.path)
    return episode, directory.manifest(), server.bodies


def kinds(message: dict[str, Any]) -> list[str]:
    return [part["type"] for part in message["content"]]


def shape(message: dict[str, Any]) -> tuple[int, ...]:
    return pixels(next(part for part in message["content"] if part["type"] == "image_url")).shape


def test_pixel_reasoner(vstar: Path) -> None:
    call = (
        "I look at the door.\n\n<tool_call>\n"
        '{"name": "crop_image_normalized", "arguments": {"bbox_2d": [0.5, 0.5, 0.6, 0.7], "target_image": 1}}\n'
        "</tool_call>"
    )
    episode, manifest, bodies = play("pixel-reasoner", vstar, [call, "It is \\boxed{B}."])
    assert episode.correct
    # A tenth of 1400x700 is added on each side of (700, 350, 840, 490).
    assert episode.views[1]["box"] == pytest.approx([560, 280, 980, 560])
    system, question, _, reply = bodies[1]["messages"]
    assert '"name": "crop_image_normalized"' in system["content"]
    assert '"name": "select_frames"' in system["content"]
    assert "\\boxed{" in system["content"]
    assert kinds(question) == ["image_url", "text"]
    assert shape(question) == (700, 1400, 3)
    assert question["content"][1]["text"] == QUESTION
    # 420x280 is less than 401,408 pixels: enlarged by 1.848 and up to the next multiples of 28.
    assert kinds(reply) == ["text", "image_url"]
    assert shape(reply) == (532, 784, 3)
    assert reply["content"][0]["text"] == "Here is the cropped image (Image Size: 784x532):"
    assert bodies[0]["model"] == "TIGER-Lab/PixelReasoner-RL-v1"
    assert (bodies[0]["temperature"], bodies[0]["max_tokens"]) == (0.0, 2048)
    assert manifest["recipe"]["name"] == "pixel-reasoner"
    assert manifest["recipe"]["sha256"] == read_recipe("pixel-reasoner").sha256
    assert manifest["prompt"]["images_in_text"] is True
    assert manifest["prompt"]["limits"]["max_operations"] == 4


def test_mini_o3(vstar: Path) -> None:
    turns = [
        '<think>Small.</think>\n<grounding>{"bbox_2d": [0.5, 0.5, 0.6, 0.7], "source": "original_image"}</grounding>',
        '<grounding>{"bbox_2d": [0.5, 0.5, 1.0, 1.0], "source": "observation_1"}</grounding>',
        "<think>Blue.</think><answer>B</answer>",
    ]
    episode, manifest, bodies = play("mini-o3", vstar, turns)
    assert episode.correct
    assert [view["box"] for view in episode.views[1:]] == [
        pytest.approx([700, 350, 840, 490]),
        pytest.approx([770, 420, 840, 490]),
    ]
    system, question, _, first, _, second = bodies[2]["messages"]
    assert '<grounding>{"bbox_2d": [x0, y0, x1, y1], "source": "original_image"}</grounding>' in system["content"]
    assert kinds(question) == ["image_url", "text"]
    assert kinds(first) == kinds(second) == ["text", "image_url", "text"]
    assert first["content"][0]["text"] == "After the above Action 0, here is the zoom-in image (Observation 1).\n"
    assert second["content"][0]["text"] == "After the above Action 1, here is the zoom-in image (Observation 2).\n"
    # 140x140 and 70x70 are less than 40,000 pixels: sides of 200, up to the next multiple of 28.
    assert shape(first) == shape(second) == (224, 224, 3)
    assert bodies[0]["stop"] == ["</grounding>"]
    assert bodies[0]["temperature"] == 1.0
    assert manifest["prompt"]["limits"]["max_turns"] == 12
    assert manifest["pixels"]["image"] == {"min_pixels": 40_000, "max_pixels": 2_000_000, "size_multiple": 28}


def test_deepeyes(vstar: Path) -> None:
    call = (
        "<think>Small.</think>  <tool_call>\n"
        '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [700, 350, 840, 490], "label": "the door"}}\n'
        "</tool_call>"
    )
    # Their loop executes a call that was made before again.
    episode, manifest, bodies = play("deepeyes", vstar, [call, call, "<think>Blue.</think> <answer>B</answer>"])
    assert episode.correct
    assert episode.usage == {"zoom_in": 2}
    assert [view["box"] for view in episode.views[1:]] == [pytest.approx([700, 350, 840, 490])] * 2
    system, question, _, reply, _, _ = bodies[2]["messages"]
    assert '"name": "image_zoom_in_tool"' in system["content"]
    assert kinds(question) == ["image_url", "text"]
    assert kinds(reply) == ["text", "image_url", "text"]
    assert reply["content"][0]["text"] == "<tool_response>\n"
    assert reply["content"][2]["text"].endswith("</tool_response>")
    # 140 is five times 28, and more than four tokens: as it is.
    assert shape(reply) == (140, 140, 3)
    assert bodies[0]["max_tokens"] == 10_240
    assert manifest["prompt"]["coordinates"] == "pixel"


def test_the_command_line_goes_before_the_recipe_and_prompts_come_from_files(vstar: Path, tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("You see. Zoom by <grounding>.\n", encoding="utf-8")
    more = ["--temperature", "0", "--max-tokens", "77", "--model", "mine", "--stop", "</answer>"]
    more += ["--set", "max_turns=3", "--set", "instruction=true", "--set", "question_suffix=\n\nThink."]
    more += ["--set-file", f"system_prompt={tmp_path / 'system.txt'}"]
    _, manifest, bodies = play("mini-o3", vstar, ["<answer>B</answer>"], *more)
    body = bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"], body["stop"]) == ("mine", 0.0, 77, ["</answer>"])
    system, question = body["messages"]
    assert system["content"] == "You see. Zoom by <grounding>."
    assert question["content"][1]["text"] == QUESTION + INSTRUCTION + "\n\nThink."
    assert manifest["prompt"]["system_prompt"] == "You see. Zoom by <grounding>."
    assert manifest["prompt"]["limits"]["max_turns"] == 3
    # The recipe's own, which the command line did not change.
    assert manifest["prompt"]["limits"]["max_operations"] == 11


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), "red").save(path)


def write_data(suite: str, folder: Path) -> bool:
    """One question of a suite in its published layout; False if the suite draws its own."""
    options = "(A) red\n(B) blue"
    if suite == "vstar":
        save(folder / "direct_attributes" / "0.png")
        row = {"image": "direct_attributes/0.png", "text": f"Which?\n{options}", "category": "direct_attributes"}
        (folder / "test_questions.jsonl").write_text(json.dumps({**row, "label": "A", "question_id": 0}) + "\n")
    elif suite == "tallyqa-complex":
        save(folder / "VG_100K_2" / "0.png")
        row = {"image": "VG_100K_2/0.png", "question": "How many?", "answer": 1, "issimple": False, "question_id": 0}
        (folder / "test.json").write_text(json.dumps([{**row, "data_source": "imported_genome", "image_id": 0}]))
    elif suite == "infographicvqa":
        save(folder / "images" / "0.jpeg")
        row = {"questionId": 0, "question": "What?", "image_local_name": "0.jpeg", "answers": ["x"]}
        row |= {"answer_type": ["single span"], "data_split": "val"}
        (folder / "infographicsVQA_val_v1.0_withQT.json").write_text(json.dumps({"data": [row]}))
    elif suite == "mvbench":
        for frame in range(1, 21):
            save(folder / "video" / "tvqa" / "frames_fps3_hq" / "one" / f"{frame:05}.jpg")
        row = {"question": "What?", "candidates": ["red", "blue"], "answer": "red", "video": "one"}
        (folder / "json").mkdir(parents=True)
        (folder / "json" / "episodic_reasoning.json").write_text(json.dumps([{**row, "start": 0.0, "end": 6.0}]))
    elif suite == "hrbench":
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), "red").save(buffer, format="PNG")
        row = ["0", base64.b64encode(buffer.getvalue()).decode(), "Which?", "red", "blue", "a", "b", "A", "single", "0"]
        lines = ["index\timage\tquestion\tA\tB\tC\tD\tanswer\tcategory\tcycle_category", "\t".join(row)]
        folder.mkdir(parents=True)
        (folder / "hr_bench_4k.tsv").write_text("\n".join(lines) + "\n")
    else:
        return False
    return True


class Zooming:
    """Zooms into the first image until the last operation is used up, then answers."""

    def __init__(self, env: gymnasium.Env) -> None:
        self._base: Any = env.unwrapped
        self._left = self._base.limits.max_operations
        self._box: list[float] = []

    def act(self, observation: Any) -> str:
        if not self._left:
            return str(self._base.dialect.render_answer("A"))
        if not self._box:
            height, width, _ = observation["images"][0].shape
            extent = self._base.frame.extent((width, height))
            self._box = [0, 0, extent[0] / 2, extent[1] / 2]
        self._left -= 1
        call = OperationCall(name="zoom_in", arguments={"bbox_2d": self._box, "target_image": 1})
        return str(self._base.dialect.render_call(call))


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize("suite", SUITES)
def test_every_recipe_fits_every_suite(recipe: str, suite: str, tmp_path: Path) -> None:
    """Its limits leave room for the question and for every operation that it allows."""
    command = ["run", "--suite", suite, "--recipe", recipe, "--agent", f"{__name__}:Zooming", "--limit", "1"]
    if write_data(suite, tmp_path / "data"):
        command += ["--data", str(tmp_path / "data")]
    command += ["--set", "min_pixels=784", "--set", "max_pixels=200704", "--out", str(tmp_path / "run"), "--no-report"]
    assert main(command) == 0
    [record] = RunFiles(tmp_path / "run").records()
    limits = RunFiles(tmp_path / "run").manifest()["prompt"]["limits"]
    assert (record.episode.error, record.episode.truncated_by) == (None, None)
    assert record.episode.usage["zoom_in"] == limits["max_operations"]


def test_an_agent_without_a_model_ignores_the_sampling_of_a_recipe(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["run", "--suite", "synthetic-search", "--recipe", "mini-o3", "--agent", "oracle", "--limit", "1"]
    small = ["--set", "min_pixels=784", "--set", "max_pixels=7056"]
    assert main([*command, *small, "--out", str(out), "--no-report"]) == 0
    assert RunFiles(out).metrics()["statistics"]["accuracy"] == 1.0
    assert RunFiles(out).manifest()["sampling"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[env", "is no TOML"),
        ("moddel = 1", "has 'moddel'; expected only model, source, env"),
        ("[sampling]\ntop_p = 1", r"\[sampling\] of the recipe .* has 'top_p'; expected only temperature, max_tokens"),
        ("env = 1", r"has env = 1; expected a table \[env\]"),
        ("[env]\nmax_turn = 1", "the argument 'max_turn', which it does not have. Did you mean"),
    ],
)
def test_a_recipe_that_says_something_else_is_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    (tmp_path / "r.toml").write_text(text)
    command = ["run", "--suite", "synthetic-count", "--recipe", str(tmp_path / "r.toml"), "--agent", "oracle"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--suite", "vstar", "--recipe", "deepeye", "--agent", "oracle"]) == 2
    assert "expected one of deepeyes, mini-o3, pixel-reasoner" in capsys.readouterr().err
