"""Reasons that differ by an id or a number are counted as one."""

from __future__ import annotations

import pytest

from eval.reasons import count_reasons


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([], {}),
        # What does not differ stays word for word.
        (["status 400: At most 1 image(s) may be provided"] * 3, {"status 400: At most 1 image(s) may be provided": 3}),
        (
            ["model: h:80: status 500: no (request req_a1b)", "model: h:80: status 500: no (request req_c2)"],
            {"model: h:80: status 500: no (request …)": 2},
        ),
        (
            ['data: image "a/one.jpg" is cut off', 'data: image "b/two.jpg" is cut off', "data: nothing"],
            {"data: image … is cut off": 2, "data: nothing": 1},
        ),
        (["17 tokens of 16", "18 tokens of 16"], {"… tokens of 16": 2}),
        # Another status is another reason.
        (["status 500: no", "status 502: no"], {"status 500: no": 1, "status 502: no": 1}),
        (["a", "b", "b"], {"b": 2, "a": 1}),
        (["chatcmpl-9f8a-77 lost", "chatcmpl-11-aa lost"], {"… lost": 2}),
    ],
)
def test_reasons_are_counted_without_what_varies(reasons: list[str], expected: dict[str, int]) -> None:
    counted = count_reasons(reasons)
    assert counted == expected
    assert list(counted) == list(expected)


def test_a_long_reason_is_read_in_linear_time() -> None:
    # A slow pattern would not come back.
    assert count_reasons(["a" * 200_000, '"' * 200_001]) != {}
