"""Quantitative codes: fit codebooks, assign codes to the catalogue, and judge them.

The core (``nearest``, ``anchors``, ``kmeans``, ``residual``, ``codebook``, ``quality``, ``prefix``)
is arrays in, arrays out; ``fit_stage`` and ``assign_stage`` carry it to the tables.
"""
