"""spark-submit entry point of stage embed-catalog: see `qarm embed-catalog --help`."""

import sys

from qarm.cli import job

if __name__ == "__main__":
    sys.exit(job("embed-catalog"))
