"""Infographics: the answers follow from what is on the page, and fine print can be read in a zoom alone."""

import functools
import re

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pxr_env.media import cut
from pxr_env.synthetic import SyntheticInfographic
from pxr_env.synthetic.infographic import KINDS
from pxr_env.synthetic.infographic_page import MONTHS, TextLabel, draw_page, fitting_font
from pxr_env.synthetic.scenes import scene_of


@functools.cache
def data(**arguments):
    return SyntheticInfographic(**arguments)


@functools.cache
def samples(n=40):
    return [data().get(f"train-{index}") for index in range(n)]


def answer(question, section):
    """Answers a question from the description of its section, reading the question as a person would."""
    rows = dict(zip([name.lower() for name in section["names"]], section["values"], strict=True))
    if section["kind"] == "small print":
        return MONTHS[rows["month of the survey"][0]] if "month" in question else f"{rows['adults surveyed'][0]:,}"
    words = re.findall(r"[\w%]+", question.lower())
    column = next((number for number, name in enumerate(section["columns"]) if name and name in words), 0)
    for choose, marks in ((max, ("most", "largest")), (min, ("least", "smallest", "fewest"))):
        if any(mark in words for mark in marks):
            best = choose(rows, key=lambda name: rows[name][column])
            return next(name for name in section["names"] if name.lower() == best)
    (name,) = [name for name in rows if re.search(rf"\b{name}\b", question.lower())]
    return f"{rows[name][column]}%" if section["kind"] in ("bars", "pie") else f"{rows[name][column]:,}"


def test_answers_follow_from_the_description():
    asked = set()
    for sample in samples():
        section = sample.metadata["sections"][sample.metadata["section"]]
        assert sample.answers[0] == answer(sample.question, section), sample.question
        assert sample.category == ("hard" if section["fine"] else "easy")
        asked.add(section["kind"])
    assert asked == {*KINDS, "small print"}


def test_accepted_ways_to_write_a_number():
    answers = {sample.answers for sample in samples()}
    percent = next(forms for forms in answers if forms[0].endswith("%"))
    number = percent[0][:-1]
    assert percent == (f"{number}%", number, f"{number} %", f"{number} percent")
    thousands = next(forms for forms in answers if "," in forms[0])
    assert thousands == (thousands[0], thousands[0].replace(",", ""))


def test_values_are_distinct_and_shares_add_up():
    for sample in samples():
        for section in sample.metadata["sections"]:
            if section["kind"] == "small print":
                continue
            for column in zip(*section["values"], strict=True):
                assert len(set(column)) == len(column)
                if section["kind"] in ("bars", "pie"):
                    assert sum(column) == 100
                    assert min(column) >= 5


def test_fine_print_changes_a_zoom_but_not_the_first_view():
    for index, sample in enumerate(samples()):
        page, image = scene_of(data(), index), sample.sources[0].image
        without = draw_page(page.size, page.shapes, without=page.question.keys)
        width, height = image.size
        first, blank = (cut(picture, (0, 0, width, height), page.size) for picture in (image, without))
        assert sample.needs_operation is bool(np.array_equal(first, blank))
        assert sample.needs_operation is (sample.category == "hard")
        x1, y1, x2, y2 = sample.evidence_box
        size = data().budget.size((int(x2 - x1), int(y2 - y1)))
        # At about full resolution: a side is a multiple of 28 pixels.
        assert size[0] >= 0.95 * (x2 - x1)
        zoomed, empty = (cut(picture, sample.evidence_box, size).astype(int) for picture in (image, without))
        assert np.abs(zoomed - empty).max() > 80
        if not sample.needs_operation:
            assert np.abs(first.astype(int) - blank).max() > 80


def test_plain_text_that_decides_is_large_enough_for_the_first_view():
    for index in range(200):
        page = scene_of(data(), index)
        for label in page.shapes:
            if isinstance(label, TextLabel) and label.key in page.question.keys and label.strip is None:
                font = fitting_font(label.text, label.size * 4, 4 * (label.place[2] - label.place[0]))
                assert font.size >= 4 * 9


def ink_of(text):
    """How much of each pixel a text in the height of fine print covers, (h, w) from 0 to 1, without margins."""
    image = Image.new("L", (400, 60))
    ImageDraw.Draw(image).text((10, 10), text, font=ImageFont.load_default(18), fill=255)
    return np.asarray(image.crop(image.getbbox())) / 255


def likeness(ink, darkness):
    """The matched filter: how much darker a crop is than its strip where a text would be, at the best place."""
    height, width = ink.shape
    if height > darkness.shape[0] or width > darkness.shape[1]:
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(darkness, ink.shape)
    return np.tensordot(windows, ink, axes=2).max() / np.linalg.norm(ink)


def test_fine_print_can_be_read_at_full_resolution():
    """An independent reader compares the dark pixels of the evidence with all texts it might be."""
    read = 0
    for sample in samples():
        section = sample.metadata["sections"][sample.metadata["section"]]
        if sample.category == "easy" or section["kind"] == "small print":
            continue
        is_name = sample.answers[0] in section["names"]
        x1, y1, x2, y2 = (int(value) for value in sample.evidence_box)
        if is_name and section["kind"] == "table":
            continue  # The numbers decide, not one of them.
        if section["kind"] == "line":
            y1, y2 = (y2 - 36, y2) if is_name else (y1, y1 + 36)
        elif not is_name:
            x1 = x2 - 96
        crop = np.asarray(sample.sources[0].image.crop((x1, y1, x2, y2)).convert("L")).astype(int)
        darkness = np.median(crop) - crop
        numbers = [value for row in section["values"] for value in row]
        texts = (
            list(section["names"])
            if is_name
            else [f"{value}%" if section["kind"] in ("bars", "pie") else f"{value:,}" for value in numbers]
        )
        assert max(texts, key=lambda text: likeness(ink_of(text), darkness)) == sample.answers[0]
        read += 1
    assert read >= 12


def test_pages_have_the_formats_of_the_budget():
    sizes = {sample.sources[0].size for sample in samples()}
    assert len(sizes) > 4
    for width, height in sizes:
        assert 1.2 <= height / width <= 3.2
        assert data().budget.size((width, height)) == (width // 4, height // 4)


def test_labels_keep_to_the_page_and_apart_from_each_other():
    crowded = SyntheticInfographic(n_sections=5, max_pixels=320 * 784)
    for index in range(60):
        page = scene_of(crowded, index)
        width, height = page.size
        places = [shape.place for shape in page.shapes if isinstance(shape, TextLabel)]
        for number, (x1, y1, x2, y2) in enumerate(places):
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            for left, top, right, bottom in places[:number]:
                assert x2 <= left or right <= x1 or y2 <= top or bottom <= y1


def test_train_and_test_have_no_page_in_common():
    for split, parity in (("train", 0), ("test", 1)):
        pages = data(split=split)
        for index in range(6):
            image = pages.get(f"{split}-{index}").sources[0].image
            assert image.getpixel((0, image.height - 1))[2] % 2 == parity
