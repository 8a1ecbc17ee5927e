"""A session that asks one thing after the other until it is killed; run by :mod:`.sessions` as a script.

Its first argument is what to do, as JSON; its settings and how storage is reached come from its environment. It writes
a line for each query that it begins.
"""

from __future__ import annotations

import json
import sys
from random import Random

from apiary_df import SessionContext
from apiary_df.demo import tpch_queries


def main() -> None:
    """Ask until killed."""
    plan = json.loads(sys.argv[1])
    random = Random(plan["seed"])
    texts = [sql for number, sql in tpch_queries().items() if not plan["only"] or number in plan["only"]]
    with SessionContext(storage=plan["storage"]) as ctx:
        for name, place in plan["tables"].items():
            ctx.register_parquet(name, place)
        while True:
            print("asks", flush=True)  # noqa: T201 - what its starter waits for
            ctx.sql(random.choice(texts)).to_arrow_table()


if __name__ == "__main__":
    main()
