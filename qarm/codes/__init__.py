"""Quantitative codes: fit codebooks, assign codes, export them. See README.md in this folder."""
