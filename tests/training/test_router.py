"""Which engine a conversation goes to."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from training.rllib.engines import Router


def test_new_conversations_go_where_the_fewest_are_and_stay():
    router = Router(3)
    assert [router.route(key) for key in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [router.route(key) for key in range(6)] == [0, 1, 2, 0, 1, 2]
    for key in (1, 4):
        router.forget(key)
    assert [router.route(key) for key in (6, 7, 8)] == [1, 1, 0]


def test_clients_begin_with_different_engines():
    assert [Router(3, first).route(0) for first in range(4)] == [0, 1, 2, 0]


def test_a_conversation_moves_for_good_when_its_engine_is_to_be_avoided():
    router = Router(2)
    assert router.route(0) == 0
    assert router.route(0, avoid={0}) == 1
    assert router.route(0) == 1
    # A new one counts the moved one where it is now.
    assert router.route(1) == 0
    # With nowhere else to go it stays.
    assert router.route(0, avoid={0, 1}) == 1
