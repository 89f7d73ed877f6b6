"""spark-submit entry point of stage assign-codes: see `qarm assign-codes --help`."""

import sys

from qarm.cli import job

if __name__ == "__main__":
    sys.exit(job("assign-codes"))
