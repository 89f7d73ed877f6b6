"""The tables' reference page, from the schemas."""

from __future__ import annotations

from schemas import TABLES, Table


def describe(name: str | None = None) -> str:
    """Markdown of all tables, or of one; for an unknown name, the list of tables."""
    if name is not None and name not in TABLES:
        return f"no table {name!r}; tables: {', '.join(TABLES)}"
    tables = [TABLES[name]] if name is not None else list(TABLES.values())
    return "\n\n".join(_table(table) for table in tables)


def _table(table: Table) -> str:
    lines = [f"### `{table.name}`", "", f"{table.comment}.", ""]
    if table.key:
        lines += [f"Key: {', '.join(f'`{k}`' for k in table.key)}.", ""]
    lines += ["| column | type | null | meaning |", "|---|---|---|---|"]
    for c in table.columns:
        null = "yes" if c.nullable else "no"
        lines.append(f"| `{c.name}` | `{c.type}` | {null} | {c.comment} |")
    if table.constraints:
        lines += ["", "Constraints: " + "; ".join(f"`{v}`" for v in table.constraints.values())]
    return "\n".join(lines)
