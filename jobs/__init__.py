"""One spark-submit entry point per stage, and run.py for all of them."""
