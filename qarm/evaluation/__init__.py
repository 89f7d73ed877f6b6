"""Judging the ranker and the vectors: metrics by slice with intervals, new-pair recall."""
