"""spark-submit entry point of stage ingest: see `qarm ingest --help`."""

import sys

from qarm.cli import job

if __name__ == "__main__":
    sys.exit(job("ingest"))
