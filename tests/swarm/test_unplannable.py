"""Queries that DataFusion plans in the session's way only, not in the one that can be divided: they run here."""

from __future__ import annotations

from pathlib import Path

import datafusion
import pytest

from apiary_df import SessionContext
from apiary_df.errors import SqlError
from swarm.helpers import check_same

pytestmark = pytest.mark.processes

LAST = "(SELECT max(n_nationkey) FROM nation)"
SUBQUERIES = {
    "order_by": f"SELECT o_orderkey FROM orders ORDER BY o_custkey + {LAST}, o_orderkey LIMIT 5",
    "aggregate": f"SELECT max(o_orderkey + {LAST}) AS m FROM orders",
    "filter": f"SELECT count(*) FILTER (WHERE o_custkey > {LAST}) AS n FROM orders",
    "group_by": f"SELECT o_orderstatus, count(*) AS n FROM orders GROUP BY o_shippriority + {LAST}, o_orderstatus "
    "ORDER BY o_orderstatus",
    "window": f"SELECT o_orderkey, sum(o_shippriority) OVER (ORDER BY o_orderkey + {LAST}) AS s FROM orders "
    "ORDER BY o_orderkey",
    "join_on": f"SELECT a.o_orderkey FROM orders a JOIN orders b ON a.o_orderkey = b.o_orderkey + {LAST} "
    "ORDER BY a.o_orderkey",
}
"""A scalar subquery where DataFusion cannot make a join of it."""


@pytest.mark.parametrize("name", SUBQUERIES)
def test_a_subquery_that_is_no_join_is_answered_here(
    name: str, shared: SessionContext, plain: datafusion.SessionContext
) -> None:
    check_same(plain.sql(SUBQUERIES[name]).to_arrow_table(), shared.sql(SUBQUERIES[name]).to_arrow_table())
    report = shared.last_query
    assert report is not None
    assert not report.distributed
    assert report.reason.startswith("DataFusion cannot plan the query for division: ScalarSubqueryExec")
    text = shared.sql(SUBQUERIES[name]).explain_text()
    assert text.startswith(f"runs in this process: {report.reason}")
    assert "DataSourceExec" in text


def test_a_write_of_such_a_query_is_datafusions(shared: SessionContext, tmp_path: Path) -> None:
    shared.sql(f"COPY ({SUBQUERIES['aggregate']}) TO '{tmp_path / 'm.parquet'}'").collect()
    written = datafusion.SessionContext().read_parquet(str(tmp_path / "m.parquet")).to_pydict()
    assert written == shared.sql(SUBQUERIES["aggregate"]).to_pydict()


def test_what_cannot_be_planned_at_all_is_refused(shared: SessionContext) -> None:
    frame = shared.sql("SELECT o_orderkey FROM orders LIMIT (SELECT 3)")
    with pytest.raises(SqlError, match="Unsupported LIMIT expression"):
        frame.collect()
