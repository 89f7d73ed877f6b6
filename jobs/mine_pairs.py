"""spark-submit entry point of stage mine-pairs: see `qarm mine-pairs --help`."""

import sys

from qarm.cli import job

if __name__ == "__main__":
    sys.exit(job("mine-pairs"))
