"""The public tables of the lake, one module each."""

from schemas import (
    alignment_pairs,
    codebooks,
    event_splits,
    id_vectors,
    interactions,
    item_embeddings,
    item_features,
    item_pairs,
    items,
    metrics,
    predictions,
    quarantine,
    ranking_samples,
    semantic_ids,
    users,
)
from schemas.table import Column, Table

_MODULES = (
    items,
    users,
    interactions,
    quarantine,
    event_splits,
    id_vectors,
    item_pairs,
    alignment_pairs,
    item_features,
    item_embeddings,
    codebooks,
    semantic_ids,
    ranking_samples,
    predictions,
    metrics,
)

#: Every public table by name, in the order in which the pipeline fills them.
TABLES: dict[str, Table] = {module.TABLE.name: module.TABLE for module in _MODULES}

__all__ = ["TABLES", "Column", "Table"]
