"""The tables of the lake, one module each."""

from schemas import (
    alignment_pairs,
    codebooks,
    event_splits,
    id_vectors,
    interactions,
    item_embeddings,
    item_features,
    item_pairs,
    itemcf_counted,
    itemcf_days,
    itemcf_item_days,
    itemcf_user_counts,
    itemcf_user_lists,
    items,
    metrics,
    predictions,
    quarantine,
    ranking_samples,
    semantic_ids,
    swing_items,
    swing_scored,
    u2i_counted,
    u2i_days,
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
    u2i_days,
    u2i_counted,
    swing_scored,
    swing_items,
    itemcf_days,
    itemcf_item_days,
    itemcf_counted,
    itemcf_user_counts,
    itemcf_user_lists,
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

#: Every table by name, in the order in which the pipeline fills them.
TABLES: dict[str, Table] = {module.TABLE.name: module.TABLE for module in _MODULES}

__all__ = ["TABLES", "Column", "Table"]
