"""spark-submit entry point of stage evaluate: see `qarm evaluate --help`."""

import sys

from qarm.cli import job

if __name__ == "__main__":
    sys.exit(job("evaluate"))
