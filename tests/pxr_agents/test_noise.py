from __future__ import annotations

import itertools

from pxr_agents.noise import episode_seed, turn_seed


def test_seeds_differ_by_run_sample_repeat_and_turn():
    runs = (0, 1, (0, 3, 1), (0, 31))
    episodes = [episode_seed(*parts) for parts in itertools.product(runs, ("a", "b", "1", "b\ud800"), (0, 1, 12))]
    turns = [turn_seed(episode, turn) for episode in episodes for turn in range(3)]
    assert len({*episodes, *turns}) == len(episodes) + len(turns)
    assert all(0 <= seed < 2**31 for seed in (*episodes, *turns))


def test_no_two_ways_to_read_an_identity():
    assert episode_seed(1, "2:3", 0) != episode_seed(1, "3", 2)
    assert episode_seed((1, 2), "a", 3) != episode_seed(1, "a", 2)


def test_seeds_never_change():
    """Of a run that is continued with a later version: SHA-256 of "episode:7:1:a" and "turn:5:2", by hand."""
    assert (episode_seed(7, "a", 1), turn_seed(5, 2)) == (1944989369, 1628768561)
