"""spark-submit entry point of stage train-alignment: see `qarm train-alignment --help`."""

import sys

from qarm.cli import job

if __name__ == "__main__":
    sys.exit(job("train-alignment"))
