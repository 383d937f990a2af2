"""The demo in a headless browser: uploads, samples, turns that arrive, several visitors, and nothing that leaks."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pxr_env.errors import MediaError
from tests.eval.chat_server import ChatServer, pixels, serve, status, zoom_then_answer

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>${window.hacked=3} {{value}} </section>'
ZOOM = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [0.5, 0, 1, 0.5], "target_image": 1}}\n</tool_call>'


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """560x280: the upper right quarter is green, the rest red."""
    image = np.zeros((280, 560, 3), np.uint8)
    image[..., 0] = 255
    image[:140, 280:] = (0, 255, 0)
    path = tmp_path / "photo.png"
    Image.fromarray(image).save(path)
    return path


def ask_about_image(page: Any, path: Path, question: str) -> None:
    page.get_by_role("radio", name="An image").check()
    page.set_input_files("#image input[type=file]", str(path))
    page.wait_for_selector("#image img")
    page.fill("#question textarea", question)
    page.click("#ask")


def draw_and_ask(page: Any) -> str:
    page.get_by_label("A synthetic sample").check()
    page.click("#draw")
    page.wait_for_selector("#preview img")
    page.click("#ask")
    return str(page.inner_text("#preview"))


def test_turns_about_an_own_image_arrive_one_by_one(demo, visit, photograph: Path) -> None:
    go_on = threading.Event()

    def player(body: dict[str, Any]) -> str:
        if len(body["messages"]) == 2:
            return f"I look. {HOSTILE} {ZOOM}"
        go_on.wait(60)
        return "It is \\boxed{" + HOSTILE.replace("{", "(").replace("}", ")") + "}"

    server = ChatServer(player)
    with serve(server) as url:
        page = visit(demo("--base-url", url, "--model", "m", "--set", "min_pixels=784", "--set", "max_pixels=200000"))
        ask_about_image(page, photograph, f"What colour? {HOSTILE}")
        # The first turn and its crop are there while the second is being written.
        page.wait_for_selector("#transcript .turn .views img")
        page.wait_for_function("document.querySelector('#status').innerText.includes('Turn 2 is being written')")
        assert page.locator("#transcript .turn").count() == 1
        assert page.locator("#transcript .end").count() == 0
        assert page.inner_text("#transcript .call") == ZOOM
        assert page.inner_text("#transcript .views figcaption") == "Image 2: 280, 0, 560, 140"
        assert page.locator("#transcript .overview img").count() == 1
        go_on.set()
        page.wait_for_selector("#transcript .end")
        assert page.inner_text("#transcript .end .final").startswith('<img src=x onerror="window.hacked=1">')
        # Nobody knows the answer to an own question, so nobody says that it is wrong.
        assert page.locator("#transcript .verdict").count() == 0
        assert page.evaluate("window.hacked") is None
    # The pixels the model saw are those of the file.
    first, second = (server.bodies[1]["messages"][number]["content"][0] for number in (1, 3))
    assert pixels(first).shape == (280, 560, 3)
    assert np.unique(pixels(second).reshape(-1, 3), axis=0).tolist() == [[0, 255, 0]]


def test_a_drawn_sample_shows_target_and_verdict_in_light_and_dark(demo, visit) -> None:
    with serve(ChatServer(zoom_then_answer)) as url:
        address = demo("--base-url", url, "--model", "m")
        for scheme in ("light", "dark"):
            page = visit(address, color_scheme=scheme)
            preview = draw_and_ask(page)
            page.wait_for_selector("#transcript .end")
            assert "target" in preview
            assert "green: the evidence" in preview
            target = page.inner_text("#preview b")
            answer = page.inner_text("#transcript .final")
            verdict = "correct" if answer == target else f"wrong, the target is {target}"
            assert page.inner_text("#transcript .verdict") == verdict
            luminance = page.evaluate(
                "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
            )
            assert (max(luminance) < 60) == (scheme == "dark")


def test_visitors_at_once_see_their_own_answers(demo, visit, photograph: Path) -> None:
    together = threading.Barrier(2, timeout=60)

    def player(body: dict[str, Any]) -> str:
        # Both are asked before either is answered.
        together.wait()
        return "\\boxed{" + body["messages"][1]["content"][-1]["text"].removeprefix("I am ") + "}"

    with serve(ChatServer(player)) as url:
        address = demo("--base-url", url, "--model", "m")
        pages = [visit(address), visit(address)]
        for page, name in zip(pages, ("Ada", "Bob"), strict=True):
            ask_about_image(page, photograph, f"I am {name}")
        for page, name in zip(pages, ("Ada", "Bob"), strict=True):
            page.wait_for_selector("#transcript .end")
            assert page.inner_text("#transcript .final") == name


def test_stop_ends_the_episode_after_the_turn(demo, visit, photograph: Path) -> None:
    go_on = threading.Event()

    def player(body: dict[str, Any]) -> str:
        go_on.wait(60)
        return ZOOM

    server = ChatServer(player)
    with serve(server) as url:
        page = visit(demo("--base-url", url, "--model", "m", "--set", "duplicates=execute"))
        ask_about_image(page, photograph, "What?")
        page.wait_for_function("document.querySelector('#status').innerText.includes('Turn 1')")
        page.click("#stop")
        page.wait_for_function("document.querySelector('#status').innerText.includes('Stops after this turn')")
        go_on.set()
        page.wait_for_selector("#transcript .end")
        assert "Stopped" in page.inner_text("#transcript .end").title()
    assert len(server.bodies) == 1


def test_what_goes_wrong_can_be_read(demo, visit, tmp_path: Path, photograph: Path) -> None:
    error = status(400, json.dumps({"error": {"message": "the prompt is too long"}}).encode())
    with serve(ChatServer(zoom_then_answer, iter([error]))) as url:
        page = visit(demo("--base-url", url, "--model", "m"))
        page.get_by_role("radio", name="An image").check()
        page.click("#ask")
        page.wait_for_selector("#transcript .error")
        assert "Got no image; choose one first." in page.inner_text("#transcript")
        ask_about_image(page, photograph, "What?")
        page.wait_for_function("document.querySelector('#transcript').innerText.includes('the prompt is too long')")
        # The page goes on, with the sample that it began with.
        page.get_by_label("A synthetic sample").check()
        page.click("#ask")
        page.wait_for_selector("#transcript .end .verdict")


def test_it_opens_with_a_sample_and_without_a_path(demo, visit, tmp_path: Path) -> None:
    with serve(ChatServer(zoom_then_answer)) as url:
        page = visit(demo("--base-url", url, "--model", str(tmp_path / "secret" / "my-model")))
        page.wait_for_selector("#preview img")
        assert "target" in page.inner_text("#preview")
        assert "my-model" in page.inner_text("h3")
        assert "secret" not in page.inner_text("body")
        page.click("#ask")
        page.wait_for_selector("#transcript .end .verdict")


def test_a_trained_checkpoint_answers_samples_as_it_was_trained(demo, visit, tiny_path: Path, tmp_path: Path) -> None:
    env = {
        "id": "pxr_env:pxr/SyntheticSearch-v0",
        "kwargs": {"coordinates": "pixel", "max_turns": 2, "max_operations": 1},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text(json.dumps({"env": env}))
    (tmp_path / "run" / "model").symlink_to(tiny_path, target_is_directory=True)
    page = visit(demo("--model", str(tmp_path / "run")))
    # Untrained weights never answer; a second question finds the model free again.
    for _ in range(2):
        draw_and_ask(page)
        page.wait_for_function("document.querySelector('#status').innerText.includes('Turn 1 is being written')")
        page.wait_for_selector("#transcript .end", timeout=240_000)
        assert page.locator("#transcript .error").count() == 0
        assert page.locator("#transcript .turn").count() == 2


def test_a_video_is_asked_about_with_operations_on_videos(demo, visit, tmp_path: Path) -> None:
    from tests.pxr_env.media import clips

    path = tmp_path / "clip.mp4"
    try:
        clips.write(path, n_frames=24)
    except (ImportError, MediaError):
        pytest.skip("no video can be written here")
    call = '{"name": "select_frames", "arguments": {"target_frames": [2]}}'
    server = ChatServer(
        lambda body: f"<tool_call>{call}</tool_call>" if len(body["messages"]) == 2 else "\\boxed{seen}"
    )
    with serve(server) as url:
        page = visit(demo("--base-url", url, "--model", "m"))
        page.get_by_label("A video").check()
        page.set_input_files("#video input[type=file]", str(path))
        page.wait_for_selector("#video video")
        page.fill("#question textarea", "What happens?")
        page.click("#ask")
        page.wait_for_selector("#transcript .end")
        assert page.inner_text("#transcript .final") == "seen"
        assert "frame" in page.inner_text("#transcript .views figcaption")
    assert "select_frames" in server.bodies[0]["messages"][0]["content"]
