"""Section [external]: tables of your own in place of ours."""

from __future__ import annotations

import difflib

from pydantic import field_validator

from qarm.config.section import Section


class External(Section):
    """Tables the user brings in place of ours: table -> URI of a Delta table or Parquet files.

    Each is checked against the schema of that table; rows may name items by the source's item_id
    (columns item_id, or trigger_item_id and target_item_id) where ours has item_idx.
    """

    tables: dict[str, str] = {}
    """Such as item_pairs = "s3a://lake/my_pairs"."""

    @field_validator("tables")
    @classmethod
    def _known_tables(cls, tables: dict[str, str]) -> dict[str, str]:
        from schemas import TABLES

        # A table under a name that nobody asks for would be left out in silence.
        for name in tables:
            if name not in TABLES:
                near = difflib.get_close_matches(name, TABLES, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"tables: {', '.join(TABLES)}"
                raise ValueError(f"no such table: {name!r}; {hint}")
        return tables
