"""Section [external]: tables of your own in place of ours."""

from __future__ import annotations

import difflib

from pydantic import field_validator

from qarm.config.section import Section


class External(Section):
    """Your own tables in place of those that stages write.

    Each is checked against the schema of its table and copied into the lake before the first stage
    that reads it. Rows may name items by the source's ids (columns item_id, or trigger_item_id and
    target_item_id) in place of item_idx, trigger and target.
    """

    tables: dict[str, str] = {}
    """Table -> URI of a Delta table, Parquet files, or (item_embeddings, codebooks) a safetensors
    file, such as item_pairs = "s3a://lake/my_pairs"."""

    @field_validator("tables")
    @classmethod
    def _known_tables(cls, tables: dict[str, str]) -> dict[str, str]:
        from schemas import TABLES

        # A table under a name that no stage reads would be ignored without a message.
        for name in tables:
            if name not in TABLES:
                near = difflib.get_close_matches(name, TABLES, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"tables: {', '.join(TABLES)}"
                raise ValueError(f"no such table: {name!r}; {hint}")
        return tables
