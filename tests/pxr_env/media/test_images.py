"""Sizes, cutting and decoding, against second implementations and hand-made files."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.media import ImageSource, cut, fit_size
from pxr_env.media.images import DecodedCache, probe

SIDES = st.integers(1, 5000)


def slow_fit(width, height, least, most, multiple):
    """fit_size for pictures whose scaled sides are at least one multiple, with exact fractions and searches."""

    def largest(side, other, area):
        # The largest count with (count * multiple)**2 <= side / other * area.
        return next(n for n in range(10**6) if Fraction((n + 1) * multiple) ** 2 * other > side * area)

    def smallest(side, other, area):
        return next(n for n in range(10**6) if Fraction(n * multiple) ** 2 * other >= side * area)

    columns, rows = (max(1, round(Fraction(side, multiple))) for side in (width, height))
    if columns * rows * multiple**2 < least:
        columns, rows = smallest(width, height, least), smallest(height, width, least)
    if columns * rows * multiple**2 > most:
        columns, rows = largest(width, height, most), largest(height, width, most)
    return columns * multiple, rows * multiple


@pytest.mark.parametrize(
    ("width", "height", "least", "most", "multiple", "expected"),
    [
        (336, 336, 84**2, 84**2, 28, (84, 84)),  # scaled to 84 exactly
        (112, 112, 84**2, 84**2, 28, (84, 84)),
        (56, 56, 84**2, 84**2, 28, (84, 84)),  # enlarged
        (100, 200, 0, 10**6, 28, (112, 196)),  # 3.57 -> 4, 7.14 -> 7 multiples
        (42, 42, 0, 10**6, 28, (56, 56)),  # 1.5 multiples: half to even, 2
        (70, 70, 0, 10**6, 28, (56, 56)),  # 2.5 multiples: half to even, 2
        (112, 111, 84**2, 84**2, 28, (84, 56)),  # 3.01 and 2.99 multiples, rounded down
        (100, 50, 84**2, 84**2, 28, (112, 56)),  # 140x84 would break the maximum: it wins
        (5600, 28, 84**2, 84**2, 28, (252, 28)),  # one multiple high, the rest of the budget wide
        (28, 5600, 84**2, 84**2, 28, (28, 252)),
        (2, 205, 0, 395, 1, (1, 200)),  # 410 pixels are too many; scaled, 1.96x201.2 would be 1x201: too narrow
        (3, 5, 0, 10**6, 32, (32, 32)),  # never below one multiple
        (4000, 3000, 401_408, 4_014_080, 28, (2296, 1708)),  # sqrt(4014080 * 4/3) = 2313.5, sqrt(* 3/4) = 1735.1
    ],
)
def test_fit_size_by_hand(width, height, least, most, multiple, expected):
    assert fit_size(width, height, min_pixels=least, max_pixels=most, size_multiple=multiple) == expected


@given(SIDES, SIDES, st.integers(0, 300_000), st.integers(0, 1_000_000), st.sampled_from((1, 14, 28, 32)))
def test_fit_size_stays_inside_the_budget(width, height, least, more, multiple):
    most = max(least + more, multiple**2)
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError, match="at most 200"):
            fit_size(width, height, min_pixels=least, max_pixels=most, size_multiple=multiple)
        return
    shown = fit_size(width, height, min_pixels=least, max_pixels=most, size_multiple=multiple)
    assert all(side >= multiple and side % multiple == 0 for side in shown)
    assert shown[0] * shown[1] <= most
    assert max(shown) <= 200 * min(shown)
    # A second pass changes nothing, unless the minimum cannot be met.
    again = fit_size(*shown, min_pixels=min(least, shown[0] * shown[1]), max_pixels=most, size_multiple=multiple)
    assert again == shown


@given(st.integers(100, 4000), st.integers(100, 4000), st.integers(20_000, 100_000), st.integers(0, 1_000_000))
def test_fit_size_equals_exact_search(width, height, least, more):
    if max(width, height) > 10 * min(width, height):
        return
    expected = slow_fit(width, height, least, least + more, 28)
    assert fit_size(width, height, min_pixels=least, max_pixels=least + more, size_multiple=28) == expected


@settings(max_examples=30)
@given(st.integers(30, 3000), st.integers(30, 3000))
def test_processors_keep_our_sizes(width, height):
    reference = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize
    budget = {"min_pixels": 56 * 56, "max_pixels": 512 * 28 * 28}
    shown_w, shown_h = fit_size(width, height, **budget, size_multiple=28)
    if shown_w * shown_h >= budget["min_pixels"]:
        assert reference(shown_h, shown_w, factor=28, **budget) == (shown_h, shown_w)
    # Away from the points where floating point rounds to the other side, the sizes themselves agree.
    beta = math.sqrt(width * height / budget["max_pixels"])
    if beta > 1 and all(abs(side / beta / 28 - round(side / beta / 28)) > 1e-6 for side in (width, height)):
        assert reference(height, width, factor=28, **budget) == (shown_h, shown_w)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 10, 0, 783, 28), "784"),
        ((10, 10, 2000, 1000, 28), "0 <= min_pixels <= max_pixels"),
        ((10, 10, 0, 1000, 0), "size_multiple >= 1"),
        ((0, 10, 0, 1000, 28), "at least 1x1"),
        ((2001, 10, 0, 1000, 28), "at most 200"),
    ],
)
def test_fit_size_refuses_the_impossible(arguments, message):
    width, height, least, most, multiple = arguments
    with pytest.raises(ValueError, match=message):
        fit_size(width, height, min_pixels=least, max_pixels=most, size_multiple=multiple)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 6), st.integers(1, 6), st.integers(0, 5), st.integers(0, 5))
def test_whole_reductions_are_area_means(across, down, columns, rows, left, top):
    pixels = noise(top + rows * down + 2, left + columns * across + 3, seed=across * 100 + down)
    box = (left, top, left + columns * across, top + rows * down)
    part = pixels[box[1] : box[3], box[0] : box[2]].astype(np.int64)
    sums = part.reshape(rows, down, columns, across, 3).sum(axis=(1, 3))
    expected = (2 * sums + across * down) // (2 * across * down)  # the mean, rounded half up
    got = cut(ImageSource(image=pixels), tuple(map(float, box)), (columns, rows)).astype(np.int64)
    if {across, down} <= {1, 2, 4}:
        assert np.array_equal(got, expected)
    else:
        # Fixed-point division: a mean at the border of rounding may come out one level lower.
        at_the_edge = (sums + across * down // 2) % (across * down) == 0
        assert np.array_equal(got, expected - (at_the_edge & (got < expected)))


@pytest.mark.parametrize(
    ("box", "size"),
    [((0, 0, 60, 60), (28, 28)), ((0.5, 0, 56.5, 56), (28, 28)), ((3.25, 4.5, 40.75, 20.1), (56, 28))],
)
def test_everything_else_is_bicubic_from_the_source(box, size):
    pixels = noise(64, 64)
    expected = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=box))
    assert np.array_equal(cut(ImageSource(image=pixels), box, size), expected)


def test_cut_returns_fresh_arrays_and_refuses_boxes_outside():
    source = ImageSource(image=noise(10, 20))
    first, second = (cut(source, (0, 0, 20, 10), (20, 10)) for _ in range(2))
    first[:] = 0
    assert np.array_equal(second, noise(10, 20))
    assert np.array_equal(cut(source, (0, 0, 20, 10), (20, 10)), noise(10, 20))
    for box in ((0, 0, 21, 10), (-1, 0, 5, 5), (5, 5, 5, 8), (0, 0, 5, math.nan)):
        with pytest.raises(ValueError, match="x2 <= 20"):
            cut(source, box, (28, 28))


def test_unusable_sources_say_what_to_do(tmp_path):
    with pytest.raises(MediaError, match=r"missing\.png.*check the path"):
        _ = ImageSource(path=tmp_path / "missing.png").size
    with pytest.raises(TypeError, match="exactly one"):
        ImageSource()
    with pytest.raises(TypeError, match="load= with key="):
        ImageSource(load=lambda: noise(1, 1))
    with pytest.raises(MediaError, match="float64"):
        ImageSource(image=np.zeros((2, 2, 3)))


def test_files_are_decoded_once_and_again_after_a_change(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(noise(8, 8)).save(path)
    source = ImageSource(path=path)
    assert source.image is ImageSource(path=path).image
    Image.fromarray(noise(9, 9)).save(path)
    assert source.size == (9, 9)


def test_the_cache_is_bounded_by_bytes():
    cache = DecodedCache(max_bytes=2 * 4 * 10 * 10)

    def load():
        return Image.fromarray(noise(10, 10))

    first, second = cache.get("a", load), cache.get("b", load)
    assert cache.get("a", load) is first  # now the second is the least recently used one
    cache.get("c", load)
    assert cache.n_bytes == 2 * 4 * 10 * 10
    assert cache.get("a", load) is first
    assert cache.get("b", load) is not second
    large = cache.get("d", lambda: Image.fromarray(noise(100, 100)))
    assert cache.get("d", load) is large  # the newest one stays, whatever its size
    assert cache.n_bytes == 4 * 100 * 100
    cache.clear()
    assert cache.n_bytes == 0


def test_sources_are_rendered_when_needed_and_once():
    calls = []

    def load():
        calls.append(1)
        return noise(6, 8)

    source = ImageSource(key=("a test", 1), load=load, size=(8, 6))
    assert source.size == (8, 6)
    assert not calls
    assert np.array_equal(np.asarray(source.image), noise(6, 8))
    assert ImageSource(key=("a test", 1), load=load).size == (8, 6)
    assert len(calls) == 1


def test_headers_are_read_without_decoding(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(40, 60)).save(tmp_path / "turned.jpg", exif=exif)
    assert probe(tmp_path / "turned.jpg") == (40, 60)
    whole = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    assert probe(tmp_path / "half.jpg") == (40, 60)
    Image.fromarray(noise(1, 300)).save(tmp_path / "line.png")
    with pytest.raises(MediaError, match=r"line\.png.*300x1; expected sides with a ratio of at most 200"):
        probe(tmp_path / "line.png")


def test_hostile_files_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    Image.fromarray(noise(50, 50)).save(tmp_path / "large.png")
    Image.fromarray(noise(5, 5)).save(tmp_path / "script.eps")
    Image.fromarray(noise(5, 5)).save(tmp_path / "really_a.png", format="JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    for read in (probe, lambda path: ImageSource(path=path).image):
        with (
            pytest.warns(Image.DecompressionBombWarning),
            pytest.raises(MediaError, match=r"50x50 pixels; .* at most 2000"),
        ):
            read(tmp_path / "large.png")
        with pytest.raises(MediaError, match=r"script\.eps.*cannot be decoded.*Expected a complete image \(PNG"):
            read(tmp_path / "script.eps")
        with pytest.raises(MediaError, match="cannot be opened"):
            read(tmp_path / "nul\0.png")
        # The content decides, not the name.
        read(tmp_path / "really_a.png")
