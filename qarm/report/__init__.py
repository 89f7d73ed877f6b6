"""The report: one HTML file that shows a run from the log to the ranker."""
