"""ClickBench: its 43 query shapes over one generated table of web hits.

The table has the columns that the queries name and a dozen others, mixed-case as there, with the skew that makes the
benchmark what it is: most strings are empty, a few users, pages and phrases make up most rows. Offsets, thresholds and
hashes fit these rows instead of a hundred million. Many of the queries cut between ties or name no order at all; what
SQL leaves open there, the comparison leaves open.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

ROWS = 24_000
USERS, PAGES, PHRASES, REGIONS, COUNTERS = 3_000, 1_500, 400, 120, 60

SITES = (
    "news.example",
    "www.shop.example",
    "maps.google.example",
    "video.example",
    "mail.google.example",
    "wiki.example",
)

JULY_2013_S = 1_372_636_800
"""2013-07-01 00:00:00 UTC."""

_DAY_S = 86_400


def _skewed(rng: np.random.Generator, values: int, rows: int) -> np.ndarray:
    """Draw numbers below ``values`` of which the small ones make up most."""
    drawn = rng.pareto(0.9, rows) * values / 60
    return np.minimum(drawn.astype(np.int64), values - 1)


def _hash(numbers: np.ndarray) -> np.ndarray:
    """Spread numbers over all of int64, the same ones each time."""
    spread: np.ndarray = (numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x7F4A7C15)).astype(
        np.int64
    )
    return spread


def _strings(texts: list[str], chosen: np.ndarray, empty: np.ndarray) -> pa.Array:
    return pa.array(["" if none else texts[i] for i, none in zip(chosen, empty, strict=True)])


def make_hits(rows: int = ROWS) -> pa.Table:
    """Return the table, ordered by time as a log is; users, pages and phrases grow with its rows."""
    grow = max(1, rows // ROWS)
    distinct_users, distinct_pages, distinct_phrases = USERS * grow, PAGES * grow, PHRASES * grow
    rng = np.random.default_rng(43)
    seconds = np.sort(rng.integers(0, 31 * _DAY_S, rows))
    users, pages = _skewed(rng, distinct_users, rows), _skewed(rng, distinct_pages, rows)
    phrases, referers = _skewed(rng, distinct_phrases, rows), _skewed(rng, distinct_pages, rows)
    urls = [
        f"http{'s' * (i % 2)}://{SITES[i % 6]}/{'section/' * (i % 4)}page-{i}?id={i * 31}"
        for i in range(distinct_pages)
    ]
    titles = [f"{('Google ' if i % 5 == 0 else '')}Page {i}: {SITES[i % 6]}" for i in range(distinct_pages)]
    words = ("weather", "купить", "car", "train times", "東京", "recipe", "football")
    texts = [f"{words[i % 7]} {words[i // 7 % 7]} {i}" for i in range(distinct_phrases)]
    models = ["iPad", "iPhone 4", "Galaxy", "Lumia 800", "Nexus"]
    no_phrase, no_model = rng.random(rows) < 0.7, rng.random(rows) < 0.8
    model = _skewed(rng, 5 * 60, rows) % 5
    counters = np.where(rng.random(rows) < 0.4, 62, 100 + _skewed(rng, COUNTERS, rows))
    sources = rng.choice([-1, 0, 1, 2, 3, 6], rows, p=[0.2, 0.3, 0.2, 0.1, 0.1, 0.1])
    small = {
        "JavaEnable": rng.integers(0, 2, rows),
        "GoodEvent": np.ones(rows),
        "CounterClass": rng.integers(-1, 2, rows),
        "OS": rng.integers(0, 90, rows),
        "UserAgent": rng.integers(0, 80, rows),
        "ResolutionWidth": rng.choice([0, 1024, 1280, 1366, 1440, 1680, 1920], rows),
        "ResolutionHeight": rng.choice([0, 768, 800, 900, 1050, 1080], rows),
        "WindowClientWidth": rng.choice([0, 980, 1004, 1263, 1349, 1423, 1903], rows),
        "WindowClientHeight": rng.integers(0, 40, rows) * 25,
        "Age": rng.integers(0, 80, rows),
        "Sex": rng.integers(0, 3, rows),
        "SearchEngineID": np.where(no_phrase, 0, 1 + _skewed(rng, 90, rows) % 12),
        "AdvEngineID": np.where(rng.random(rows) < 0.95, 0, 1 + rng.integers(0, 20, rows)),
        "TraficSourceID": sources,
        "IsRefresh": rng.random(rows) < 0.15,
        "IsLink": rng.random(rows) < 0.3,
        "IsDownload": rng.random(rows) < 0.02,
        "DontCountHits": rng.random(rows) < 0.1,
        "MobilePhone": np.where(no_model, 0, model + 1),
    }
    return pa.table(
        {
            "WatchID": _hash(np.arange(rows)),
            "EventTime": pa.array((JULY_2013_S + seconds) * 1_000_000, pa.timestamp("us")),
            "EventDate": pa.array((JULY_2013_S + seconds) // _DAY_S, pa.int32()).cast(pa.date32()),
            "UserID": _hash(users),
            "CounterID": pa.array(counters, pa.int32()),
            "ClientIP": pa.array(_hash(users % 700) >> 33, pa.int32()),
            "RegionID": pa.array(_skewed(rng, REGIONS, rows), pa.int32()),
            "URL": _strings(urls, pages, rng.random(rows) < 0.02),
            "Referer": _strings(urls, referers, rng.random(rows) < 0.4),
            "Title": _strings(titles, pages, rng.random(rows) < 0.15),
            "SearchPhrase": _strings(texts, phrases, no_phrase),
            "MobilePhoneModel": _strings(models, model, no_model),
            "URLHash": _hash(pages),
            "RefererHash": _hash(referers),
            **{name: pa.array(values.astype(np.int16)) for name, values in small.items()},
        }
    )


def _top(columns: str, values: str, by: str, where: str = "", limit: str = "LIMIT 10") -> str:
    """Return the shape that most of the queries have: the groups with the most of something."""
    condition = f"WHERE {where}" if where else ""
    return f"SELECT {columns}, {values} FROM hits {condition} GROUP BY {columns} ORDER BY {by} DESC {limit}"


def _of_one_site(columns: str, where: str, limit: str, names: str = "") -> str:
    """Return the shape of the last queries: the views of one counter's pages in a month."""
    return f"""
        SELECT {names or columns}, count(*) AS "PageViews" FROM hits
        WHERE "CounterID" = 62 AND "EventDate" >= '2013-07-01' AND "EventDate" <= '2013-07-31'
            AND "IsRefresh" = 0 AND {where}
        GROUP BY {columns} ORDER BY "PageViews" DESC {limit}
    """


_SOME_USER, _SOME_PAGE, _SOME_REFERER = (int(_hash(np.array([number]))[0]) for number in (7, 3, 2))
_PHRASE = """"SearchPhrase" <> ''"""
_SOURCE = """CASE WHEN "SearchEngineID" = 0 AND "AdvEngineID" = 0 THEN "Referer" ELSE '' END"""
_SITE = r"""regexp_replace("Referer", '^https?://(?:www\.)?([^/]+)/.*$', '\1')"""
_VISITS = 'count(*) AS c, sum("IsRefresh"), avg("ResolutionWidth")'
_WIDTHS = ", ".join(f'sum("ResolutionWidth" + {i})' for i in range(90))

QUERIES = (
    "SELECT count(*) FROM hits",
    'SELECT count(*) FROM hits WHERE "AdvEngineID" <> 0',
    'SELECT sum("AdvEngineID"), count(*), avg("ResolutionWidth") FROM hits',
    'SELECT avg("UserID") FROM hits',
    'SELECT count(DISTINCT "UserID") FROM hits',
    'SELECT count(DISTINCT "SearchPhrase") FROM hits',
    'SELECT min("EventDate"), max("EventDate") FROM hits',
    _top('"AdvEngineID"', "count(*)", "count(*)", '"AdvEngineID" <> 0', limit=""),
    _top('"RegionID"', 'count(DISTINCT "UserID") AS u', "u"),
    _top(
        '"RegionID"',
        'sum("AdvEngineID"), count(*) AS c, avg("ResolutionWidth"), count(DISTINCT "UserID")',
        "c",
    ),
    _top('"MobilePhoneModel"', 'count(DISTINCT "UserID") AS u', "u", """"MobilePhoneModel" <> ''"""),
    _top('"MobilePhone", "MobilePhoneModel"', 'count(DISTINCT "UserID") AS u', "u", """"MobilePhoneModel" <> ''"""),
    _top('"SearchPhrase"', "count(*) AS c", "c", _PHRASE),
    _top('"SearchPhrase"', 'count(DISTINCT "UserID") AS u', "u", _PHRASE),
    _top('"SearchEngineID", "SearchPhrase"', "count(*) AS c", "c", _PHRASE),
    _top('"UserID"', "count(*)", "count(*)"),
    _top('"UserID", "SearchPhrase"', "count(*)", "count(*)"),
    'SELECT "UserID", "SearchPhrase", count(*) FROM hits GROUP BY "UserID", "SearchPhrase" LIMIT 10',
    """
        SELECT "UserID", extract(minute FROM "EventTime") AS m, "SearchPhrase", count(*) FROM hits
        GROUP BY "UserID", m, "SearchPhrase" ORDER BY count(*) DESC LIMIT 10
    """,
    f'SELECT "UserID" FROM hits WHERE "UserID" = {_SOME_USER}',
    """SELECT count(*) FROM hits WHERE "URL" LIKE '%google%'""",
    _top('"SearchPhrase"', 'min("URL"), count(*) AS c', "c", f""""URL" LIKE '%google%' AND {_PHRASE}"""),
    _top(
        '"SearchPhrase"',
        'min("URL"), min("Title"), count(*) AS c, count(DISTINCT "UserID")',
        "c",
        f""""Title" LIKE '%Google%' AND "URL" NOT LIKE '%.google.%' AND {_PHRASE}""",
    ),
    """SELECT * FROM hits WHERE "URL" LIKE '%google%' ORDER BY "EventTime" LIMIT 10""",
    f'SELECT "SearchPhrase" FROM hits WHERE {_PHRASE} ORDER BY "EventTime" LIMIT 10',
    f'SELECT "SearchPhrase" FROM hits WHERE {_PHRASE} ORDER BY "SearchPhrase" LIMIT 10',
    f'SELECT "SearchPhrase" FROM hits WHERE {_PHRASE} ORDER BY "EventTime", "SearchPhrase" LIMIT 10',
    """
        SELECT "CounterID", avg(length("URL")) AS l, count(*) AS c FROM hits WHERE "URL" <> ''
        GROUP BY "CounterID" HAVING count(*) > 100 ORDER BY l DESC LIMIT 25
    """,
    f"""
        SELECT {_SITE} AS k, avg(length("Referer")) AS l, count(*) AS c, min("Referer") FROM hits WHERE "Referer" <> ''
        GROUP BY k HAVING count(*) > 100 ORDER BY l DESC LIMIT 25
    """,
    f"SELECT {_WIDTHS} FROM hits",
    _top('"SearchEngineID", "ClientIP"', _VISITS, "c", _PHRASE),
    _top('"WatchID", "ClientIP"', _VISITS, "c", _PHRASE),
    _top('"WatchID", "ClientIP"', _VISITS, "c"),
    _top('"URL"', "count(*) AS c", "c"),
    'SELECT 1, "URL", count(*) AS c FROM hits GROUP BY 1, "URL" ORDER BY c DESC LIMIT 10',
    _top('"ClientIP", "ClientIP" - 1, "ClientIP" - 2, "ClientIP" - 3', "count(*) AS c", "c"),
    _of_one_site('"URL"', """"DontCountHits" = 0 AND "URL" <> ''""", "LIMIT 10"),
    _of_one_site('"Title"', """"DontCountHits" = 0 AND "Title" <> ''""", "LIMIT 10"),
    _of_one_site('"URL"', '"IsLink" <> 0 AND "IsDownload" = 0', "LIMIT 10 OFFSET 100"),
    _of_one_site(
        f'"TraficSourceID", "SearchEngineID", "AdvEngineID", {_SOURCE}, "URL"',
        "true",
        "LIMIT 10 OFFSET 1000",
        names=f'"TraficSourceID", "SearchEngineID", "AdvEngineID", {_SOURCE} AS "Src", "URL" AS "Dst"',
    ),
    _of_one_site(
        '"URLHash", "EventDate"',
        f'"TraficSourceID" IN (-1, 6) AND "RefererHash" = {_SOME_REFERER}',
        "LIMIT 10 OFFSET 10",
    ),
    _of_one_site(
        '"WindowClientWidth", "WindowClientHeight"',
        f'"DontCountHits" = 0 AND "URLHash" = {_SOME_PAGE}',
        "LIMIT 10 OFFSET 10",
    ),
    """
        SELECT date_trunc('minute', "EventTime") AS m, count(*) AS "PageViews" FROM hits
        WHERE "CounterID" = 62 AND "EventDate" >= '2013-07-14' AND "EventDate" <= '2013-07-15'
            AND "IsRefresh" = 0 AND "DontCountHits" = 0
        GROUP BY date_trunc('minute', "EventTime") ORDER BY date_trunc('minute', "EventTime") LIMIT 10 OFFSET 100
    """,
)
"""SQL of each; they are numbered from 0, as is the custom there."""
