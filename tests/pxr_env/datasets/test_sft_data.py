"""The released warm-start data."""

import json

import numpy as np
import pytest
from PIL import Image

from pxr_env.datasets import ImagePart, SFTData, TextPart, VideoPart
from pxr_env.errors import DataError

CALL = '<tool_call>\n{"name": "crop_image", "arguments": {"bbox_2d": [1, 2, 3, 4], "target_image": 1}}\n</tool_call>'


def message(role, *parts):
    return {"role": role, "content": list(parts)}


def trace(*middle, **other):
    return {
        "message_list": [
            message("system", {"text": "You are a helpful assistant."}),
            message("user", {"image": "images/china.jpg"}, {"text": "What is it?"}),
            *middle,
            message("assistant", {"text": r"It is \boxed{A}."}),
        ]
    } | other


def open_rows(directory, rows, **arguments):
    (directory / "release.json").write_text(json.dumps(rows))
    return SFTData(directory, **arguments)


def test_traces(directory):
    frames = [f"clip/{number}.png" for number in (1, 2)]
    rows = [
        trace(message("assistant", {"text": CALL}), message("user", {"text": "Here:"}, {"image": "images/small.png"})),
        # As tables write it: every kind in every part.
        trace(message("user", {"text": None, "image": None, "video": frames}), qid="a", correct=True),
        trace(message("tool", {"text": "done"}), qid="a"),
    ]
    data = open_rows(directory, rows)
    assert (len(data), data.n_rows, data.skipped) == (3, 3, ())
    assert [one.sample_id for one in data] == ["row-0", "a", "a#2"]
    first, second = data[0], data[1]
    assert [said.role for said in first.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [part.kind for part in first.messages[1].content] == ["image", "text"]
    assert first.messages[2].content == (TextPart(text=CALL),)
    image = first.messages[1].content[0]
    assert isinstance(image, ImagePart)
    with Image.open(directory / "images" / "china.jpg") as picture:
        assert np.array_equal(image.file.open().image, picture.convert("RGB"))
    video = second.messages[2].content[0]
    assert isinstance(video, VideoPart)
    assert len(video.file.paths) == 2
    assert len(first.media) == 2
    with pytest.raises(IndexError):
        data[3]


def test_lines_and_files_by_name(directory, write_lines):
    path = write_lines(directory / "traces.jsonl", [trace(), trace(qid="x")])
    assert [one.sample_id for one in SFTData(path)] == ["row-0", "x"]
    (directory / "other.json").write_text("[]")
    with pytest.raises(DataError, match=r"holds 2 json files \(other\.json, traces\.jsonl\)"):
        SFTData(directory)


def test_tool_tags_stay_and_other_tokens_do_not(directory):
    data = open_rows(directory, [trace(message("assistant", {"text": f"<think>{CALL}<|im_end|>"})), trace(), trace()])
    assert data[0].messages[2].content[0].text == f"<think>{CALL}\u2039|im_end|\u203a"
    assert [(warning.row, warning.kind) for warning in data.warnings] == [(0, "neutralized"), (2, "duplicate")]


BAD = [
    ({"message_list": []}, "message_list is []; expected a list of messages"),
    ({"messages": []}, "message_list is null"),
    ({"message_list": ["hi"]}, 'message 1 is "hi"; expected an object'),
    ({"message_list": [message("user", {"text": "hi"})]}, "it has no message of the assistant"),
    (trace(message("human", {"text": "hi"})), 'the role of message 3 is "human"; expected one of system, user'),
    (trace({"role": "user"}), "the content of message 3 is null; expected a list of parts"),
    (trace(message("user", {"audio": "a.wav"})), "message 3 has the part"),
    (trace(message("user", {"text": "a", "image": "b"})), "expected one of text, image and video"),
    (trace(message("user", "hi")), 'message 3 has the part "hi"'),
    (trace(message("user", {"text": 3})), "message 3: text is 3; expected text"),
    (trace(message("user", {"image": "images/no.png"})), 'message 3: image "images/no.png" does not exist'),
    (trace(message("user", {"image": ["images/small.png"]})), 'image is ["images/small.png"]; expected a path'),
    (trace(message("user", {"video": []})), "message 3: the video is []; expected a path, or a list of paths"),
    (trace(message("user", {"video": ["clip/9.png"]})), 'frame 1 "clip/9.png" does not exist'),
    (trace(qid=[1]), "qid is [1]; expected text"),
    ("text", 'it is "text"; expected an object'),
]


def test_every_bad_row_is_named(directory):
    with pytest.raises(DataError) as caught:
        open_rows(directory, [trace(), *(bad for bad, _ in BAD)])
    assert [bad.row for bad in caught.value.bad_rows] == list(range(1, len(BAD) + 1))
    for bad, (_, cause) in zip(caught.value.bad_rows, BAD, strict=True):
        assert cause in bad.cause
    data = open_rows(directory, [BAD[0][0], trace(qid="good")], skip_bad_rows=True)
    assert [one.sample_id for one in data] == ["good"]
    assert [bad.row for bad in data.skipped] == [0]
