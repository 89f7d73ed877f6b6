"""Stages, what they hand to each other, and how they are run."""
