"""Model and code tables: starts, padding, dropped ids, controls, cross features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qarm.codes.codebook import Codebook
from qarm.config import Ranker
from qarm.errors import ConfigError, InputError
from qarm.ranking import code_tables
from qarm.ranking.code_tables import RqRows, TableStart
from qarm.ranking.dense import DENSE
from qarm.ranking.inputs import Lookup, bucket, distinct
from qarm.ranking.item_table import ItemTable
from qarm.ranking.model import ModelSpec, RankerModel, cross_features, loss_sum

ITEMS, D, LENGTH = 40, 8, 6
SIZES = (4, 5, 3)
CONTENT_START = TableStart("content", 4.0, 0)


@pytest.fixture(scope="module")
def book() -> Codebook:
    rng = np.random.default_rng(0)
    levels = tuple(rng.standard_normal((size, D)).astype(np.float32) for size in SIZES)
    anchors = rng.standard_normal((12, D)).astype(np.float32)
    return Codebook(levels=levels, anchors=anchors, anchor_items=np.arange(12))


@pytest.fixture(scope="module")
def table(book) -> ItemTable:
    """Item 0 has neither vector nor code."""
    rng = np.random.default_rng(1)
    vector = rng.standard_normal((ITEMS, D)).astype(np.float32)
    rq, _ = book.rq(vector)
    vq = book.vq(vector, 5)
    known = np.arange(ITEMS) > 0
    vector[0], rq[0], vq[0] = 0, -1, -1
    return ItemTable(vector, known, rq, vq, known)


def lookup_of(table, layout="prefix") -> tuple[Lookup, RqRows]:
    numbers = RqRows.of(table, SIZES, layout, 1000)
    return Lookup(table, numbers.rows(table.rq), item_buckets=ITEMS, user_buckets=7), numbers


def batch_of(rows: int = 9, seed: int = 0, length: int = LENGTH) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    history_length = rng.integers(0, LENGTH + 1, rows)
    history_length[0] = 0
    item = rng.integers(0, ITEMS, (rows, length))
    item[np.arange(length) < length - history_length[:, None]] = -1
    numbers = {
        "user_idx": rng.integers(0, 7, rows),
        "item_idx": rng.integers(0, ITEMS, rows),
        "ts": np.full(rows, 10_000_000),
        "history_length": history_length.astype(np.int32),
        "history_item_idx": item,
        "history_ts": np.where(item >= 0, rng.integers(0, 10_000_000, item.shape), 0),
    }
    rates = {"user_rate": 0.4, "item_rate": 0.6, "user_count": 3.0, "item_count": 5.0}
    batch = {name: torch.from_numpy(values) for name, values in numbers.items()}
    return batch | {name: torch.full((rows,), value) for name, value in rates.items()}


def model_of(table, book, variant, *, id_dropout=0.0, layout="prefix", start=CONTENT_START, **more):
    config = Ranker(code_tables=layout, dropout=0.0, **more)
    lookup, numbers = lookup_of(table, layout)
    tables = {
        "rq": code_tables.rq_start(table, lookup.rq_rows, numbers.count, book.levels, start),
        "vq": code_tables.vq_start(book.anchors, start),
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


@pytest.mark.parametrize("layout", ["prefix", "isolated"])
@pytest.mark.parametrize("projected", [0, 8192])
def test_codes_start_at_the_reconstruction(monkeypatch, table, book, layout, projected):
    monkeypatch.setattr("qarm.ranking.model._PROJECTED_ROWS", projected)
    model, lookup = model_of(table, book, "vq_rq", layout=layout)
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


@pytest.mark.parametrize("kind", ["random", "shuffled"])
def test_controls_keep_the_norms_and_lose_the_places(table, book, kind):
    lookup, numbers = lookup_of(table)
    arguments = (table, lookup.rq_rows, numbers.count, book.levels)
    content = code_tables.rq_start(*arguments, CONTENT_START)
    control = code_tables.rq_start(*arguments, TableStart(kind, 4.0, 1))
    norms = [np.sort(np.linalg.norm(w, axis=1)) for w in (content, control)]
    np.testing.assert_allclose(*norms, rtol=1e-5)
    assert not control[0].any()
    assert np.abs(control - content).max() > 0.5
    same = (control[:, None] == content[None]).all(2).any(1).mean()
    assert same == (1.0 if kind == "shuffled" else pytest.approx(0, abs=0.2))


def test_prefix_rows(table):
    _, numbers = lookup_of(table)
    rows = numbers.rows(table.rq)
    for level in range(3):
        prefixes = [tuple(code[: level + 1]) for code in table.rq[1:]]
        of = dict(zip(prefixes, rows[1:, level], strict=True))
        assert len(set(of.values())) == len(of)  # one row a prefix
        assert [of[p] for p in prefixes] == rows[1:, level].tolist()
    assert rows.max() == numbers.count - 1
    assert not rows[0].any()
    # A prefix that no item has: known as far as it is known.
    new = table.rq[1].copy()
    taken = {tuple(code) for code in table.rq[1:]}
    new[2] = next(c for c in range(3) if (*new[:2], c) not in taken)
    assert numbers.rows(new[None])[0].tolist() == [rows[1, 0], rows[1, 1], 0]


def test_prefixes_beyond_the_table_are_hashed_into_it(table):
    numbers = RqRows.of(table, SIZES, "prefix", 16)
    rows = numbers.rows(table.rq)
    assert numbers.count == 16
    assert rows[1:].min() >= 1
    assert rows.max() <= 15


def test_padding_is_ignored(table, book):
    """More padding, and other numbers behind the mask, change nothing."""
    model, lookup = model_of(table, book, "vq_rq", cross_features=True)
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
    assert [g["lr"] for g in groups] == [rate, rate, rate * config.code_learning_rate]
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


def test_cross_features_against_plain_python(table):
    lookup, _ = lookup_of(table)
    batch = batch_of(20)
    found = cross_features(lookup.inputs(batch))
    for row in range(20):
        target = int(batch["item_idx"][row])
        history = [int(i) for i in batch["history_item_idx"][row] if i >= 0]
        coded = [i for i in history if i and target]
        c1 = sum(table.rq[i, 0] == table.rq[target, 0] for i in coded)
        c2 = sum((table.rq[i, :2] == table.rq[target, :2]).all() for i in coded)
        common = sum(len(set(table.vq[i]) & set(table.vq[target])) / 5 for i in coded)
        expected = np.array([c1, c2, common]) / max(1, len(history))
        np.testing.assert_allclose(found[row], expected, rtol=1e-5)


@pytest.mark.parametrize("rows", [50, 10_000])
def test_distinct_numbers_and_places(rows):
    numbers = np.random.default_rng(0).integers(0, 50, 100)
    found, places = distinct(numbers, rows)
    np.testing.assert_array_equal(found, np.unique(numbers))
    np.testing.assert_array_equal(found[places], numbers)


def test_numbers_beyond_the_buckets_are_hashed():
    numbers = np.array([0, 9, 10, 11, 10**12])
    rows = bucket(numbers, 10)
    assert rows[:2].tolist() == [0, 9]
    assert (rows < 10).all()
    spread = np.bincount(bucket(np.arange(10, 100_010), 10), minlength=10)
    assert spread.min() > 9_000


def test_codebook_of_other_codes_is_refused(table, book):
    other = Codebook(levels=book.levels[:2], anchors=book.anchors[:3], anchor_items=np.arange(3))
    with pytest.raises(InputError, match=r"codes have 3 levels, codebook .* has 2"):
        code_tables.check(table, other, {"rq"}, "content")
    with pytest.raises(InputError, match="anchors up to 11"):
        code_tables.check(table, other, {"vq"}, "content")
    with pytest.raises(ConfigError, match=r"external\.tables"):
        code_tables.check(table, None, {"vq"}, "content")
    with pytest.raises(ConfigError, match="has no anchors"):
        code_tables.check(table, Codebook(levels=book.levels), {"vq"}, "content")


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
