"""The page in a headless browser: drawing, typing, and texts that would like to be scripts; and its server."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import pxr_env.play as command
from pxr_env.__main__ import main
from pxr_env.play import make_environment

pytest.importorskip("gradio", reason="the page needs gradio: install it")
pytestmark = pytest.mark.browser

EVERYTHING = ["zoom_in", "rotate", "flip", "enhance", "mark", "compare", "grid"]
HOSTILE = (
    '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"> &amp; </h1></script>'
    "<svg onload=window.hacked=3> ${window.hacked=4} {{value}}"
)


@pytest.fixture
def play(watcher):
    """Opens the page on environments."""
    from pxr_env.play.page import PersonSeat
    from pxr_env.play.serving import page_server

    @contextmanager
    def opened(make, start=None, **options):
        def build():
            return PersonSeat(make, "a task", start or {}).page

        with page_server(build, host="127.0.0.1", port=0, path="/secret") as server, server.running():
            page = watcher.open(f"{server.url}secret/", "#picture img", **options)
            caption(page, "Image 1:")
            yield page
            watcher.check(page)
            page.close()

    return opened


def caption(page, said):
    """Waits until the image that is looked at is the one that the caption names."""
    page.wait_for_selector(f"#caption:has-text('{said}')")
    page.wait_for_function("document.querySelector('#picture img')?.complete")


def field(page, name):
    return page.locator(f"#{name}").locator("textarea, input").first


def draw(page, name, *points):
    """Clicks points of the picture, in fractions of it; every click draws something. Returns what a field has then."""
    for x, y in points:
        picture = page.locator("#picture img")
        before = picture.get_attribute("src")
        edges = picture.bounding_box()
        picture.click(position={"x": x * edges["width"], "y": y * edges["height"]})
        page.wait_for_function(
            "before => { const image = document.querySelector('#picture img'); "
            "return image?.complete && image.getAttribute('src') !== before }",
            arg=before,
        )
    return field(page, name).input_value()


# In the frame of pixels the numbers are whole pixels of the shown image: 84 of them for the 336 of the source.
@pytest.mark.parametrize(("frame", "tolerance"), [("permille", 1), ("pixel", 2.001)])
def test_a_drawn_box_is_zoomed_into(play, frame, tolerance):
    env = make_environment("pxr/SyntheticSearch-v0", {"coordinates": frame})
    with play(lambda: env, {"seed": 5}) as page:
        # Nothing that helps to answer is shown before the end.
        assert not re.search('evidence|needs_operation|target "|category', page.content())
        assert page.locator("#transcript .overview").count() == 0
        x1, y1, x2, y2 = (edge / 336 for edge in env.sample.evidence_box)
        # From the lower right to the upper left: a box all the same.
        draw(page, "zoom_in-bbox_2d", (x2, y2), (x1, y1))
        page.click("#call-zoom_in")
        caption(page, "Image 2:")
        assert env.views[1].box == pytest.approx(env.sample.evidence_box, abs=tolerance + 1)
        answer = env.sample.answers[0]
        field(page, "answer").fill(answer)
        field(page, "answer").press("Enter")
        page.wait_for_selector("#transcript .end")
        end = page.locator("#transcript .end").inner_text()
        assert f'answer "{answer}", target "{answer}": correct' in end
        assert "reward 1 = correct +1" in end
        assert page.locator("#transcript .overview img").count() == 1
        assert page.locator("#turn").is_hidden()
        call, said = page.locator("#transcript .turn > .text").all_inner_texts()
        assert env.dialect.parse(call).calls[0].arguments["target_image"] == 1
        assert said == env.dialect.render_answer(answer)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_text_is_shown_as_text_in_a_narrow_window(play, ask, scheme):
    size = {"width": 390, "height": 740}
    with play(lambda: ask(HOSTILE, operations=EVERYTHING), color_scheme=scheme, viewport=size) as page:
        red, *_ = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (red > 200) == (scheme == "light")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        field(page, "answer").fill(HOSTILE.replace("{", "(").replace("}", ")"))
        field(page, "answer").press("Enter")
        page.wait_for_selector("#transcript .end")
        assert page.locator("#question h2").text_content() == HOSTILE
        assert HOSTILE in page.locator("#transcript").text_content()
        assert page.locator("#question h2 *").count() == 0


def test_boxes_points_and_lines_are_drawn_into_their_fields(play, ask):
    env = ask(operations=EVERYTHING, coordinates="permille")
    with play(lambda: env) as page:
        page.get_by_role("tab", name="mark").click()
        caption(page, "clicks draw for mark")
        draw(page, "mark-boxes", (0.1, 0.1), (0.3, 0.3))
        draw(page, "mark-boxes", (0.5, 0.5), (0.7, 0.9))
        draw(page, "mark-boxes", (0.6, 0.6), (0.8, 0.8))
        page.click("#erase")
        page.wait_for_function("document.querySelector('#mark-boxes textarea').value.split(';').length === 2")
        page.get_by_role("radio", name="points").check()
        draw(page, "mark-points", (0.2, 0.8))
        page.get_by_role("radio", name="lines").check()
        draw(page, "mark-lines", (0.9, 0.9), (0.6, 0.1))
        field(page, "mark-labels").fill("a door, open;<b>")
        page.click("#call-mark")
        caption(page, "Image 2:")
        marks = env.views[1].region.marks
        assert [mark.kind for mark in marks] == ["box", "box", "point", "line"]
        assert [mark.label for mark in marks] == ["a door, open", "<b>", None, None]
        # The source is 400x200 pixels.
        assert marks[1].points[0] == pytest.approx((200, 100), abs=1)
        assert marks[2].points == (pytest.approx((80, 160), abs=1),)
        assert marks[3].points == (pytest.approx((360, 180), abs=1), pytest.approx((240, 20), abs=1))


def test_sliders_choices_and_two_images(play, ask):
    env = ask(operations=EVERYTHING, max_turns=9, max_operations=8)
    with play(lambda: env) as page:
        page.get_by_role("tab", name="enhance").click()
        page.locator("#enhance-contrast input[type=number]").fill("1.1")
        page.click("#call-enhance")
        caption(page, "Image 2:")
        assert env.views[1].region.adjustments[0].as_dict() == {"contrast": 1.1}
        page.get_by_role("tab", name="flip").click()
        page.locator("#flip-direction input").click()
        page.get_by_role("option", name="vertical").click()
        field(page, "flip-target_image").fill("1")
        caption(page, "Image 1:")  # The image that the form names is looked at.
        page.click("#call-flip")
        caption(page, "Image 3:")
        page.get_by_role("tab", name="compare").click()
        page.wait_for_selector("#caption:not(:has-text('clicks draw'))")
        thumbs = page.locator("#gallery .grid-container button")
        thumbs.nth(0).click()
        caption(page, "Image 1:")
        thumbs.nth(2).click()
        caption(page, "Image 3:")
        page.click("#call-compare")
        caption(page, "side by side")
        assert env.views[3].is_comparison


def test_frames_are_chosen_by_clicks(play):
    env = make_environment("pxr/SyntheticVideo-v0", {"operations": ["select_frames"]})
    with play(lambda: env, {"seed": 0}) as page:
        n_frames = len(env.views)
        for number in (5, 2, 3, 2):
            page.locator("#gallery .grid-container button").nth(number - 1).click()
            caption(page, f"Image {number}:")
        assert field(page, "select_frames-target_frames").input_value() == "5, 3"
        page.click("#call-select_frames")
        caption(page, f"Image {n_frames + 1}:")
        assert [env.views[n_frames + number].frame for number in (0, 1)] == [env.views[4].frame, env.views[2].frame]
        # The caption counts frames as the reply does.
        name = f"frame {env.views[4].frame + 1} at "
        assert name in page.locator("#caption").inner_text()
        assert name in page.locator("#transcript .reply").inner_text()


def broken(turn):
    raise RuntimeError("broken on purpose")


def test_what_was_refused_stays_to_be_mended(play, ask):
    env = ask()
    with play(lambda: env) as page:
        field(page, "zoom_in-bbox_2d").fill("0, 0, two, 1")
        page.click("#call-zoom_in")
        page.wait_for_selector("#status [role=alert]")
        assert 'bbox_2d is "0, 0, two, 1"; expected x1,y1,x2,y2.' in page.locator("#status").inner_text()
        assert page.locator("#transcript .turn").count() == 0, "nothing was sent"
        field(page, "zoom_in-bbox_2d").fill("0, 0, 2, 1")
        page.click("#call-zoom_in")
        page.wait_for_selector("#transcript .turn")
        assert "leaves image 1" in page.locator("#transcript .reply").inner_text()
        assert field(page, "zoom_in-bbox_2d").input_value() == "0, 0, 2, 1"
        assert page.locator("#status [role=alert]").count() == 0
        # A mistake of somebody's operation is shown, and the page goes on.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(env, "step", broken)
            page.click("#call-zoom_in")
            page.wait_for_selector("text=broken on purpose")
        page.click("text=Write a turn as a model would")
        field(page, "raw").fill("First\n  <tool_call>{</tool_call> ")
        page.click("#send")
        page.wait_for_function("document.querySelectorAll('#transcript .turn').length === 2")
        assert page.locator("#transcript .turn > .text").last.text_content() == "First\n  <tool_call>{</tool_call> "


def test_samples_are_chosen_and_every_visitor_has_a_seat(play):
    with play(lambda: make_environment("pxr/SyntheticSearch-v0", {}), {"seed": 5}) as page:
        first = page.locator("#sample").inner_text()
        page.click("#next")
        page.wait_for_selector(f"#sample:not(:text-is('{first}'))")
        page.click("text=Choose a sample")
        field(page, "sample-id").fill("no")
        field(page, "sample-id").press("Enter")
        page.wait_for_selector("""#status:has-text('got the sample "no"')""")
        field(page, "sample-id").fill("train-3")
        field(page, "sample-id").press("Enter")
        page.wait_for_selector("#sample:text-is('train-3')")
        field(page, "answer").fill("X")
        field(page, "answer").press("Enter")
        page.wait_for_selector("#transcript .end")
        other = page.context.new_page()
        other.goto(page.url)
        other.wait_for_selector(f"#sample:text-is('{first}')")
        assert other.locator("#transcript .end").count() == 0
        page.click("#again")
        page.wait_for_selector("#transcript:not(:has(.end))")
        assert page.locator("#sample").inner_text() == "train-3"


def test_the_seat_that_was_not_used_for_longest_is_closed():
    import gradio
    from gradio.state_holder import StateHolder

    from pxr_env.play.page import MAX_SEATS, PersonSeat

    seat = PersonSeat(lambda: make_environment("pxr/SyntheticSearch-v0", {}), "a task", {})
    sessions = StateHolder()
    sessions.set_blocks(seat.page)
    for visitor in (*range(MAX_SEATS), 0, MAX_SEATS):
        sessions[str(visitor)]
    assert "0" in sessions
    assert "1" not in sessions
    with pytest.raises(gradio.Error, match="Reload"):
        seat._person({seat._state: None})


def test_a_first_sample_that_is_unknown_is_reported():
    from pxr_env.play.page import PersonSeat

    seat = PersonSeat(lambda: make_environment("pxr/SyntheticSearch-v0", {"num_samples": 2}), "a task", {})
    shown = seat._start(None, sample_id="nowhere")
    assert "got the sample &quot;nowhere&quot;" in shown[seat._status]
    assert "sample <b" in seat._begin(shown, "again")[seat._status]


ROOT = Path(__file__).parents[3]


def test_the_command_prints_the_address_and_answers_nobody_else():
    arguments = ["play", "pxr/SyntheticSearch-v0", "--web", "--no-browser", "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "pxr_env", *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        line = process.stdout.readline()
        port, path = re.search(r"http://127\.0\.0\.1:(\d+)(/\S{20,}/)$", line).groups()
        here = f"127.0.0.1:{port}"

        def status(path, **headers):
            connection = http.client.HTTPConnection(here, timeout=30)
            connection.request("GET", path, headers={"Host": here, **headers})
            answer = connection.getresponse()
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            return answer.status

        try:
            assert status(path) == status(path, Host="localhost:9") == status(path, Origin=f"http://{here}") == 200
            # A name that was pointed at this machine after the page was loaded (DNS rebinding).
            assert status(path, Host="evil.example") == status(path, Host="127.0.0.1.evil.example") == 403
            assert status(path, Host="[::1") == status(path, Host="") == 403
            assert status(path, Origin="https://evil.example") == status(path, Origin="null") == 403
            # Without the secret there is nothing.
            assert {status(wrong) for wrong in ("/", "/wrong/", "/config", f"{path[:-2]}/", "/gradio_api/info")} == {
                404
            }
            assert main([*arguments[:-1], port]) == 2
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130


@pytest.mark.parametrize("port", ["70000", "1"])
def test_an_address_that_cannot_be_had_is_named(port, capsys):
    assert (
        main(["play", "pxr/SyntheticSearch-v0", "--web", "--no-browser", "--port", port, "--host", "203.0.113.1"]) == 2
    )
    error = capsys.readouterr().err
    assert f"203.0.113.1, port {port}" in error
    assert "Choose another --port" in error


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert main(["play", "pxr/SyntheticSearch-v0", "--web"]) == 2
    assert "pip install 'pxr-gym[play]'" in capsys.readouterr().err
