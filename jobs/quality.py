"""spark-submit entry point of stage quality: see `qarm quality --help`."""

import sys

from qarm.cli import job

if __name__ == "__main__":
    sys.exit(job("quality"))
