"""spark-submit entry point of stage report: see `qarm report --help`."""

import sys

from qarm.cli import job

if __name__ == "__main__":
    sys.exit(job("report"))
