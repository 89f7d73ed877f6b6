"""Quantitative codes: fit codebooks, assign codes, export them. See README.md in this folder."""

FORMATS = ("parquet", "grid", "minionerec", "torcheasyrec")
"""Formats of ``export-codes``; ``formats.write_NAME`` writes each."""
