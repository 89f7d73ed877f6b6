"""A job that asks tasks where they imported qarm from; run by test_cluster.py."""

from __future__ import annotations

import json
import os

from qarm.session import open_session

if __name__ == "__main__":
    spark = open_session("where from")

    def look(_: object) -> list[tuple[str, int]]:
        import time

        import qarm

        time.sleep(2)  # long enough for both executors to take a task
        return [(qarm.__file__, os.getppid())]

    found = spark.sparkContext.parallelize(range(2), 2).mapPartitions(look).collect()
    print(json.dumps(found))
