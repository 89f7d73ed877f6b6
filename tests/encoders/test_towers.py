"""Towers on their own: initial weights, weights of attribute values, dropout of whole values."""

from __future__ import annotations

import torch

from qarm.encoders.towers import AttributesTower, DenseTower

IDS, OFFSETS = torch.tensor([0, 1, 0, 0, 2]), torch.tensor([0, 2, 3, 4, 5])


def test_network_starts_at_zero() -> None:
    tower = DenseTower(5, 3, 4, 0.5)
    features = torch.randn(6, 5)
    assert torch.allclose(tower(features), tower.skip(tower.centre(features)))


def test_centred_features_have_unit_length() -> None:
    tower = DenseTower(5, 3, 4, 0.0)
    tower.mean.fill_(2.0)
    features = torch.randn(6, 5)
    centred = tower.centre(features)
    assert torch.allclose(centred.norm(dim=1), torch.ones(6))
    assert torch.allclose(centred * (features - 2.0).norm(dim=1, keepdim=True), features - 2.0)


def test_rare_values_weigh_more() -> None:
    tower = AttributesTower(8, 4, 0.0)
    tower.start(IDS, OFFSETS)
    weights = tower.weights(IDS, OFFSETS)
    assert weights[1] > weights[0]
    assert torch.allclose(weights[:2].square().sum(), torch.tensor(1.0))


def test_start_returns_the_weights_of_each_item() -> None:
    tower = AttributesTower(8, 4, 0.0)
    matrix = tower.start(IDS, OFFSETS).to_dense()
    assert matrix.shape == (4, 8)
    assert matrix[0].nonzero().flatten().tolist() == [0, 1]
    assert torch.allclose(matrix.norm(dim=1), torch.ones(4))


def test_dropout_drops_whole_values() -> None:
    torch.manual_seed(0)
    tower = AttributesTower(8, 4, 0.5)
    torch.nn.init.ones_(tower.table.weight)
    ids, offsets = torch.zeros(200, dtype=torch.int64), torch.arange(201)
    sums = tower(ids, offsets)
    assert torch.equal(sums, sums[:, :1].expand(-1, 4))
    assert 60 < int((sums[:, 0] == 0).sum()) < 140
    tower.eval()
    assert torch.allclose(tower(ids, offsets), torch.ones(200, 4))
