"""The page in a headless browser: drawing, typing, keys, and texts that would like to be scripts."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from pxr_env.play import make_environment
from pxr_env.play.sessions import MAX_SESSIONS
from pxr_env.play.web import PlayServer
from tests.browser import launched

pytestmark = pytest.mark.browser

EVERYTHING = ["zoom_in", "rotate", "flip", "enhance", "mark", "compare", "grid"]
HOSTILE = (
    '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"> &amp; </h1></script>'
    "<svg onload=window.hacked=3>"
)


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def play(browser):
    """Opens the page on an environment; the test fails if the page had an error of its own."""
    contexts, mistakes = [], []

    @contextmanager
    def opened(make, start=None, **options):
        server = PlayServer(make, title="a task", start=start or {})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: mistakes.append(str(error)))
        try:
            page.goto(server.url)
            page.wait_for_selector(".thumb")
            yield page, server
        finally:
            context.close()
            server.shutdown()
            thread.join()
            server.server_close()

    yield opened
    assert mistakes == []


def drag(page, box):
    """Draws from one corner to the other; `box` in fractions of the picture. Returns it as the mouse really moved."""
    edges = page.locator("#picture").bounding_box()

    def place(x, y):
        return round(edges["x"] + x * edges["width"]), round(edges["y"] + y * edges["height"])

    # A drag begins inside, and may end anywhere.
    (x1, y1), (x2, y2) = place(max(box[0], 0.002), max(box[1], 0.002)), place(*box[2:])
    page.mouse.move(x1, y1)
    page.mouse.down()
    page.mouse.move((x1 + x2) / 2, y2)
    page.mouse.move(x2, y2)
    page.mouse.up()
    across, down = edges["width"], edges["height"]
    return [(x1 - edges["x"]) / across, (y1 - edges["y"]) / down, (x2 - edges["x"]) / across, (y2 - edges["y"]) / down]


def shown(page, number):
    return page.wait_for_selector(f".thumb[data-number='{number}']")


# In the frame of pixels the numbers are whole pixels of the shown image: 84 of them for the 336 of the source.
@pytest.mark.parametrize(("frame", "tolerance"), [("unit", 1), ("permille", 1), ("pixel", 2.001)])
def test_a_drawn_box_is_zoomed_into(play, frame, tolerance):
    env = make_environment("pxr/SyntheticSearch-v0", {"coordinates": frame})
    with play(lambda: env, {"seed": 5}) as (page, _):
        assert env.source_image(1).size == (336, 336)
        drawn = drag(page, [edge / 336 for edge in env.sample.evidence_box])
        assert page.locator("#overlay rect.front").count() == 1
        page.click("#call button.primary")
        shown(page, 2)
        expected = [fraction * 336 for fraction in drawn]
        assert env.views[1].box == pytest.approx(expected, abs=tolerance)
        assert "Image 2:" in page.locator("#caption").inner_text()
        assert page.locator("#reply").inner_text() == page.locator(".message.user pre").last.inner_text()
        assert (
            page.locator("#picture").evaluate("image => image.decode().then(() => image.naturalWidth)")
            == (env.views[1].size[0])
        )
        page.fill("#answer-text", env.sample.answers[0])
        page.press("#answer-text", "Enter")
        page.wait_for_selector("#outcome.correct")
        text = page.locator("#outcome").inner_text()
        assert "1 = correct 1" in text
        assert env.sample.answers[0] in text
        assert page.locator("#turn").is_hidden()
        call, answer = page.locator(".message.assistant pre").all_inner_texts()
        assert env.dialect.parse(call).calls[0].arguments["target_image"] == 1
        assert answer == env.dialect.render_answer(env.sample.answers[0])


def test_a_drag_upwards_and_beyond_the_edge_is_a_box_inside(play, ask):
    env = ask(coordinates="pixel")
    with play(lambda: env) as (page, _):
        drag(page, [0.5, 0.5, -0.1, -0.2])
        x1, y1, x2, y2 = map(float, page.input_value("#field-bbox_2d").split(","))
        width, height = env.views[0].size
        assert (x1, y1) == (0, 0)
        assert (x2, y2) == pytest.approx((width / 2, height / 2), abs=1)
        # A click is no box: the one that is there stays.
        page.mouse.click(400, 400)
        assert page.input_value("#field-bbox_2d").startswith("0, 0,")


def test_the_keyboard_alone_plays_an_episode(play, ask):
    env = ask()
    with play(lambda: env) as (page, _):

        def tab_to(selector):
            for _ in range(40):
                if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                    return
                page.keyboard.press("Tab")
            raise AssertionError(f"Tab never reaches {selector}")

        tab_to("#canvas")
        page.keyboard.press("ArrowLeft")
        assert page.input_value("#field-bbox_2d") == "0.25, 0.25, 0.75, 0.75"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Shift+ArrowLeft")
        # Moved by 0.02 to the right and downwards, and made narrower by as much.
        assert page.input_value("#field-bbox_2d") == "0.27, 0.27, 0.75, 0.77"
        for _ in range(30):
            page.keyboard.press("ArrowLeft")
        assert page.input_value("#field-bbox_2d") == "0, 0.27, 0.48, 0.77", "it stops at the edge and keeps its size"
        tab_to("#call button.primary")
        page.keyboard.press("Enter")
        shown(page, 2)
        assert env.views[1].box == pytest.approx((0, 54, 192, 154))
        tab_to("#answer-text")
        page.keyboard.type("7")
        page.keyboard.press("Enter")
        page.wait_for_selector("#outcome.correct")
        assert page.evaluate("document.activeElement.id") == "outcome"


def test_hostile_text_is_shown_as_text(play, ask):
    env = ask(HOSTILE)
    with play(lambda: env) as (page, _):
        page.fill("#answer-text", HOSTILE)
        page.click("#answer button")
        page.wait_for_selector("#outcome:not([hidden])")
        assert page.locator("#question").text_content() == HOSTILE
        assert HOSTILE in page.locator("#transcript").text_content()
        assert HOSTILE in page.locator("#outcome").text_content()
        assert page.evaluate("window.hacked") is None
        assert page.locator("#question *").count() == 0
        # Even a script that got into the page would not run.
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 4'}))"
        )
        assert page.evaluate("window.hacked") is None


def test_boxes_points_and_lines_are_drawn_into_their_fields(play, ask):
    env = ask(operations=EVERYTHING, coordinates="permille")
    with play(lambda: env) as (page, _):
        page.click("#tabs label:has-text('mark')")
        drag(page, [0.1, 0.1, 0.3, 0.3])
        drag(page, [0.5, 0.5, 0.7, 0.9])
        page.click("[data-draws=points]")
        drag(page, [0.2, 0.8, 0.2, 0.8])
        page.click("[data-draws=lines]")
        drag(page, [0.9, 0.9, 0.6, 0.1])
        assert page.locator("#overlay .front").count() == 4
        page.fill("#field-labels", "a door, open;<b>")
        page.click("#call button.primary")
        shown(page, 2)
        marks = env.views[1].region.marks
        assert [mark.kind for mark in marks] == ["box", "box", "point", "line"]
        assert [mark.label for mark in marks] == ["a door, open", "<b>", None, None]
        # The source is 400x200 pixels.
        assert marks[1].points[0] == pytest.approx((200, 100), abs=1)
        assert marks[2].points == (pytest.approx((80, 160), abs=1),)
        assert marks[3].points == (pytest.approx((360, 180), abs=1), pytest.approx((240, 20), abs=1))


def test_delete_erases_the_last_shape(play, ask):
    env = ask(operations=["mark"])
    with play(lambda: env) as (page, _):
        drag(page, [0.1, 0.1, 0.3, 0.3])
        drag(page, [0.5, 0.5, 0.7, 0.9])
        page.keyboard.press("Delete")
        assert page.locator("#overlay .front").count() == 1
        page.keyboard.press("Delete")
        assert page.input_value("#field-boxes") == ""


def test_sliders_choices_and_two_images(play, ask):
    env = ask(operations=EVERYTHING, max_turns=9, max_operations=8)
    with play(lambda: env) as (page, _):
        page.click("#tabs label:has-text('enhance')")
        page.locator("#fields input[type=range]").first.focus()
        page.keyboard.press("ArrowRight")
        page.click("#call button.primary")
        shown(page, 2)
        assert env.views[1].region.adjustments[0].as_dict() == {"contrast": 1.1}
        page.click("#tabs label:has-text('flip')")
        page.select_option("#field-direction", "vertical")
        page.select_option("#field-target_image", "1")
        assert "Image 1:" in page.locator("#caption").inner_text(), "the image that the form names is looked at"
        page.click("#call button.primary")
        shown(page, 3)
        page.click("#tabs label:has-text('compare')")
        page.focus("#field-first_image")
        page.click(".thumb[data-number='1']")
        page.click(".thumb[data-number='3']")
        page.click("#call button.primary")
        shown(page, 4)
        assert env.views[3].is_comparison
        assert "side by side" in page.locator("#caption").inner_text()


def test_frames_are_chosen_by_clicks(play):
    env = make_environment("pxr/SyntheticVideo-v0", {"operations": ["select_frames"]})
    with play(lambda: env, {"seed": 0}) as (page, _):
        n_frames = len(env.views)
        for number in (5, 2, 3, 2):
            page.click(f".thumb[data-number='{number}']")
        assert page.input_value("#field-target_frames") == "5, 3"
        assert page.locator(".thumb[aria-pressed=true]").count() == 2
        page.click("#call button.primary")
        shown(page, n_frames + 2)
        assert [env.views[n_frames + number - 1].frame for number in (1, 2)] == [env.views[4].frame, env.views[2].frame]
        # The caption counts frames as the reply does.
        page.click(f".thumb[data-number='{n_frames + 1}']")
        name = f"frame {env.views[4].frame + 1} at "
        assert name in page.locator("#caption").inner_text()
        assert name in page.locator("#reply").inner_text()


def test_what_was_refused_stays_to_be_mended(play, ask):
    with play(ask) as (page, _):
        page.fill("#field-bbox_2d", "0, 0, two, 1")
        page.click("#call button.primary")
        page.wait_for_selector("#alert:not([hidden])")
        assert 'bbox_2d is "0, 0, two, 1"; expected x1,y1,x2,y2.' in page.locator("#alert").inner_text()
        assert page.locator(".message.assistant").count() == 0, "nothing was sent"
        page.fill("#field-bbox_2d", "0, 0, 2, 1")
        page.click("#call button.primary")
        page.wait_for_selector(".message.assistant")
        assert "leaves image 1" in page.locator("#reply").inner_text()
        assert page.input_value("#field-bbox_2d") == "0, 0, 2, 1"
        assert page.locator("#alert").is_hidden()


def test_a_raw_turn_is_sent_as_it_stands(play, ask):
    with play(ask) as (page, _):
        page.click("summary:has-text('Write a turn')")
        page.fill("#raw-text", "First\n  <tool_call>{</tool_call> ")
        page.click("#raw button")
        page.wait_for_selector(".message.assistant")
        assert page.locator(".message.assistant pre").text_content() == "First\n  <tool_call>{</tool_call> "


def test_samples_are_chosen_and_a_reload_keeps_the_session(play, search):
    with play(lambda: search, {"seed": 5}) as (page, server):
        first = page.locator("#sample").inner_text()
        page.click("#next")
        page.wait_for_selector(f"#sample:not(:text-is('{first}'))")
        page.click("#chooser summary")
        page.fill("#sample-id", "train-3")
        page.press("#sample-id", "Enter")
        page.wait_for_selector("#sample:text-is('train-3')")
        assert not page.evaluate("document.getElementById('chooser').open")
        page.click("#chooser summary")
        page.fill("#seed", "9")
        page.press("#seed", "Enter")
        page.wait_for_selector("#sample:not(:text-is('train-3'))")
        sample = page.locator("#sample").inner_text()
        page.fill("#answer-text", "X")
        page.click("#answer button")
        page.wait_for_selector("#outcome:not([hidden])")
        page.reload()
        page.wait_for_selector("#outcome:not([hidden])")
        assert page.locator("#sample").inner_text() == sample
        assert len(server.sessions) == 1


def test_a_closed_session_is_replaced_by_a_new_one(play, ask):
    with play(ask) as (page, server):
        for _ in range(MAX_SESSIONS):
            server.sessions.open()
        page.click("#next")
        page.wait_for_selector("#alert:not([hidden])")
        assert "Reload" in page.locator("#alert").inner_text()
        page.reload()
        page.wait_for_selector(".thumb")
        assert page.locator("#alert").is_hidden()


def contrast(page, selector):
    """The WCAG contrast of a text with what is behind it."""
    return page.evaluate(
        """selector => {
          const light = (colour) => {
            const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((value) => {
              const part = Number(value) / 255;
              return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const element = document.querySelector(selector);
          let behind = element;
          const ground = () => getComputedStyle(behind).backgroundColor;
          while (/rgba\\(.*, 0\\)/.test(ground())) behind = behind.parentElement;
          const [a, b] = [light(getComputedStyle(element).color), light(ground())];
          return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        }""",
        selector,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_in_dark(play, ask, scheme):
    with play(ask, color_scheme=scheme) as (page, _):
        red, *_ = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (red > 200) == (scheme == "light")
        page.fill("#answer-text", "8")
        for selector in ("#question", "#caption", "#description", "#call button.primary", ".tabs input:checked + span"):
            assert contrast(page, selector) >= 4.5, selector
        page.click("#answer button")
        page.wait_for_selector("#outcome:not([hidden])")
        assert contrast(page, "#outcome h2") >= 4.5
        assert contrast(page, "#outcome dt") >= 4.5


def test_a_narrow_window_does_not_scroll_sideways(play, ask):
    with play(lambda: ask(HOSTILE * 3, operations=EVERYTHING), viewport={"width": 360, "height": 740}) as (page, _):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.click("#tabs label:has-text('mark')")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
