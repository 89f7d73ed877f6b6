"""spark-submit entry point of the whole pipeline: see `qarm run --help`."""

import sys

from qarm.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
