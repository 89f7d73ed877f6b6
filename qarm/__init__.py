"""qarm: aligned item vectors, semantic IDs and a ranker from interaction logs."""

__version__ = "0.1.0"
