"""spark-submit entry point of stage fit-codebooks: see `qarm fit-codebooks --help`."""

import sys

from qarm.cli import job

if __name__ == "__main__":
    sys.exit(job("fit-codebooks"))
