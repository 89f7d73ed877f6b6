"""spark-submit entry point of stage build-samples: see `qarm build-samples --help`."""

import sys

from qarm.cli import job

if __name__ == "__main__":
    sys.exit(job("build-samples"))
