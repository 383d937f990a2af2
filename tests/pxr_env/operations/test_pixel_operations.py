"""The operations beside zoom_in: what they show, and the mistakes they answer."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.coordinates import get_frame
from pxr_env.errors import OperationError
from pxr_env.media import VideoSource
from pxr_env.operations import OperationContext, get_operation, operation_names
from pxr_env.views import Adjustment, Comparison, Grid, Mark, Region, View

WHOLE = Region.from_box(1, (0.0, 0.0, 400.0, 200.0))
PART = Region.from_box(1, (100.0, 50.0, 200.0, 150.0))


def frame_picture(index):
    raise AssertionError("operations decide what to show; they do not look at pixels")


#: 10 seconds at 4 frames per second.
VIDEO = VideoSource(key="a test", load_frame=frame_picture, n_frames=40, fps=4.0, size=(64, 48))
FRAME = Region(source=2, quad=Region.from_box(2, (0, 0, 64, 48)).quad, frame=12, time=3.0, overview=True)


def context(*shown, sources=(None, VIDEO)):
    views = tuple(
        View.of(number, item, (112, 56)) for number, item in enumerate(shown or (WHOLE, PART, FRAME), start=1)
    )
    return OperationContext(views=views, frame=get_frame("unit"), sources=sources)


def run(name, *, at=None, **arguments):
    return get_operation(name).run(at or context(), arguments)


def test_rotate():
    assert run("rotate", target_image=1, degrees=90) == [replace(WHOLE, quad=WHOLE.quad.rotated(90))]
    turned = run("rotate", target_image=1, degrees=90)[0]
    again = run("rotate", at=context(turned), target_image=1, degrees=-90)[0]
    assert again == WHOLE
    assert run("rotate", target_image=2, degrees=45)[0].quad.is_tilted
    for degrees in (0, 360, -360, 0.0):
        with pytest.raises(OperationError, match="changes nothing; expected another angle"):
            run("rotate", target_image=1, degrees=degrees)
    with pytest.raises(OperationError, match="degrees is 400; expected a finite number from -360 to 360"):
        run("rotate", target_image=1, degrees=400)


def test_flip():
    [mirrored] = run("flip", target_image=2, direction="horizontal")
    assert (mirrored.quad.top_left, mirrored.quad.top_right) == ((200, 50), (100, 50))
    [upended] = run("flip", target_image=2, direction="vertical")
    assert (upended.quad.top_left, upended.quad.bottom_left) == ((100, 150), (100, 50))
    with pytest.raises(OperationError, match='direction is "diagonal"; expected one of "horizontal", "vertical"'):
        run("flip", target_image=2, direction="diagonal")


def test_enhance_adds_to_what_was_done():
    [once] = run("enhance", target_image=1, contrast=2)
    assert once.adjustments == (Adjustment(contrast=2.0),)
    [twice] = run("enhance", at=context(once), target_image=1, brightness=0.5, sharpness=2)
    assert twice.adjustments == (Adjustment(contrast=2.0), Adjustment(brightness=0.5, sharpness=2.0))
    # And a zoom keeps it.
    assert run("zoom_in", at=context(twice), bbox_2d=[0, 0, 1, 1], target_image=1)[0].adjustments == twice.adjustments
    with pytest.raises(OperationError, match="all factors are 1, which changes nothing"):
        run("enhance", target_image=1, contrast=1)
    with pytest.raises(OperationError, match="contrast is 11; expected a finite number from 0 to 10"):
        run("enhance", target_image=1, contrast=11)


def test_marks_are_kept_in_source_pixels():
    [marked] = run(
        "mark",
        target_image=2,
        boxes=[[0, 0, 0.5, 0.5]],
        points=[[0.5, 1]],
        lines=[[0, 0, 1, 1]],
        labels=["a door", " \n "],
    )
    assert marked.marks == (
        Mark(kind="box", points=((100, 50), (150, 50), (150, 100), (100, 100)), label="a door"),
        Mark(kind="point", points=((150, 150),)),
        Mark(kind="line", points=((100, 50), (200, 150))),
    )
    [more] = run("mark", at=context(marked), target_image=1, points=[[0, 0]])
    assert more.marks == (*marked.marks, Mark(kind="point", points=((100, 50),)))
    for arguments, message in (
        ({}, "nothing to draw; expected boxes, points or lines"),
        ({"labels": ["x"]}, "nothing to draw"),
        ({"points": [[0, 0]], "labels": ["a", "b"]}, "2 labels came for 1 marks"),
        ({"points": [[0, 2]]}, "leaves image 2"),
        ({"boxes": [[0, 0, 0, 1]]}, "empty"),
        ({"points": [[0, 0]] * 33}, "points has 33 items; expected a list of 1 to 32"),
        ({"points": [[0, 0, 0]]}, r"points\[0\] has 3 items"),
        ({"points": [[0, 0]], "labels": ["x" * 41]}, r"labels\[0\] has 41 characters; expected at most 40"),
    ):
        with pytest.raises(OperationError, match=message):
            run("mark", target_image=2, **arguments)


def test_a_grid_is_over_one_view_only():
    [gridded] = run("grid", target_image=2)
    assert gridded.grid == Grid(lines=9, frame="unit")
    for name, arguments in (
        ("zoom_in", {"bbox_2d": [0, 0, 0.5, 0.5]}),
        ("rotate", {"degrees": 90}),
        ("flip", {"direction": "vertical"}),
    ):
        assert run(name, at=context(gridded), target_image=1, **arguments)[0].grid is None, name
    with pytest.raises(OperationError, match="lines is 20; expected an integer from 1 to 19"):
        run("grid", target_image=1, lines=20)


def test_compare():
    assert run("compare", first_image=2, second_image=1) == [Comparison(left=PART, right=WHOLE)]
    with pytest.raises(OperationError, match="both 1; expected two different"):
        run("compare", first_image=1, second_image=1)
    pair = context(Comparison(left=PART, right=WHOLE), WHOLE)
    for name, arguments in (
        ("rotate", {"target_image": 1, "degrees": 90}),
        ("mark", {"target_image": 1, "points": [[0, 0]]}),
        ("compare", {"first_image": 1, "second_image": 2}),
    ):
        with pytest.raises(OperationError, match="image 1 shows two images side by side"):
            run(name, at=pair, **arguments)


def test_select_frames():
    later = replace(FRAME, frame=20, time=5.0)
    at = context(WHOLE, FRAME, later)
    assert run("select_frames", at=at, target_frames=[3, 2]) == [
        replace(later, overview=False),
        replace(FRAME, overview=False),
    ]
    for frames, message in (
        ([1], "image 1 is no frame of a video"),
        ([2, 2], "has a number twice"),
        ([4], "there is no image 4; images 1 to 3 were shown"),
        ([0], r"target_frames\[0\] is 0; expected an integer from 1"),
        ([], "has 0 items; expected a list of 1 to 8 integers"),
        ([2] * 9, "has 9 items"),
    ):
        with pytest.raises(OperationError, match=message):
            run("select_frames", at=at, target_frames=frames)


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [
        (1, 2, [4, 5, 6, 7]),
        (0.9, 1.1, [4]),
        (9.75, 100, [39]),
        # 40 frames in 8 equal parts of 5: the third of each.
        (0, 10, [2, 7, 12, 17, 22, 27, 32, 37]),
    ],
)
def test_seek_shows_the_frames_of_a_range(start, end, frames):
    shown = run("seek", start=start, end=end)
    assert [region.frame for region in shown] == frames
    assert [region.time for region in shown] == [frame / 4 for frame in frames]
    assert all(region.overview and region.source == 2 for region in shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 2, "end": 2}, "from 2 s to 2 s came; expected 0 <= start < end"),
        ({"start": 10, "end": 11}, r"start before the end of the video at 10\.00 s"),
        ({"start": -1, "end": 1}, "start is -1; expected a finite number from 0"),
        ({"start": 1.01, "end": 1.2}, r"no frame lies from 1\.01 s to 1\.2 s; the nearest one is at 1\.000 s"),
        ({"start": 1, "end": 2, "target_video": 2}, "there is no video 2; only video 1 was shown"),
    ],
)
def test_seek_answers_mistakes(arguments, message):
    with pytest.raises(OperationError, match=message):
        run("seek", **arguments)


def test_seek_without_a_video():
    with pytest.raises(OperationError, match="no video was shown"):
        run("seek", at=context(WHOLE, sources=(None,)), start=0, end=1)


def test_every_operation_tells_the_model_how_to_call_it():
    assert operation_names()
    for name in operation_names():
        tool = get_operation(name).tool()["function"]
        json.dumps(tool)
        assert tool["description"].endswith(".")
        assert set(tool["parameters"]["required"]) <= set(tool["parameters"]["properties"])


scalars = (
    *(st.none(), st.booleans(), st.integers(), st.integers(-3, 20), st.floats(), st.floats(-2, 20)),
    *(st.text(max_size=200), st.sampled_from(["horizontal", [0.1, 0.1, 0.5, 0.5]])),
)
values = st.recursive(
    st.one_of(scalars),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=90), inner, max_size=20),
    max_leaves=40,
)


@given(st.data(), st.sampled_from(operation_names()))
def test_any_arguments_show_something_or_give_a_short_text(data, name):
    names = [*get_operation(name).parameters["properties"], "x"]
    arguments = data.draw(st.dictionaries(st.sampled_from(names), values | st.just(1)))
    shown, text = [], ""
    try:
        shown = get_operation(name).run(context(), arguments)
    except OperationError as error:
        text = str(error)
    assert (10 < len(text) < 500) != bool(shown)
    for item in shown:
        View.of(9, item, (56, 56)).as_dict()
        if name == "zoom_in" and item.source == 1:
            x1, y1, x2, y2 = item.box
            assert 0 <= x1 < x2 <= 400
            assert 0 <= y1 < y2 <= 200
