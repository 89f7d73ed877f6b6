"""Fixtures that write small lakes, one module per part of the pipeline."""
