"""DataFusion's options on a swarm: each is classified, and what changes an answer changes the swarm's alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import SessionConfig

from apiary_df import LocalSwarm, SessionContext
from apiary_df.errors import SqlError
from apiary_df.plan.rules import RewriteOptions
from apiary_df.planning import TWIN_OPTIONS, RunsOnSwarm, SwarmPlanner, join_limits
from apiary_df.worker.engine import Engine
from swarm.helpers import FORCED, check_same, check_was_distributed, wait_until_idle
from swarm.option_classes import BOUND, CARRIED, IN_SCANS, OPTIONS, PLANNING, RESOURCES, TEXT

ROWS = 240
FILES = 4
ENGINE_BYTES = 1 << 26
SETTINGS = "SELECT name, value FROM information_schema.df_settings"

Both = tuple[SessionContext, datafusion.SessionContext]
Answer = Callable[[datafusion.SessionContext], Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of several files: ``facts`` and ``old`` (int96) as Parquet, ``lines`` as CSV, ``tree`` in folders."""
    root = tmp_path_factory.mktemp("settings")
    for name in ("facts", "old", "lines", "tree/k=1", "tree/k=2"):
        (root / name).mkdir(parents=True)
    step = ROWS // FILES
    for number in range(FILES):
        ids = range(number * step, (number + 1) * step)
        facts = pa.table(
            {
                "id": pa.array(ids, pa.int64()),
                "g": pa.array([None if i % 7 == 0 else i % 5 for i in ids], pa.int64()),
                "f": pa.array([i / 7 for i in ids], pa.float64()),
                "s": pa.array([f"2024-0{1 + i % 9}-1{i % 9}T0{i % 10}:30:00" for i in ids], pa.string()),
                "b": pa.array([b"bytes-%d" % (i % 11) for i in ids], pa.binary()),
                "Mixed": pa.array(ids, pa.int64()),
            },
            metadata={"written": "by hand"},
        )
        pq.write_table(facts, root / "facts" / f"{number}.parquet", row_group_size=20)
        times = pa.table({"id": facts["id"], "t": facts["s"].cast(pa.timestamp("ns"))})
        pq.write_table(times, root / "old" / f"{number}.parquet", use_deprecated_int96_timestamps=True)
        pq.write_table(facts.select(["id"]), root / "tree" / f"k={1 + number % 2}" / f"{number}.parquet")
        rows = "".join(f'{i},"line {i}"\n' for i in ids)
        (root / "lines" / f"{number}.csv").write_text(rows)
    return root


def register(ctx: datafusion.SessionContext, folders: Path) -> None:
    ctx.register_parquet("facts", str(folders / "facts"))
    ctx.register_parquet("old", str(folders / "old"))


def external(folders: Path, name: str, columns: str, kind: str) -> str:
    return f"CREATE EXTERNAL TABLE made {columns} STORED AS {kind} LOCATION '{folders / name}/'"


@pytest.fixture
def both(swarm: LocalSwarm) -> Iterator[Callable[..., Both]]:
    """Opens a session on the swarm and a plain one, of the same configuration."""
    opened: list[SessionContext] = []

    def open_both(config: dict[str, str] | None = None) -> Both:
        opened.append(SessionContext(SessionConfig(config or {}), storage=swarm.storage, **FORCED))
        return opened[-1], datafusion.SessionContext(SessionConfig(config or {}))

    yield open_both
    for ctx in opened:
        ctx.close()


# -- every option ---------------------------------------------------------------------------------------------------


def defaults() -> dict[str, str | None]:
    ctx = datafusion.SessionContext(SessionConfig({"datafusion.catalog.information_schema": "true"}))
    rows = ctx.sql(SETTINGS).to_pydict()
    return dict(zip(rows["name"], rows["value"], strict=True))


def test_every_option_of_datafusion_is_classified() -> None:
    known = defaults()
    assert set(known) == set(OPTIONS), "look at what is new or gone, and say what becomes of it on a swarm"
    same = [name for name, (_, value) in OPTIONS.items() if known[name] == value]
    allowed = {"datafusion.catalog.information_schema", "datafusion.execution.planning_concurrency"}
    allowed |= {"datafusion.execution.target_partitions"}  # its default is the number of cores
    assert set(same) <= allowed


NOT_TOGETHER = {
    "datafusion.optimizer.repartition_file_scans",
    "datafusion.optimizer.repartition_aggregations",
    "datafusion.catalog.create_default_catalog_and_schema",
}
"""Options under which there is no exchange to plan, or no place for a table."""


def test_what_is_set_goes_with_the_query_and_holds_in_its_tasks(folders: Path, tmp_path: Path) -> None:
    own = {**TWIN_OPTIONS, **join_limits(3), "datafusion.execution.target_partitions": "3"}
    chosen = {name: value for name, (kind, value) in OPTIONS.items() if kind != RESOURCES and name not in NOT_TOGETHER}
    ctx = datafusion.SessionContext(SessionConfig(chosen))
    for name, (kind, value) in OPTIONS.items():
        if kind == RESOURCES:
            ctx.sql(f"SET {name} = '{value}'")
    ctx.register_parquet("facts", str(folders / "facts"))
    logical = ctx.sql("SELECT DISTINCT id FROM facts").logical_plan()
    planned = SwarmPlanner(ctx, lambda _twin: None).plan(logical, RewriteOptions(partitions=3, small_bytes=0))
    assert isinstance(planned, RunsOnSwarm)
    # Of broadcast limits, the user's own are kept.
    expected = {**own, **{name: value for name, value in chosen.items() if name not in TWIN_OPTIONS}}
    expected["datafusion.execution.target_partitions"] = "3"
    known = defaults()
    assert dict(planned.settings) == {name: value for name, value in expected.items() if known[name] != value}
    asked = {**planned.settings, "datafusion.catalog.information_schema": "true"}
    rows = Engine(asked, ENGINE_BYTES, tmp_path).ctx.sql(SETTINGS).to_pydict()
    there = dict(zip(rows["name"], rows["value"], strict=True))
    assert {name: there[name] for name in planned.settings} == dict(planned.settings)


SAME_ROWS = (
    "SELECT g, count(*) AS n, sum(id) AS s, min(s) AS w FROM facts GROUP BY g",
    "SELECT a.id, b.f FROM facts a JOIN facts b ON a.id = b.g + 10 LEFT JOIN old ON old.id = b.id WHERE a.g < 4",
    "SELECT id, row_number() OVER (PARTITION BY g ORDER BY id) AS r FROM facts WHERE id IN (1, 5, 7, 100, 239)",
    "SELECT id, f FROM facts WHERE f > (SELECT avg(f) FROM facts) ORDER BY g DESC, id LIMIT 9",
    "SELECT DISTINCT g FROM facts UNION SELECT id FROM old WHERE id < 9",
)


OF_EXECUTION = [name for name, (kind, _) in sorted(OPTIONS.items()) if kind in {CARRIED, IN_SCANS, PLANNING}]
GROUPS = [OF_EXECUTION[first::12] for first in range(12)]
"""Options that are tried together: neighbours by name, which may depend on each other, are in different groups."""


@pytest.mark.processes
@pytest.mark.parametrize("group", GROUPS, ids=range(len(GROUPS)))
def test_rows_are_plain_whatever_options_of_execution_are(
    group: list[str], both: Callable[..., Both], folders: Path
) -> None:
    ctx, plain = both({name: OPTIONS[name][1] for name in group})
    for session in (ctx, plain):
        register(session, folders)
    distributed = 0
    for sql in SAME_ROWS:
        expected = plain.sql(sql).to_arrow_table()
        check_same(expected, ctx.sql(sql).to_arrow_table(), ordered="ORDER BY g" in sql)
        assert ctx.last_query is not None
        distributed += ctx.last_query.distributed
    assert distributed or "datafusion.optimizer.repartition_file_scans" in group


# -- options that change answers ------------------------------------------------------------------------------------


def rows_of(sql: str) -> Answer:
    def answer(ctx: datafusion.SessionContext) -> Any:
        try:
            return ctx.sql(sql).to_arrow_table()
        except ValueError as error:
            return str(error).split("; in:")[0]

    return answer


def after(statement: Callable[[Path], str], sql: str) -> Callable[[Path], Answer]:
    """Return what a query answers after a statement about the test's folders."""

    def made(folders: Path) -> Answer:
        def answer(ctx: datafusion.SessionContext) -> Any:
            ctx.sql(statement(folders))
            return rows_of(sql)(ctx)

        return answer

    return made


def over_tables(sql: str) -> Callable[[Path], Answer]:
    def made(folders: Path) -> Answer:
        def answer(ctx: datafusion.SessionContext) -> Any:
            register(ctx, folders)
            return rows_of(sql)(ctx)

        return answer

    return made


def largest_batch(folders: Path) -> Answer:
    def answer(ctx: datafusion.SessionContext) -> Any:
        register(ctx, folders)
        return max(b.num_rows for b in ctx.sql("SELECT g, id FROM facts GROUP BY g, id ORDER BY id").collect()) <= 7

    return answer


TYPES = "SELECT arrow_typeof(s) AS s, arrow_typeof(b) AS b, count(*) AS n FROM facts GROUP BY 1, 2"
CASES: dict[str, tuple[dict[str, str], Callable[[Path], Answer]]] = {
    "time_zone": (
        {"execution.time_zone": "+05:00"},
        over_tables("SELECT id, CAST(CAST(s AS TIMESTAMPTZ) AS VARCHAR) AS t FROM facts ORDER BY id"),
    ),
    # These two ask the task's own session for its time zone, each time they are called.
    "time_zone_of_texts": (
        {"execution.time_zone": "+05:00"},
        over_tables("SELECT id, to_unixtime(arrow_cast(s, 'Utf8')) AS t FROM facts ORDER BY id"),
    ),
    "time_zone_of_numbers": (
        {"execution.time_zone": "-07:30"},
        over_tables("SELECT id, to_timestamp_seconds(id * 3600) AS t FROM facts ORDER BY id"),
    ),
    "named_time_zone": (
        {"execution.time_zone": "America/New_York"},
        over_tables(
            "SELECT date_part('hour', now()) = date_part('hour', arrow_cast(now(), 'Timestamp(ns, \"UTC\")'))"
            " AS h, count(*) AS n FROM facts GROUP BY 1"
        ),
    ),
    "time_zone_of_comparisons": (
        {"execution.time_zone": "-11:00"},
        over_tables(
            "SELECT id FROM facts WHERE CAST(s AS TIMESTAMPTZ) > arrow_cast('2024-05-14T12:00:00', "
            "'Timestamp(ns, \"UTC\")') ORDER BY id"
        ),
    ),
    "batch_size": ({"execution.batch_size": "7"}, largest_batch),
    "recursive_ctes": (
        {"execution.enable_recursive_ctes": "false"},
        over_tables(
            "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) "
            "SELECT id FROM facts JOIN r ON id = n ORDER BY id"
        ),
    ),
    "nulls_first": (
        {"sql_parser.default_null_ordering": "nulls_min"},
        over_tables("SELECT id, g FROM facts ORDER BY g, id LIMIT 50"),
    ),
    "nulls_in_windows": (
        {"sql_parser.default_null_ordering": "nulls_first"},
        over_tables("SELECT id, rank() OVER (PARTITION BY id % 3 ORDER BY g, id) AS r FROM facts ORDER BY id"),
    ),
    "dialect": (
        {"sql_parser.dialect": "mysql"},
        over_tables('SELECT id, "quoted" AS q FROM facts ORDER BY id'),
    ),
    "dialect_operators": (
        {"sql_parser.dialect": "duckdb"},
        over_tables("SELECT id, id // 7 AS q FROM facts ORDER BY id"),
    ),
    "ident_normalization": (
        {"sql_parser.enable_ident_normalization": "false"},
        over_tables("SELECT Mixed AS M FROM facts ORDER BY Mixed"),
    ),
    "decimals": (
        {"sql_parser.parse_float_as_decimal": "true"},
        over_tables("SELECT id, id * 1.1 AS x, arrow_typeof(id * 1.1) AS t FROM facts ORDER BY id"),
    ),
    "string_types": (
        {"sql_parser.map_string_types_to_utf8view": "false"},
        over_tables("SELECT id, CAST(id AS VARCHAR) AS v FROM facts ORDER BY id"),
    ),
    "varchar_with_length": (
        {"sql_parser.support_varchar_with_length": "false"},
        over_tables("SELECT id, CAST(id AS VARCHAR(9)) AS v FROM facts ORDER BY id"),
    ),
    "recursion_limit": (
        {"sql_parser.recursion_limit": "3"},
        over_tables("SELECT ((((((id + 1) * 2) + 3) * 4) + 5) * 6) AS x FROM facts ORDER BY id"),
    ),
    "views_at_output": (
        {"optimizer.expand_views_at_output": "true"},
        over_tables("SELECT id, s, b, g IS NULL AS u FROM facts ORDER BY id"),
    ),
    "binary_as_string": ({"execution.parquet.binary_as_string": "true"}, over_tables(TYPES)),
    "view_types": ({"execution.parquet.schema_force_view_types": "false"}, over_tables(TYPES)),
    "int96": (
        {"execution.parquet.coerce_int96": "ms"},
        over_tables("SELECT id, t, arrow_typeof(t) AS a FROM old ORDER BY id"),
    ),
    "int96_time_zone": (
        {"execution.parquet.coerce_int96": "us", "execution.parquet.coerce_int96_tz": "+03:00"},
        over_tables("SELECT id, t, arrow_typeof(t) AS a FROM old ORDER BY id"),
    ),
    "default_schema": (
        {"catalog.default_schema": "elsewhere"},
        over_tables("SELECT count(*) AS n FROM elsewhere.facts WHERE id > 3"),
    ),
    "default_catalog": (
        {"catalog.default_catalog": "bees"},
        over_tables("SELECT count(*) AS n FROM bees.public.facts WHERE id > 3"),
    ),
    "csv_header": (
        {"catalog.has_header": "false"},
        after(
            lambda folders: external(folders, "lines", "(a BIGINT, b VARCHAR)", "CSV"),
            "SELECT count(*) AS n, sum(a) AS s FROM made",
        ),
    ),
    "subdirectories": (
        {"execution.listing_table_factory_infer_partitions": "false"},
        after(lambda folders: external(folders, "tree", "", "PARQUET"), "SELECT * FROM made ORDER BY id"),
    ),
}
"""Options, without ``datafusion.`` in front, and a question whose answer changes with them."""


def check_answers(expected: object, actual: object) -> None:
    if isinstance(expected, pa.Table) and isinstance(actual, pa.Table):
        check_same(expected, actual)
    else:
        assert actual == expected


@pytest.mark.processes
@pytest.mark.parametrize("name", CASES)
def test_an_option_that_changes_an_answer_changes_it_on_the_swarm_too(
    name: str, both: Callable[..., Both], folders: Path
) -> None:
    short, question = CASES[name]
    options = {f"datafusion.{option}": value for option, value in short.items()}
    answers = []
    for config in ({}, options):
        ctx, plain = both(config)
        expected = question(folders)(plain)
        check_answers(expected, question(folders)(ctx))
        if isinstance(expected, pa.Table) and name != "recursive_ctes":
            check_was_distributed(ctx)
        answers.append(expected)
    assert isinstance(answers[0], str) or isinstance(answers[1], str) or answers[0] != answers[1]


# -- ways and times of setting them ---------------------------------------------------------------------------------

ZONED = "SELECT id, CAST(CAST(s AS TIMESTAMPTZ) AS VARCHAR) AS t FROM facts ORDER BY id"


def zones(both: Both, frames: Sequence[datafusion.DataFrame] = ()) -> str:
    """Run a query that shows the time zone on both (or two given frames), and return the zone."""
    first, second = frames or [session.sql(ZONED) for session in both]
    expected = second.to_arrow_table()
    check_same(expected, first.to_arrow_table())
    check_was_distributed(both[0])
    return str(expected["t"][0].as_py())[19:]


def each(both: Both, statement: str) -> None:
    for session in both:
        session.sql(statement)


@pytest.fixture
def pair(both: Callable[..., Both], folders: Path) -> Both:
    """Both sessions, in a time zone, with the tables registered."""
    made = both({"datafusion.execution.time_zone": "+02:00"})
    for session in made:
        register(session, folders)
    return made


@pytest.mark.processes
class TestTimesOfSetting:
    def test_set_and_reset_hold_from_the_next_query_on(self, pair: Both) -> None:
        seen = [zones(pair)]
        for statement in (
            "SET datafusion.execution.time_zone = '+07:00'",
            "SET TIME ZONE = '-03:00'",
            "/* back */ set time zone = 'UTC'",
            "RESET datafusion.execution.time_zone",
        ):
            each(pair, statement)
            seen.append(zones(pair))
        assert seen == ["+02:00", "+07:00", "-03:00", "Z", ""]

    def test_a_frame_keeps_the_settings_that_it_was_made_under(self, pair: Both) -> None:
        sql = "SELECT id, CAST(current_time AS VARCHAR) AS t FROM facts"
        frames = [session.sql(sql) for session in pair]
        derived = [frame.filter(datafusion.col("id") > 3) for frame in frames]
        each(pair, "SET datafusion.execution.time_zone = '-09:00'")
        for old in (frames, derived, [session.sql(sql) for session in pair]):
            ours, plain = ({int(row["t"][:2]) for row in frame.to_pylist()} for frame in old)
            # Two frames are not made at the same time, but not eleven hours apart either.
            assert len(ours) == 1
            assert (plain.pop() - ours.pop()) % 24 <= 1
            check_was_distributed(pair[0])

    def test_a_view_is_bound_when_it_is_made(self, pair: Both) -> None:
        each(pair, f"CREATE VIEW zoned AS {ZONED}")
        each(pair, "SET datafusion.execution.time_zone = '+07:00'")
        frames = [session.sql("SELECT id, t FROM zoned ORDER BY id") for session in pair]
        assert zones(pair, frames) == "+02:00"
        assert zones(pair) == "+07:00"

    def test_a_prepared_statement_is_bound_when_it_is_prepared(self, pair: Both) -> None:
        each(pair, f"PREPARE later AS {ZONED}")
        each(pair, "SET datafusion.execution.time_zone = '+07:00'")
        assert zones(pair, [session.sql("EXECUTE later") for session in pair]) == "+02:00"

    def test_a_handle_on_the_session_has_settings_of_its_own(self, pair: Both) -> None:
        handle = pair[0].enable_url_table()
        assert isinstance(handle, SessionContext)
        handles = (handle, pair[1].enable_url_table())
        each(handles, "SET datafusion.execution.time_zone = '+07:00'")
        assert zones(handles) == "+07:00"
        assert zones(pair) == "+02:00"
        each(pair, "SET datafusion.execution.time_zone = '+08:00'")
        assert (zones(handles), zones(pair)) == ("+07:00", "+08:00")

    def test_show_tells_the_sessions_own_value(self, both: Callable[..., Both]) -> None:
        opened = both({"datafusion.catalog.information_schema": "true"})
        for name, value in TWIN_OPTIONS.items():
            expected = opened[1].sql(f"SHOW {name}").to_pydict()
            assert opened[0].sql(f"SHOW {name}").to_pydict() == expected
            each(opened, f"SET {name} = '{value}'")
        check_same(opened[1].sql("SHOW ALL").to_arrow_table(), opened[0].sql("SHOW ALL").to_arrow_table())

    def test_an_unknown_option_is_refused(self, pair: Both) -> None:
        with pytest.raises(SqlError, match=r"datafusion\.no\.such"):
            pair[0].sql("SET datafusion.no.such = 1")
        assert zones(pair) == "+02:00"

    def test_the_sessions_own_settings_stay_as_they_are(self, both: Callable[..., Both], folders: Path) -> None:
        config = {"datafusion.catalog.information_schema": "true"}
        ctx, plain = both(config)
        register(ctx, folders)
        ctx.sql(SAME_ROWS[0]).collect()
        check_was_distributed(ctx)
        check_same(plain.sql(SETTINGS).to_arrow_table(), ctx.sql(SETTINGS).to_arrow_table())


# -- the clock, and chance ------------------------------------------------------------------------------------------


@pytest.mark.processes
class TestTheClock:
    @pytest.mark.parametrize("clock", ["now()", "current_timestamp", "current_date", "current_time", "localtimestamp"])
    def test_it_stands_still_for_the_whole_query(self, clock: str, pair: Both) -> None:
        ctx = pair[0]
        if clock == "localtimestamp":
            clock = "now()::timestamp"
        wait_until_idle(ctx)
        sql = f"SELECT DISTINCT c FROM (SELECT g, {clock} AS c FROM facts UNION ALL SELECT id, {clock} FROM old)"
        table = ctx.sql(sql).to_arrow_table()
        assert table.num_rows == 1
        assert table.schema.types == pair[1].sql(sql).to_arrow_table().schema.types
        check_was_distributed(ctx, tasks=3)

    def test_it_is_that_of_the_frames_making(self, pair: Both) -> None:
        for session in pair:
            frame = session.sql("SELECT id, now() AS n, (SELECT max(g) FROM facts) AS m FROM facts WHERE id < 100")
            first = frame.sort_by(datafusion.col("id")).to_arrow_table()
            assert first == frame.sort_by(datafusion.col("id")).to_arrow_table()
            assert first.num_rows == 100
        check_was_distributed(pair[0])

    def test_it_stands_still_for_all_tasks_that_write(self, pair: Both, tmp_path: Path) -> None:
        pair[0].sql(f"COPY (SELECT id, now() AS n FROM facts) TO '{tmp_path / 'out'}/' STORED AS PARQUET").collect()
        check_was_distributed(pair[0])
        written = datafusion.SessionContext().read_parquet(str(tmp_path / "out")).to_pydict()
        assert (len(written["id"]), len(set(written["n"]))) == (ROWS, 1)

    def test_it_tells_the_time(self, pair: Both) -> None:
        before = datetime.now(timezone.utc)
        (found,) = pair[0].sql("SELECT DISTINCT to_unixtime(now()) AS t FROM facts").to_pydict()["t"]
        told = datetime.fromtimestamp(found, timezone.utc)
        assert before - timedelta(seconds=1) <= told <= datetime.now(timezone.utc)
        check_was_distributed(pair[0])


@pytest.mark.processes
class TestChance:
    def test_each_row_has_its_own(self, pair: Both) -> None:
        ctx = pair[0]
        wait_until_idle(ctx)
        rows = ctx.sql("SELECT id, random() AS r, uuid() AS u FROM facts").to_pydict()
        assert len(set(rows["r"])) == len(set(rows["u"])) == len(set(rows["id"])) == ROWS
        assert all(0 <= r < 1 for r in rows["r"])
        check_was_distributed(ctx, tasks=2)

    def test_two_calls_in_a_row_are_two_values(self, pair: Both) -> None:
        assert pair[0].sql("SELECT count(*) AS n FROM facts WHERE random() = random()").to_pydict() == {"n": [0]}
        check_was_distributed(pair[0])

    def test_a_value_that_was_drawn_is_the_same_wherever_it_is_used(self, pair: Both) -> None:
        drawn = "(SELECT id, uuid() AS u, random() AS r FROM facts)"
        sql = f"SELECT count(DISTINCT u) AS n, count(DISTINCT r) AS m, sum(r) - sum(r + 1) AS d FROM {drawn}"
        assert pair[0].sql(sql).to_pydict() == {"n": [ROWS], "m": [ROWS], "d": [pytest.approx(-ROWS)]}
        check_was_distributed(pair[0])

    def test_rows_are_chosen_once(self, pair: Both) -> None:
        """Each row is taken or left; that of two branches over the same rows is a matter of chance."""
        sql = "SELECT count(*) AS n, count(DISTINCT id) AS d FROM (SELECT id FROM facts WHERE random() < 0.5)"
        row = pair[0].sql(sql).to_pylist()[0]
        assert 0 < row["n"] < ROWS
        assert row["n"] == row["d"]
        check_was_distributed(pair[0])


def test_the_classes_that_no_query_depends_on_are_named() -> None:
    """Options of the other classes are tried above, by queries or by what a planner makes of them."""
    assert {kind for kind, _ in OPTIONS.values()} >= {BOUND, TEXT, RESOURCES}
