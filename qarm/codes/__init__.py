"""Quantitative codes: fit codebooks, assign codes to the catalogue, and export them.

The core (``nearest``, ``anchors``, ``kmeans``, ``residual``, ``codebook``, ``quality``,
``neighbours``, ``prefix``) is arrays in, arrays out; ``fit_stage`` and ``assign_stage`` carry it to
the tables, ``export`` and ``formats`` to files. ``qarm.evaluation`` judges the codes.
"""
