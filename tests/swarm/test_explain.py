"""EXPLAIN in SQL and on DataFrames, and the progress display."""

from __future__ import annotations

import datafusion
import pytest

from apiary_df import SessionContext
from apiary_df.dataframe import PHASES
from apiary_df.errors import ConfigError
from swarm.conftest import Open
from swarm.helpers import check_nothing_left, check_same, check_was_distributed

pytestmark = pytest.mark.processes

SQL = "SELECT l_returnflag, count(*) AS n FROM lineitem WHERE l_quantity > 10 GROUP BY l_returnflag"


def explained(ctx: SessionContext, sql: str) -> str:
    (row,) = ctx.sql(sql).to_pylist()
    return str(row["plan"])


def test_explain_shows_stages_tasks_nodes_cells_and_why(shared: SessionContext) -> None:
    text = explained(shared, f"EXPLAIN {SQL}")
    assert "distributed: 3 stages on 2 nodes, 2 bees" in text
    assert "why: 3 cells" in text
    assert "stage 0 -> shuffle by hash" in text
    assert "stage 2 (result, in this process); reads stage 1" in text
    assert any(f"task 0.0 on {view.info.node_id}" in text for view in shared.nodes())
    assert "3 files" in text


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        (
            "SELECT c_name, o_orderkey FROM customer LEFT JOIN orders ON c_acctbal > o_totalprice",
            "which build rows found a partner is noted in one process, and there is no key to shuffle by",
        ),
        ("SELECT sum(l_tax) FROM lineitem WHERE l_tax > 0", "AggregateExec: mode=Final: it makes its result of all"),
        (
            "SELECT l_orderkey, r FROM lineitem, (SELECT random() AS r) WHERE l_tax > r",
            "one task (computed once: random() gives another value each time)",
        ),
        (
            "SELECT n, s FROM (SELECT l_tax AS n, sum(l_tax) OVER () AS s FROM lineitem) WHERE s > n",
            "WindowAggExec: no PARTITION BY: the window looks at all rows",
        ),
        (
            "SELECT sum(l_tax + (SELECT max(o_totalprice) FROM orders)) FROM lineitem",
            "runs in this process: DataFusion cannot plan the query for division: ScalarSubqueryExec",
        ),
    ],
)
def test_explain_says_why_a_stage_is_one_task(sql: str, why: str, shared: SessionContext) -> None:
    assert why in explained(shared, f"EXPLAIN {sql}")


def test_explain_says_which_shuffles_are_left_out(joined: Open) -> None:
    sql = "SELECT * FROM orders LEFT JOIN lineitem ON o_orderkey = l_orderkey"
    sql = f"EXPLAIN SELECT o_orderkey, o_custkey, sum(l_tax) AS tax FROM ({sql}) GROUP BY o_orderkey, o_custkey"
    left_out = "rows are not shuffled by o_orderkey, o_custkey: they lie by o_orderkey since an earlier shuffle"
    assert left_out in explained(joined(), sql)
    assert "not shuffled" not in explained(joined(reuse_from_values=0), sql)


def test_what_tasks_share_of_random_is_one_value_on_all_nodes(shared: SessionContext) -> None:
    sql = "SELECT count(DISTINCT r) AS r, sum(l_orderkey) > 0 AS s FROM lineitem, (SELECT random() AS r)"
    assert shared.sql(sql).to_pydict() == {"r": [1], "s": [True]}
    check_was_distributed(shared)


def test_explain_runs_nothing(joined: Open) -> None:
    ctx = joined()
    explained(ctx, f"EXPLAIN {SQL}")
    assert ctx.last_query is None


def test_explain_verbose_names_every_cell(shared: SessionContext) -> None:
    text = explained(shared, f"EXPLAIN VERBOSE {SQL}")
    assert sum(".parquet" in line for line in text.splitlines() if line.startswith("    ")) >= 3


def test_explain_analyze_adds_what_every_task_did(shared: SessionContext, plain: datafusion.SessionContext) -> None:
    text = explained(shared, f"EXPLAIN ANALYZE {SQL}")
    check_was_distributed(shared)
    report = shared.last_query
    assert report is not None
    for task in report.task_reports:
        assert f"task {task.stage}.{task.task} on {task.node_id}: {task.rows} rows" in text
    for words in ("in the queue", " cells, ", "requests", "through storage"):
        assert words in text
    assert f": {plain.sql(SQL).count()} rows" in text
    check_nothing_left(str(shared.storage))


@pytest.mark.parametrize(
    ("threads", "part_bytes", "how"),
    [
        (2, 0, "in 2 parts, each in a thread of its own"),
        (1, 0, "in one thread: there is no other for it"),
        (2, 1 << 30, "in one thread: it reads "),
    ],
)
def test_explain_analyze_says_in_how_many_threads_the_rest_ran_and_why(
    threads: int, part_bytes: int, how: str, joined: Open, plain: datafusion.SessionContext
) -> None:
    ctx = joined(finish_here_bytes=1 << 30, finish_here_threads=threads, finish_here_part_bytes=part_bytes)
    text = explained(ctx, f"EXPLAIN ANALYZE {SQL}")
    assert f"rows: made in this process, together with what was left of the plan, {how}" in text
    check_same(plain.sql(SQL).to_arrow_table(), ctx.sql(SQL).to_arrow_table(), ordered=False)
    assert ctx.last_query is not None
    assert ctx.last_query.folded_how.startswith(how)


def test_explain_analyze_tells_of_spills_only_where_there_were_some(shared: SessionContext) -> None:
    assert "spills" not in explained(shared, f"EXPLAIN ANALYZE {SQL}")


def test_explain_statement_has_the_columns_that_datafusion_gives_it(
    shared: SessionContext, plain: datafusion.SessionContext
) -> None:
    for statement in (f"EXPLAIN {SQL}", f"EXPLAIN ANALYZE {SQL}"):
        assert shared.sql(statement).to_arrow_table().schema.names == plain.sql(statement).schema().names


def test_explain_in_a_format_is_datafusions_own(shared: SessionContext, plain: datafusion.SessionContext) -> None:
    statement = f"EXPLAIN FORMAT TREE {SQL}"
    assert shared.sql(statement).to_pydict()["plan_type"] == plain.sql(statement).to_pydict()["plan_type"]


@pytest.mark.parametrize(
    ("until", "there", "not_there"),
    [
        ("physical", "RepartitionExec: partitioning=Hash", "stage 0"),
        ("rewritten", "AggregateExec: mode=Partial", "stage 0"),
        ("stages", "stage 0 -> shuffle by hash", "task 0.0"),
        ("assignment", "task 0.0 on ", "ran in"),
    ],
)
def test_explain_stops_where_it_is_told_to(shared: SessionContext, until: str, there: str, not_there: str) -> None:
    text = shared.sql(SQL).explain_text(until=until)
    assert there in text
    assert not_there not in text


def test_explain_prints_its_text(shared: SessionContext, capsys: pytest.CaptureFixture[str]) -> None:
    shared.sql(SQL).explain(until="stages")
    assert capsys.readouterr().out == shared.sql(SQL).explain_text(until="stages") + "\n"


def test_wrong_until_names_the_right_ones(shared: SessionContext) -> None:
    with pytest.raises(ConfigError, match="until='logical'") as caught:
        shared.sql(SQL).explain(until="logical")
    assert all(phase in str(caught.value) for phase in PHASES)


def test_explain_without_a_swarm_says_that_there_is_none() -> None:
    text = SessionContext().sql("SELECT 1 AS one").explain_text()
    assert text.startswith("runs in this process: this session has no swarm")


def test_progress_is_silent_where_there_is_no_terminal(joined: Open, capfd: pytest.CaptureFixture[str]) -> None:
    joined(progress_after_s=0).sql(SQL).collect()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_progress_is_shown_when_it_is_asked_for(joined: Open, capfd: pytest.CaptureFixture[str]) -> None:
    joined(progress_after_s=0, progress=True).sql(SQL).collect()
    captured = capfd.readouterr()
    assert "tasks" in captured.err
    assert captured.out == ""


def test_progress_is_silent_for_what_is_over_soon(joined: Open, capfd: pytest.CaptureFixture[str]) -> None:
    joined(progress_after_s=60, progress=True).sql(SQL).collect()
    assert capfd.readouterr().err == ""
