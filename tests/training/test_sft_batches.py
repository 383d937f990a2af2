from __future__ import annotations

import dataclasses
import itertools
import threading
import weakref

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pxr_agents.random_checkpoint import FAMILIES, build_random
from pxr_agents.vlm import VLM, token_distributions
from tests.training.conftest import ENV
from tests.training.rows import make_tokens
from training.sft import summed_loss
from training.sft_batches import blank_row, pack_rows, parts, read_ahead, tensors
from training.traces import TraceRecipe, search_trace


def traces(vlm, n, **budget):
    env, rng = gymnasium.make(ENV.id, **ENV.kwargs | budget), np.random.default_rng(3)
    rows = [search_trace(env, vlm.chat, f"train-{k}", TraceRecipe(zoom=0.6), rng) for k in range(n)]
    assert len({len(row.ids) for row in rows}) > 1
    return rows


def loss_and_gradients(vlm, batches):
    vlm.model.zero_grad(set_to_none=True)
    loss = summed_loss(vlm, batches)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients


def check_packed_equals_padded(vlm, rows):
    padded, expected = loss_and_gradients(vlm, tensors(rows, packed=False))
    packed, gradients = loss_and_gradients(vlm, tensors(rows, packed=True))
    alone = sum(float(summed_loss(vlm, tensors([row], packed=False)).detach()) for row in rows)
    assert packed == pytest.approx(padded, rel=1e-5)
    assert packed == pytest.approx(alone, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        assert float((gradients[name] - gradient).abs().max()) < 1e-5 * scale, name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_equals_padded(speaker, attention):
    vlm = VLM.from_pretrained(speaker, attn_implementation=attention)
    check_packed_equals_padded(vlm, traces(vlm, 5))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded_in_every_family(tmp_path, family):
    vlm = build_random(tmp_path / family, family)
    unit = vlm.chat.image_unit
    budget = {"min_pixels": 65536, "max_pixels": 288 * 288} if unit == 32 else {}
    check_packed_equals_padded(vlm, traces(vlm, 4, size_multiple=unit, **budget))


def test_no_id_sees_another_trace(speaker):
    vlm = VLM.from_pretrained(speaker)
    first, second = traces(vlm, 2)
    other = dataclasses.replace(first, images=tuple(255 - image for image in first.images))
    n = int(second.action.sum())
    with torch.no_grad():
        one, changed = (token_distributions(vlm, pack_rows([row, second]))[1] for row in (first, other))
        [without] = [token_distributions(vlm, batch)[1] for batch in tensors([second], packed=False)]
    assert float((one[:-n].exp() - changed[:-n].exp()).abs().max()) > 1e-4
    assert torch.allclose(one[-n:].exp(), changed[-n:].exp(), atol=1e-7)
    assert torch.allclose(one[-n:].exp(), without.exp(), atol=1e-6)


def test_positions_begin_again_and_first_ids_are_no_targets():
    rows = [make_tokens([2, 1]), dataclasses.replace(make_tokens([2], prompt=1), action=np.array([True, True, True]))]
    batch = pack_rows(rows)
    n, m = (len(row.ids) for row in rows)
    assert batch.ids.tolist() == [[*rows[0].ids.tolist(), *rows[1].ids.tolist()]]
    assert batch.positions.shape == (4, 1, n + m)
    assert all(batch.positions[k, 0].tolist() == [*range(n), *range(m)] for k in range(4))
    assert batch.target[0].tolist() == [*rows[0].action.tolist(), False, True, True]


def test_a_blank_row_trains_nothing_and_changes_nothing(speaker):
    vlm = VLM.from_pretrained(speaker)
    rows, blank = traces(vlm, 2), blank_row(vlm.chat.image_id, vlm.chat.image_unit)
    for packed in (False, True):
        loss, gradients = loss_and_gradients(vlm, tensors(rows, packed=packed))
        with_blank, its = loss_and_gradients(vlm, tensors([*rows, blank], packed=packed))
        assert with_blank == pytest.approx(loss, rel=1e-6)
        assert max(float((its[name] - gradients[name]).abs().max()) for name in gradients) < 1e-5
        alone, its = loss_and_gradients(vlm, tensors([blank], packed=packed))
        assert alone == 0
        # The vision tower has a gradient, so that nobody waits for it.
        assert any("visual" in name for name in its)
        assert not any(gradient.any() for gradient in its.values())


@given(st.lists(st.integers(1, 40), max_size=20), st.integers(1, 60), st.sampled_from(["pack", "micro_batch", None]))
def test_parts_hold_every_row_once_and_keep_their_limit(lengths, limit, kind):
    rows = [make_tokens([length]) for length in lengths]
    groups = parts(rows, **{f"{name}_tokens": limit if name == kind else None for name in ("pack", "micro_batch")})
    assert sorted(id(row) for group in groups for row in group) == sorted(map(id, rows))
    if kind is None:
        assert groups == ([rows] if rows else [])
        return
    for group in groups:
        sizes = [len(row.ids) for row in group]
        total = sum(sizes) if kind == "pack" else max(sizes) * len(sizes)
        assert total <= limit or len(group) == 1


def counted(made):
    for k in itertools.count():
        made.append(k)
        yield k


def reading():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read_ahead")]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_it_reads_ahead_but_no_further_until_it_is_closed(ahead):
    made: list[int] = []
    items = read_ahead(counted(made), ahead)
    for k in range(20):
        assert next(items) == k
        assert len(made) <= k + 1 + ahead
    waiting = threading.Event()
    while len(made) < 20 + ahead:
        waiting.wait(0.01)
    assert len(made) == 20 + ahead
    assert len(reading()) == (1 if ahead else 0)
    items.close()
    assert not reading()


@pytest.mark.parametrize("ahead", [0, 2])
def test_errors_come_where_the_item_would_have(ahead):
    def failing():
        yield 1
        raise OSError("gone")

    items = read_ahead(failing(), ahead)
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)
    assert not reading()


def test_what_was_handed_out_is_not_kept():
    items = read_ahead((np.zeros(3) for _ in itertools.count()), 1)
    alive = [weakref.ref(next(items)) for _ in range(10)]
    assert all(reference() is None for reference in alive[:-1])
    items.close()
