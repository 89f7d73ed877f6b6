"""The ranker's model: content, padding, dropped ids, parameter groups, loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qarm.config.ranker import Ranker
from qarm.ranking import code_tables
from qarm.ranking.dense import DENSE
from qarm.ranking.model import ModelSpec, RankerModel, loss_sum
from tests.ranking.batches import CONTENT_START, ITEMS, D, batch_of, lookup_of


def model_of(table, book, variant, *, id_dropout=0.0):
    config = Ranker(dropout=0.0)
    lookup, numbers = lookup_of(table)
    tables = {
        "rq": code_tables.rq_start(
            table, lookup.rq_rows, numbers.count, book.levels, CONTENT_START
        ),
        "vq": code_tables.vq_start(book.anchors, CONTENT_START),
    }
    spec = ModelSpec(
        variant=variant, id_dropout=id_dropout, heads=2, item_rows=ITEMS, user_rows=7, dimensions=D
    )
    torch.manual_seed(0)
    tensors = {name: torch.from_numpy(weight) for name, weight in tables.items()}
    zeros, ones = [0.0] * len(DENSE), [1.0] * len(DENSE)
    return RankerModel(config, spec, tensors, zeros, ones), lookup


def contents(model, items):
    """Each use of content (U, D), by a linear layer that lets only this one through."""
    uses = len(model.items.uses)
    found = []
    for use in range(uses):
        through = torch.nn.Linear(uses * D, D)
        torch.nn.init.zeros_(through.bias)
        torch.nn.init.zeros_(through.weight)
        with torch.no_grad():
            through.weight[:, use * D : (use + 1) * D] = torch.eye(D)
        model.items.content = through
        found.append(model.items(items)[0][:, -D:].detach())
    return found


@pytest.mark.parametrize("projected", [0, 8192])
def test_codes_start_at_the_reconstruction(monkeypatch, table, book, projected):
    monkeypatch.setattr("qarm.ranking.model._PROJECTED_ROWS", projected)
    model, lookup = model_of(table, book, "vq_rq")
    vq, rq = contents(model, lookup.items(np.arange(ITEMS)))
    rebuilt = sum(level[table.rq[1:, i]] for i, level in enumerate(book.levels))
    np.testing.assert_allclose(rq[1:], 4 * rebuilt, rtol=1e-5, atol=1e-5)
    near = book.anchors[table.vq[1:]].mean(axis=1)
    np.testing.assert_allclose(vq[1:], 4 * near, rtol=1e-5, atol=1e-5)
    assert not rq[0].any()  # no code: no content
    assert not vq[0].any()


def test_frozen_vector_is_scaled_and_has_no_table(table, book):
    model, lookup = model_of(table, book, "vector")
    (content,) = contents(model, lookup.items(np.arange(ITEMS)))
    np.testing.assert_allclose(content, 4 * table.vector, rtol=1e-6)
    assert not list(model.items.codes.parameters())


def test_padding_is_ignored(table, book):
    """More padding, and other numbers behind the mask, change nothing."""
    model, lookup = model_of(table, book, "vq_rq")
    model.eval()
    short = batch_of()
    long = dict(short)
    pad = torch.full((9, 4), -1)
    long["history_item_idx"] = torch.cat([pad, short["history_item_idx"]], dim=1)
    long["history_ts"] = torch.cat([pad * 0, short["history_ts"]], dim=1)
    torch.testing.assert_close(model(lookup.inputs(short)), model(lookup.inputs(long)))
    alone = {name: values[:1] for name, values in short.items()}  # an empty history
    whole = model(lookup.inputs(short))[:1]
    torch.testing.assert_close(model(lookup.inputs(alone)), whole)
    assert torch.isfinite(whole).all()


def test_history_and_its_times_matter(table, book):
    model, lookup = model_of(table, book, "base")
    model.attention.of_age.data.fill_(1.0)
    model.eval()
    batch = batch_of()
    before = model(lookup.inputs(batch))
    changed = dict(batch, history_item_idx=batch["history_item_idx"].clone())
    real = changed["history_item_idx"] >= 0
    changed["history_item_idx"][real] = (changed["history_item_idx"][real] + 1) % ITEMS
    after = model(lookup.inputs(changed))
    assert not torch.allclose(before[1:], after[1:])
    torch.testing.assert_close(before[:1], after[:1])  # it has no history
    older = dict(batch, history_ts=batch["history_ts"] // 2)
    assert not torch.allclose(before[1:], model(lookup.inputs(older))[1:])


@pytest.mark.parametrize("training", [True, False])
def test_id_dropout_of_one_uses_no_id(table, book, training):
    model, lookup = model_of(table, book, "rq", id_dropout=1.0)
    model.items.bias.weight.data.normal_()
    model.train(training)
    inputs = lookup.inputs(batch_of())
    before = model(inputs)
    model.items.id.weight.data.normal_()
    model.items.bias.weight.data.normal_()
    torch.testing.assert_close(before, model(inputs))


def test_id_dropout_drops_only_while_training(table, book):
    model, lookup = model_of(table, book, "base", id_dropout=0.5)
    items = lookup.items(np.arange(ITEMS))
    model.train()
    torch.manual_seed(1)
    dropped = (model.items(items)[0] == 0).all(1)
    assert 5 < dropped.sum() < 35
    model.eval()
    assert not (model.items(items)[0] == 0).all(1).any()


def test_code_tables_learn_slowly_and_none_decays(table, book):
    model, lookup = model_of(table, book, "vq_rq")
    config = Ranker()
    groups = model.parameter_groups(config)
    rate = config.optimizer.learning_rate
    assert [g["lr"] for g in groups] == [rate, rate, rate * 0.1]
    assert [g["weight_decay"] for g in groups] == [config.optimizer.weight_decay, 0, 0]
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    labels = torch.ones(9, 2)
    loss_sum(model(lookup.inputs(batch_of())), labels, torch.ones(9))[0].backward()
    for codes in model.items.codes.values():
        assert codes.weight.grad.abs().sum() > 0
        assert not codes.weight.grad[0].any()  # "none" stays none


def test_weight_of_zero_takes_a_sample_out():
    logits, labels = torch.randn(4, 2), torch.tensor([[1.0, 0.0]] * 4)
    loss, weight = loss_sum(logits, labels, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    expected, _ = loss_sum(logits[:2], labels[:2], torch.ones(2))
    assert (float(loss), float(weight)) == (pytest.approx(float(expected)), 2.0)


@pytest.mark.parametrize("variant", ["vq", "vq_rq"])
def test_small_tables_are_projected_before_the_look_up(monkeypatch, table, book, variant):
    """The same representation and the same gradients as looking up first."""
    found = []
    for rows in (0, 8192):
        monkeypatch.setattr("qarm.ranking.model._PROJECTED_ROWS", rows)
        model, lookup = model_of(table, book, variant)
        made, _ = model.items(lookup.items(np.arange(ITEMS)))
        (made**2).sum().backward()
        found.append([made, *(p.grad for p in model.items.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 3
    for first, projected in zip(*found, strict=True):
        torch.testing.assert_close(first, projected, rtol=1e-4, atol=1e-5)
