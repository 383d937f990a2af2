"""The pixels of views, against the same thing done by hand to the source."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pxr_env.media import cut
from pxr_env.rendering import MARK_COLOUR, SEPARATOR_COLOUR, render
from pxr_env.views import Adjustment, Comparison, Grid, Mark, Quad, Region, View

NOISE = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
SOURCE = Image.fromarray(NOISE)


def smooth(width=240, height=160):
    """A picture without fine detail, so that two ways to resample it must agree."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(x / 31 + k) * np.cos(y / 23 + 2 * k) for k in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))


def show(region, size, picture=SOURCE):
    return render(View.of(1, region, size), lambda source, frame: picture)


BOX = (20.0, 10.0, 100.0, 70.0)  # 80x60
UPRIGHT = np.asarray(SOURCE.resize((56, 28), Image.Resampling.BICUBIC, box=BOX))
REGION = Region.from_box(1, BOX)


@pytest.mark.parametrize(
    ("change", "expected", "sideways"),
    [
        (lambda quad: quad, UPRIGHT, False),
        (lambda quad: quad.rotated(90), np.rot90(UPRIGHT, k=-1), True),
        (lambda quad: quad.rotated(180), np.rot90(UPRIGHT, k=2), False),
        (lambda quad: quad.rotated(-90), np.rot90(UPRIGHT), True),
        (lambda quad: quad.mirrored(horizontally=True), UPRIGHT[:, ::-1], False),
        (lambda quad: quad.mirrored(horizontally=False), UPRIGHT[::-1], False),
        (lambda quad: quad.rotated(90).mirrored(horizontally=True), np.rot90(UPRIGHT, k=-1)[:, ::-1], True),
        (lambda quad: quad.mirrored(horizontally=False).rotated(270), np.rot90(UPRIGHT[::-1]), True),
    ],
)
def test_turned_views_have_the_pixels_of_upright_ones(change, expected, sideways):
    pixels = cut(SOURCE, change(Quad.from_box(BOX)), (28, 56) if sideways else (56, 28))
    assert np.array_equal(pixels, expected)
    pixels[:] = 0  # a new array, not a view into another
    assert np.array_equal(cut(SOURCE, Quad.from_box(BOX), (56, 28)), UPRIGHT)


def test_a_zoom_into_a_turned_view_reads_the_source():
    # Turned clockwise, the upper left quarter of the view was the lower left quarter of the box.
    part = REGION.quad.rotated(90).part((0, 0, 30, 40), (60, 80))
    quarter = SOURCE.crop((20, 40, 60, 70))
    assert np.array_equal(cut(SOURCE, part, (30, 40)), np.rot90(np.asarray(quarter), k=-1))


@pytest.mark.parametrize("degrees", [30, -12.5, 200])
def test_tilted_views_agree_with_pillow(degrees):
    picture = smooth()
    quad = Quad.from_box((0, 0, 240, 160)).rotated(degrees)
    size = (round(quad.width), round(quad.height))
    pixels = cut(picture, quad, size).astype(int)
    # Pillow turns counterclockwise; what lies outside is grey in both.
    reference = picture.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=(128, 128, 128))
    reference = np.asarray(reference.resize(size)).astype(int)
    difference = np.abs(pixels - reference).max(axis=2)
    # They differ by a fraction of a pixel, which shows along the rim only.
    assert np.median(difference) <= 3
    assert np.mean(difference > 12) < 0.05


def test_tilted_views_are_shrunk_without_aliasing():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = cut(Image.fromarray(stripes), Quad.from_box((100, 100, 300, 300)).rotated(30), (56, 56))
    assert pixels.std() < 8  # grey, no pattern
    assert abs(pixels.mean() - 127) < 3


def test_adjustments_follow_pillow_in_order():
    first, second = Adjustment(contrast=2.0, sharpness=3.0), Adjustment(brightness=0.5)
    expected = ImageEnhance.Contrast(Image.fromarray(UPRIGHT)).enhance(2.0)
    expected = ImageEnhance.Sharpness(expected).enhance(3.0)
    expected = ImageEnhance.Brightness(expected).enhance(0.5)
    region = Region(source=1, quad=REGION.quad, adjustments=(first, second))
    assert np.array_equal(show(region, (56, 28)), np.asarray(expected))
    assert region.as_dict()["adjustments"] == [{"contrast": 2.0, "sharpness": 3.0}, {"brightness": 0.5}]


def test_marks_stay_at_their_place_in_the_source():
    black = Image.new("RGB", (400, 400))
    marks = (
        Mark(kind="point", points=((100, 200),)),
        Mark(kind="box", points=((200, 100), (300, 100), (300, 300), (200, 300))),
        Mark(kind="line", points=((20, 380), (380, 380))),
    )
    region = Region(source=1, quad=Quad.from_box((0, 0, 400, 400)), marks=marks)

    def is_red(pixels, x, y):
        return tuple(pixels[y, x]) == MARK_COLOUR

    whole = show(region, (400, 400), black)
    for x, y in ((100, 200), (200, 200), (300, 200), (250, 100), (250, 300), (200, 380)):
        assert is_red(whole, x, y), (x, y)
    assert not is_red(whole, 250, 200)
    # In the right half, at twice the size: x' = 2 * (x - 200), y' = 2 * (y - 100).
    half = show(region.part((200, 100, 400, 300), (400, 400)), (400, 400), black)
    assert is_red(half, 200, 200)
    assert is_red(half, 0, 200)
    assert not is_red(half, 100, 200)
    # Turned clockwise: (x, y) -> (400 - y, x).
    turned = show(Region(source=1, quad=region.quad.rotated(90), marks=marks), (400, 400), black)
    assert is_red(turned, 200, 100)
    assert is_red(turned, 20, 200)


def test_labels_and_grids_are_drawn_inside():
    white = Image.new("RGB", (300, 300), (255, 255, 255))
    quad = Quad.from_box((0, 0, 300, 300))
    for corner in ((0, 0), (300, 300)):
        marks = (Mark(kind="point", points=(corner,), label=label) for label in ("exit", None))
        labelled, plain = (show(Region(source=1, quad=quad, marks=(mark,)), (300, 300), white) for mark in marks)
        assert np.any(labelled != plain)
    grid = show(Region(source=1, quad=quad, grid=Grid(lines=3, frame="permille")), (280, 280), white)
    rows = np.flatnonzero((grid == (255, 255, 0)).all(axis=2).mean(axis=1) > 0.9)
    assert rows.tolist() == [70, 140, 210]
    # A zoom into it is cut from the source, without the lines.
    region = Region(source=1, quad=quad, grid=Grid(lines=3, frame="unit")).part((0, 0, 0.5, 0.5), (1, 1))
    assert np.all(show(region, (56, 56), white) == 255)


def test_two_pictures_side_by_side():
    left, right = Region.from_box(1, (0, 0, 100, 50)), Region.from_box(2, (0, 0, 50, 50))
    pictures = {1: Image.new("RGB", (100, 50), (255, 0, 0)), 2: Image.new("RGB", (50, 50), (0, 0, 255))}
    view = View.of(3, Comparison(left=left, right=right), (300, 100))
    pixels = render(view, lambda source, frame: pictures[source])
    assert [panel.place for panel in view.panels] == [(0, 0, 198, 100), (202, 0, 300, 100)]
    assert np.all(pixels[:, :198] == (255, 0, 0))
    assert np.all(pixels[:, 198:202] == SEPARATOR_COLOUR)
    assert np.all(pixels[:, 202:] == (0, 0, 255))
    assert [panel["source"] for panel in view.as_dict()["panels"]] == [1, 2]
