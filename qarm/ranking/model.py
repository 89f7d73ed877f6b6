"""The ranker: target attention over the history, cross network, one head per label.

Shapes: B samples, H history entries, U distinct items of the batch, D width of an item's
representation, d dimensions of aligned vectors, L levels, K anchors per item.

An item is represented by its id embedding and, depending on the variant, its content: the frozen
aligned vector, the sum of its RQ rows, the mean of its VQ rows, d dimensions each. One linear layer
maps the content to ``CONTENT_DIMENSIONS``. Target and history share this representation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qarm.config import Ranker
from qarm.ranking.code_tables import CONTENT_SCALE
from qarm.ranking.dense import DENSE
from qarm.ranking.inputs import Inputs, Items
from qarm.ranking.optimizer import SPARSE_ROWS

CONTENT = {
    "base": (),
    "vector": ("vector",),
    "vq": ("vq",),
    "rq": ("rq",),
    "vq_rq": ("vq", "rq"),
}
"""Variant -> kinds of content that it uses."""

CONTENT_DIMENSIONS = 32
"""Width of an item's content after the linear layer."""

_ID_SCALE = 0.05
_ATTENTION_WIDTH = 16
_ATTENTION_HIDDEN = 32
_PROJECTED_ROWS = 8192
"""The linear layer is applied to code tables of at most this many rows as a whole, before the
look-up."""
_CROSS_LAYERS = 2
_CODE_RATE = 0.1
"""Learning rate of code tables, as a share of the optimiser's: they start at a good place."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What the shape of a model depends on, in addition to the configuration.

    Attributes:
        variant: a key of ``CONTENT``.
        id_dropout: probability of dropping an item's id; 1: ids are not used.
        heads: number of labels.
        item_rows, user_rows: rows of the id tables.
        dimensions: d.
    """

    variant: str
    id_dropout: float
    heads: int
    item_rows: int
    user_rows: int
    dimensions: int


def _table(rows: int, width: int, scale: float) -> nn.Embedding:
    """An embedding table of normal noise; large tables get sparse gradients."""
    table = nn.Embedding(rows, width, sparse=rows > SPARSE_ROWS)
    nn.init.normal_(table.weight, std=scale)
    return table


class ItemRepresentation(nn.Module):
    """Items -> representation (U, D) and bias of each head (U, heads).

    Args:
        config: section ranker.
        spec: shapes.
        tables: "rq" and "vq" -> initial code table, (rows, d); row 0 stands for "none".
    """

    def __init__(self, config: Ranker, spec: ModelSpec, tables: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.uses = CONTENT[spec.variant]
        self.id_dropout = spec.id_dropout
        self.id = _table(spec.item_rows, config.id_dimensions, _ID_SCALE)
        self.bias = _table(spec.item_rows, spec.heads, 0.0)
        self.codes = nn.ModuleDict(
            {
                name: nn.EmbeddingBag.from_pretrained(
                    tables[name].clone(),
                    freeze=False,
                    mode=mode,
                    padding_idx=0,
                    sparse=len(tables[name]) > SPARSE_ROWS,
                )
                for name, mode in (("vq", "mean"), ("rq", "sum"))
                if name in self.uses
            }
        )
        self.width = config.id_dimensions
        if self.uses:
            self.content = nn.Linear(len(self.uses) * spec.dimensions, CONTENT_DIMENSIONS)
            self.width += CONTENT_DIMENSIONS

    def _content(self, items: Items) -> Tensor:
        """(U, CONTENT_DIMENSIONS): the linear layer on the concatenated kinds of content.

        For a small table it is applied to the rows before they are looked up. The result is the
        same, since the layer is linear; there are fewer rows than look-ups, and they are narrower.
        """
        rows = {"vq": items.vq_rows, "rq": items.rq_rows}
        shares = self.content.weight.chunk(len(self.uses), dim=1)
        total: Tensor = self.content.bias
        for name, share in zip(self.uses, shares, strict=True):
            if name == "vector":
                total = total + F.linear(items.vector * CONTENT_SCALE, share)
                continue
            table = self.codes[name]
            assert isinstance(table, nn.EmbeddingBag)
            if table.sparse or table.num_embeddings > _PROJECTED_ROWS:
                total = total + F.linear(table(rows[name]), share)
            else:
                projected = F.linear(table.weight, share)
                bag = F.embedding_bag(rows[name], projected, mode=table.mode, padding_idx=0)
                total = total + bag
        return total

    def forward(self, items: Items) -> tuple[Tensor, Tensor]:
        """(U, D) and (U, heads). Where an id is dropped, its bias is too, for the whole batch."""
        keep = self._keep(items.id_row)
        parts = [self.id(items.id_row) * keep]
        if self.uses:
            parts.append(self._content(items))
        return torch.cat(parts, dim=1), self.bias(items.id_row) * keep

    def _keep(self, id_row: Tensor) -> Tensor:
        """(U, 1): 0 where the id is dropped."""
        rows = (len(id_row), 1)
        if self.id_dropout >= 1:
            return torch.zeros(rows)
        if not self.training or self.id_dropout == 0:
            return torch.ones(rows)
        return (torch.rand(rows) >= self.id_dropout).float()


class TargetAttention(nn.Module):
    """History items weighted by an activation unit for the target (DIN, arXiv 1706.06978).

    The unit reads projections of both items, their product, and the age of the history entry.
    Weights are a softmax with an additional logit of zero, so that they add up to less than 1 where
    no entry is similar to the target. Their sum is a feature of its own, and an empty history needs
    no special case.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, _ATTENTION_WIDTH, bias=False)
        self.query = nn.Linear(width, _ATTENTION_WIDTH, bias=False)
        self.of_key = nn.Linear(_ATTENTION_WIDTH, _ATTENTION_HIDDEN, bias=False)
        self.of_query = nn.Linear(_ATTENTION_WIDTH, _ATTENTION_HIDDEN)
        self.of_product = nn.Linear(_ATTENTION_WIDTH, _ATTENTION_HIDDEN, bias=False)
        self.of_age = nn.Parameter(torch.zeros(_ATTENTION_HIDDEN))
        self.out = nn.Linear(_ATTENTION_HIDDEN, 1)

    def forward(self, items: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Weighted sum (B, D) and sum of weights (B, 1).

        Args:
            items: (U, D) representations.
            inputs: places of target and history among them.
        """
        keys = self.key(items)
        # One look-up for everything that depends on the history item alone.
        looked_up = F.embedding(inputs.history, torch.cat([keys, self.of_key(keys), items], dim=1))
        key, hidden, value = looked_up.split(
            [_ATTENTION_WIDTH, _ATTENTION_HIDDEN, items.shape[1]], dim=2
        )
        query = self.query(items[inputs.target])
        hidden = (
            hidden
            + self.of_product(key * query[:, None])
            + self.of_query(query)[:, None]
            + inputs.age[:, :, None] * self.of_age
        )
        logits = self.out(F.relu(hidden)).squeeze(2).masked_fill(~inputs.is_real, float("-inf"))
        sink = logits.new_zeros(len(logits), 1)
        weights = torch.softmax(torch.cat([logits, sink], dim=1), dim=1)[:, :-1]
        return torch.bmm(weights[:, None], value).squeeze(1), weights.sum(1, keepdim=True)


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l (DCN-V2, arXiv 2008.13535)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, first: Tensor) -> Tensor:
        """(B, width) -> (B, width)."""
        x = first
        for layer in self.layers:
            x = first * layer(x) + x
        return x


class RankerModel(nn.Module):
    """Inputs -> logits (B, heads).

    Args:
        config: section ranker.
        spec: shapes.
        tables: see ``ItemRepresentation``.
        dense_mean, dense_std: statistics of the dense features on the train part, len(DENSE) each.
    """

    def __init__(
        self,
        config: Ranker,
        spec: ModelSpec,
        tables: Mapping[str, Tensor],
        dense_mean: Sequence[float],
        dense_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.items = ItemRepresentation(config, spec, tables)
        self.attention = TargetAttention(self.items.width)
        width = 3 * self.items.width + 1 + len(DENSE)
        self.user = None
        if config.use_user_id:
            self.user = _table(spec.user_rows, config.id_dimensions, _ID_SCALE)
            width += config.id_dimensions
        self.cross = CrossNetwork(width, _CROSS_LAYERS)
        layers: list[nn.Module] = []
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.dropout)]
            width = hidden
        self.shared = nn.Sequential(*layers)
        self.heads = nn.Linear(width, spec.heads)
        # The model of the floor, so that the ranker is at least as expressive.
        self.wide = nn.Linear(len(DENSE), spec.heads, bias=False)
        nn.init.zeros_(self.wide.weight)
        self.dense_mean: Tensor
        self.dense_std: Tensor
        self.register_buffer("dense_mean", torch.tensor(dense_mean, dtype=torch.float32))
        self.register_buffer("dense_std", torch.tensor(dense_std, dtype=torch.float32))

    def forward(self, inputs: Inputs) -> Tensor:
        """(B, heads) logits."""
        items, bias = self.items(inputs.items)
        target = items[inputs.target]
        interest, attended = self.attention(items, inputs)
        dense = (inputs.dense - self.dense_mean) / self.dense_std
        parts = [target, interest, target * interest, attended, dense]
        if self.user is not None:
            parts.append(self.user(inputs.user_row))
        hidden = self.shared(self.cross(torch.cat(parts, dim=1)))
        logits: Tensor = self.heads(hidden) + self.wide(dense) + bias[inputs.target]
        return logits

    def parameter_groups(self, config: Ranker) -> list[dict[str, Any]]:
        """Parameter groups: no decay of tables, and a lower learning rate of code tables."""
        rate, decay = config.optimizer.learning_rate, config.optimizer.weight_decay
        codes = list(self.items.codes.parameters())
        tables = [*self.items.id.parameters(), *self.items.bias.parameters()]
        if self.user is not None:
            tables += self.user.parameters()
        apart = {id(p) for p in (*codes, *tables)}
        rest = [p for p in self.parameters() if id(p) not in apart]
        groups = [
            {"params": rest, "lr": rate, "weight_decay": decay},
            {"params": tables, "lr": rate, "weight_decay": 0.0},
            {"params": codes, "lr": rate * _CODE_RATE, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]


def loss_sum(logits: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross entropy, mean over heads and weighted sum over samples; and sum of weights.

    Args:
        logits, labels: (B, heads).
        weight: (B,); 0 excludes a sample.
    """
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
    # In float64 the sum of weights does not depend on how rows are divided among ranks.
    return (each * weight).sum(), weight.sum(dtype=torch.float64)
