"""The item encoder: one tower per modality, fused into one unit vector.

Shapes: n items, f feature dimensions of a modality, d dimensions of the aligned vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qarm.encoders.backbones import Backbone, ImageBackbone, TextBackbone, open_backbone
from qarm.encoders.pca import principal_axes
from qarm.encoders.towers import AttributesTower, DenseTower
from qarm.errors import ConfigError

if TYPE_CHECKING:
    from qarm.config.encoder import Encoder

ATTRIBUTES = "attributes"


@dataclass
class ItemBatch:
    """Content of n items."""

    size: int
    features: dict[str, Tensor] = field(default_factory=dict)
    """Modality -> (n, f); rows of items without the modality are ignored."""
    present: dict[str, Tensor] = field(default_factory=dict)
    """Modality -> (n,) bool."""
    contents: dict[str, Sequence[Any]] = field(default_factory=dict)
    """Modality -> raw content of the items that have it, in order. It replaces features and is
    encoded by the encoder's own backbone, with gradient."""
    ids: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """Attribute buckets, concatenated over items."""
    offsets: Tensor | None = None
    """(n + 1,): first id of each item; None: no attributes."""

    def to(self, device: torch.device) -> ItemBatch:
        """The batch on another device, except for raw content."""
        return ItemBatch(
            self.size,
            {name: tensor.to(device) for name, tensor in self.features.items()},
            {name: tensor.to(device) for name, tensor in self.present.items()},
            self.contents,
            self.ids.to(device),
            None if self.offsets is None else self.offsets.to(device),
        )


class ItemEncoder(nn.Module):
    """Towers, fusion, and the backbones that are trained with them.

    An item's vector is the weighted mean of the outputs of the towers whose modality it has, plus a
    vector for each of these modalities, normalised to length 1. Weights and vectors are learnt. An
    item without content gets a learnt vector.

    Args:
        config: section encoder.
        feature_dims: modality -> f, for text, image and audio.
        attributes: whether there is a tower for attributes.
        finetune: modalities whose backbone is trained as part of the encoder.

    Raises:
        ConfigError: there is no modality, or a backbone for a modality without a tower.
    """

    def __init__(
        self,
        config: Encoder,
        feature_dims: Mapping[str, int],
        *,
        attributes: bool = False,
        finetune: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.feature_dims = dict(sorted(feature_dims.items()))
        self.finetune = tuple(sorted(finetune))
        self.modalities = (*self.feature_dims, *([ATTRIBUTES] if attributes else []))
        if not self.modalities:
            raise ConfigError("an encoder needs at least one modality that some item has")
        if missing := set(self.finetune) - set(self.feature_dims):
            raise ConfigError(
                f"alignment.finetune names {sorted(missing)}, and the encoder's modalities are "
                f"{list(self.modalities)}"
            )
        d = config.dimensions
        self.towers = nn.ModuleDict(
            {
                name: DenseTower(f, d, config.hidden, config.dropout)
                for name, f in self.feature_dims.items()
            }
        )
        self.attributes = (
            AttributesTower(config.attribute_buckets, d, config.dropout) if attributes else None
        )
        self.backbones = nn.ModuleDict(
            {name: open_backbone(config, name) for name in self.finetune}
        )
        self.log_weights = nn.Parameter(torch.zeros(len(self.modalities)))
        self.presence = nn.Parameter(torch.zeros(len(self.modalities), d))
        generator = torch.Generator().manual_seed(0)
        self.empty = nn.Parameter(torch.randn(d, generator=generator) / d**0.5)

    @torch.no_grad()
    def start(self, sample: ItemBatch, seed: int) -> None:
        """Centre the features and initialise the towers at the sample's joint principal axes.

        Args:
            sample: training items, with ``features`` of every modality (of the frozen backbones).
            seed: seed of the randomised computation of the axes.
        """
        blocks = []
        for name in self.feature_dims:
            tower, features, present = (
                self._dense(name),
                sample.features[name],
                sample.present[name],
            )
            if present.any():
                tower.mean.copy_(features[present].mean(0))
            blocks.append(tower.centre(features) * present[:, None])
        if self.attributes is not None:
            blocks.append(self.attributes.start(sample.ids, _offsets(sample)))
        axes = principal_axes(blocks, self.config.dimensions, seed)
        for name, block_axes in zip(self.modalities, axes, strict=True):
            if name == ATTRIBUTES and self.attributes is not None:
                self.attributes.table.weight.copy_(block_axes)
            else:
                self._dense(name).skip.weight.copy_(block_axes.T)

    def _dense(self, name: str) -> DenseTower:
        tower = self.towers[name]
        assert isinstance(tower, DenseTower)
        return tower

    def forward(self, batch: ItemBatch) -> Tensor:
        """Unit vectors, (n, d)."""
        outputs, present = [], []
        for name in self.modalities:
            output, there = self._tower(name, batch)
            outputs.append(output)
            present.append(there)
        outputs_NMD, present_NM = torch.stack(outputs, 1), torch.stack(present, 1)
        weights_NM = self.log_weights.exp() * present_NM
        total_N1 = weights_NM.sum(1, keepdim=True)
        weights_NM = weights_NM / total_N1.clamp(min=1e-9)
        fused_ND = (outputs_NMD * weights_NM[:, :, None]).sum(1)
        fused_ND = fused_ND + present_NM.to(fused_ND.dtype) @ self.presence
        return nn.functional.normalize(torch.where(total_N1 > 0, fused_ND, self.empty), dim=1)

    def _tower(self, name: str, batch: ItemBatch) -> tuple[Tensor, Tensor]:
        """One modality's output (n, d), and which items have it (n,)."""
        if self.attributes is not None and name == ATTRIBUTES:
            offsets = _offsets(batch)
            return self.attributes(batch.ids, offsets), offsets.diff() > 0
        present = batch.present[name]
        if name in batch.contents:
            features = self.empty.new_zeros(batch.size, self.feature_dims[name])
            if len(batch.contents[name]):
                backbone = self.backbone(name)
                features[present] = backbone(backbone.prepare(batch.contents[name]))
        else:
            features = batch.features[name]
        # Rows of absent modalities may hold anything, including NaN.
        tower = self._dense(name)
        return tower(torch.where(present[:, None], features, tower.mean)), present

    def backbone(self, name: str) -> Backbone:
        """The trained backbone of a modality."""
        backbone = self.backbones[name]
        assert isinstance(backbone, TextBackbone | ImageBackbone)
        return backbone

    def parameter_groups(
        self, learning_rate: float, weight_decay: float, backbone_learning_rate: float
    ) -> list[dict[str, Any]]:
        """Groups for AdamW: matrices decay; tables, biases and vectors do not."""
        table = None if self.attributes is None else self.attributes.table.weight
        backbones = list(self.backbones.parameters())
        known = {id(p) for p in backbones}
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in self.parameters():
            if id(parameter) in known:
                continue
            (decayed if parameter.ndim == 2 and parameter is not table else plain).append(parameter)
        groups = [
            {"params": decayed, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": plain, "lr": learning_rate, "weight_decay": 0.0},
            {"params": backbones, "lr": backbone_learning_rate, "weight_decay": weight_decay},
        ]
        return [group for group in groups if group["params"]]


def _offsets(batch: ItemBatch) -> Tensor:
    assert batch.offsets is not None, "an encoder with attributes needs the items' attributes"
    return batch.offsets
