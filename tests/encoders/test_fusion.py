from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qarm.config.encoder import Encoder
from qarm.encoders.fusion import ItemBatch, ItemEncoder
from qarm.errors import ConfigError

N = 60


def config(**fields: object) -> Encoder:
    return Encoder.model_validate(
        {"dimensions": 8, "hidden": 16, "attribute_buckets": 64, **fields}
    )


def items(seed: int = 0) -> ItemBatch:
    """60 items; every third has no image, every fifth no attributes, the last has nothing."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(N)
    counts = torch.where(index % 5 == 0, 0, 1 + index % 3)
    text, image = index >= 0, index % 3 != 0
    text[-1] = image[-1] = False
    counts[-1] = 0
    return ItemBatch(
        N,
        {
            "text": torch.randn(N, 12, generator=generator) + 3,
            "image": torch.randn(N, 20, generator=generator).abs(),
        },
        {"text": text, "image": image},
        {},
        torch.randint(0, 64, (int(counts.sum()),), generator=generator),
        torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
    )


def encoder(**fields: object) -> ItemEncoder:
    torch.manual_seed(0)
    made = ItemEncoder(config(**fields), {"text": 12, "image": 20}, attributes=True)
    made.start(items(), seed=0)
    return made.eval()


def change(batch: ItemBatch, modality: str, row: int, value: float) -> ItemBatch:
    features = {name: tensor.clone() for name, tensor in batch.features.items()}
    features[modality][row] = value
    return ItemBatch(batch.size, features, batch.present, batch.contents, batch.ids, batch.offsets)


def test_vectors_have_unit_length_and_are_finite() -> None:
    vectors = encoder()(items())
    assert vectors.shape == (N, 8)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(N), atol=1e-5)


def test_missing_modalities_are_masked_whatever_the_rows_hold() -> None:
    made, batch = encoder(), items()
    changed = change(change(batch, "image", 3, float("nan")), "text", N - 1, 1e9)
    assert torch.equal(made(batch), made(changed))


def test_missing_is_not_the_same_as_zero() -> None:
    made, batch = encoder(), items()
    there = {**batch.present, "image": torch.ones(N, dtype=torch.bool)}
    zeros = change(batch, "image", 3, 0.0)
    zeros.present = there
    assert not torch.allclose(made(batch)[3], made(zeros)[3])


def test_an_item_does_not_depend_on_its_batch() -> None:
    made, batch = encoder(), items()
    assert batch.offsets is not None
    alone = ItemBatch(
        1,
        {name: tensor[7:8] for name, tensor in batch.features.items()},
        {name: tensor[7:8] for name, tensor in batch.present.items()},
        {},
        batch.ids[batch.offsets[7] : batch.offsets[8]],
        batch.offsets[7:9] - batch.offsets[7],
    )
    assert torch.allclose(made(alone)[0], made(batch)[7], atol=1e-6)


def test_item_without_content_gets_the_learnt_vector() -> None:
    made, batch = encoder(), items()
    expected = torch.nn.functional.normalize(made.empty, dim=0)
    assert torch.allclose(made(batch)[-1], expected, atol=1e-6)
    made(batch)[-1].sum().backward()
    assert made.empty.grad is not None
    assert made.empty.grad.abs().sum() > 0


def test_untrained_encoder_keeps_the_raw_space() -> None:
    """With as many dimensions as the features have, cosines are those of the centred features."""
    batch = items()
    made = ItemEncoder(config(dimensions=12), {"text": 12}).eval()
    made.start(batch, seed=0)
    rows = batch.present["text"]
    centred = batch.features["text"] - batch.features["text"][rows].mean(0)
    centred = torch.nn.functional.normalize(centred, dim=1)[rows]
    vectors = made(batch)[rows]
    assert torch.allclose(vectors @ vectors.T, centred @ centred.T, atol=1e-3)


def test_attribute_cosines_at_the_start_are_tf_idf() -> None:
    batch = items()
    made = ItemEncoder(config(dimensions=64), {}, attributes=True).eval()
    made.start(batch, seed=0)
    assert made.attributes is not None
    table = made.attributes.start(batch.ids, batch.offsets).to_dense()  # type: ignore[arg-type]
    rows = table.norm(dim=1) > 0
    vectors = made(batch)[rows]
    assert torch.allclose(vectors @ vectors.T, (table @ table.T)[rows][:, rows], atol=1e-2)


def test_values_never_seen_say_nothing() -> None:
    batch = items()
    made = encoder()
    assert made.attributes is not None
    unseen = sorted(set(range(64)) - set(batch.ids.tolist()))
    if not unseen:
        pytest.skip("all buckets are taken")
    vector = made.attributes(torch.tensor([unseen[0]]), torch.tensor([0, 1]))
    assert torch.equal(vector, torch.zeros(1, 8))


def test_parameter_groups_cover_all_parameters_once() -> None:
    made = encoder()
    groups = made.parameter_groups(1e-3, 0.1, 1e-5)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in made.parameters())
    assert made.attributes is not None
    plain = next(g for g in groups if g["weight_decay"] == 0)
    assert any(p is made.attributes.table.weight for p in plain["params"])


def test_nothing_to_encode() -> None:
    with pytest.raises(ConfigError, match="at least one modality"):
        ItemEncoder(config(), {})
    with pytest.raises(ConfigError, match=r"finetune names \['image'\]"):
        ItemEncoder(config(), {"text": 12}, finetune=["image"])


def test_trained_backbone_gets_gradients(tiny_text_model: str) -> None:
    made = ItemEncoder(config(text_backbone=tiny_text_model), {"text": 16}, finetune=["text"])
    sample = ItemBatch(
        4, {"text": torch.randn(4, 16)}, {"text": torch.tensor([True, True, False, True])}
    )
    made.start(sample, seed=0)
    batch = ItemBatch(4, {}, sample.present, {"text": ["ab cd", "x", "1 2 3"]})
    vectors: Tensor = made(batch)
    assert vectors.shape == (4, 8)
    vectors[:, 0].sum().backward()
    first = next(made.backbones["text"].parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
