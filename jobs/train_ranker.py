"""spark-submit entry point of stage train-ranker: see `qarm train-ranker --help`."""

import sys

from qarm.cli import job

if __name__ == "__main__":
    sys.exit(job("train-ranker"))
