"""How good the codes of a catalogue are: figures by Spark, without any collect of the catalogue.

``catalog`` (use, collisions, reconstruction), ``prefixes``, ``neighbours``, ``pairs``, ``purity``
and ``change`` compute a kind of figure each, ``stage`` all of them, ``layout`` prints them. The
array functions behind them are in ``qarm/codes/quality.py`` and ``qarm/codes/neighbours.py``.
"""
