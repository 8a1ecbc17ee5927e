"""The session: datafusion's ``SessionContext``, with a swarm behind it.

What belongs here: what users import and call. Where a query runs is decided in :mod:`apiary_df.session_swarm`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any

import datafusion
from datafusion import RuntimeEnvBuilder, SessionConfig

from apiary_df.config import Settings
from apiary_df.dataframe import DataFrame, giving_ours, methods_giving_frames, ours
from apiary_df.errors import ApiaryError, SqlError
from apiary_df.objects import register_object_store_for
from apiary_df.protocol.heartbeat import NodeView
from apiary_df.report import QueryReport
from apiary_df.session_swarm import SessionSwarm
from apiary_df.store_options import StoreOptions
from apiary_df.tables import install

_BUCKET_URL = re.compile(r"(?:s3|gs|az)://")
_LOCATION = re.compile(r"\blocation\s+'((?:s3|gs|az)://[^']+)'", re.IGNORECASE)
"""Where a ``CREATE EXTERNAL TABLE`` statement says that its files are."""


class SessionContext(datafusion.SessionContext):
    """A drop-in for ``datafusion.SessionContext`` whose queries run on a swarm.

    Without ``storage`` and ``nodes``, queries run in this process: a swarm of one. Everything that datafusion's session
    does still works; registrations, settings and DDL stay in this process.

    Args:
        config: datafusion's session configuration.
        runtime: datafusion's runtime configuration, for what runs in this process.
        storage: Folder or URL (``s3://bucket/prefix``) of the swarm to join.
        nodes: Start so many node processes of one bee each on this machine, on a temporary folder or under
            ``storage``; they stop when the session is closed.
        storage_options: How ``storage`` and cells are reached; unset ones come from the environment (``AWS_*``).
            They are never written to storage.
        swarm_key: The key that all processes of the swarm share (``apiary key`` makes one): what lies in storage is
            signed with it, and nothing else is taken. None: that of ``storage_options`` or of the environment
            (``APIARY_SWARM_KEY``, ``APIARY_SWARM_KEY_FILE``), if there is one.
        settings: Settings as one value; file, environment and ``overrides`` are not looked at for what it fixes.
        **overrides: Single settings by name (``timeout_s=10``); see :class:`apiary_df.config.Settings`.

    With ``verify=True`` every query that ran on the swarm is run by plain DataFusion too, in this process, and its
    answer is compared before the first row of it is handed over, by streaming methods as well. A difference raises
    :class:`~apiary_df.errors.AnswerDiffers`. ``last_query.verified`` says what was compared, and what was not since
    SQL leaves it open. It costs the time of both runs, and the memory of both whole answers (and of the answer without
    its LIMIT, where that chose among rows that are equal in the ORDER BY). ``timeout_s`` is the swarm's alone.

    Raises:
        ConfigError: If an option is unknown or makes no sense, or the URL's scheme is not known.
        StorageUnreachable: If ``storage`` cannot be reached or written.
        NodeStartFailed: If a node process does not come up.

    Example:
        >>> ctx = SessionContext()
        >>> ctx.sql("SELECT 1 + 1 AS two").to_pydict()
        {'two': [2]}
    """

    def __init__(
        self,
        config: SessionConfig | None = None,
        runtime: RuntimeEnvBuilder | None = None,
        *,
        storage: str | None = None,
        nodes: int | None = None,
        storage_options: StoreOptions | None = None,
        swarm_key: str | None = None,
        settings: Settings | None = None,
        **overrides: object,
    ) -> None:
        super().__init__(config, runtime)
        if swarm_key is not None:
            storage_options = replace(storage_options or StoreOptions(), swarm_key=swarm_key)
        self._swarm = SessionSwarm(
            self,
            storage=storage,
            nodes=nodes,
            options=storage_options,
            settings=settings,
            overrides=overrides,
        )
        self._cells_factory = install(self, storage_options)

    # -- life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the nodes that this session started. Queries that still run fail; closing twice does nothing."""
        self._swarm.close()

    def __enter__(self) -> SessionContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the swarm ----------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._swarm.settings

    @property
    def storage(self) -> str | None:
        """URL of the swarm's root; None if queries run in this process."""
        return self._swarm.storage

    @property
    def last_query(self) -> QueryReport | None:
        """What the newest query of this session did; None before the first."""
        return self._swarm.last_query

    def nodes(self) -> list[NodeView]:
        """Return the nodes of the swarm as they are now; none if queries run in this process.

        Raises:
            StorageError: If the heartbeats cannot be read.
        """
        return self._swarm.nodes()

    @property
    def refused(self) -> dict[str, int]:
        """How many objects below the swarm's root this session has not taken, by reason; those of nodes are theirs."""
        return self._swarm.refused()

    # -- queries ------------------------------------------------------------------------------------------------------

    def sql(self, query: str, options: Any = None, param_values: Any = None, **named_params: Any) -> DataFrame:
        """Return a query of SQL; DDL and settings take effect at once, as with datafusion.

        Args:
            query: One SQL statement.
            options: Which kinds of statement are allowed.
            param_values: Values of ``$name`` placeholders.
            **named_params: Values or tables of ``$name`` placeholders.

        Raises:
            SqlError: If it does not parse or bind; the message says where.
        """
        for url in _LOCATION.findall(query):
            register_object_store_for(self, url, self._swarm.store_options)
        try:
            with (
                self._cells_factory.statement(query),
                self._feeding(query, options, param_values, named_params) as text,
            ):
                frame = super().sql(text, options, param_values, **named_params)
        except ApiaryError:
            raise
        except Exception as error:
            raise SqlError(f"{error}; in: {_abbreviated(query)}", sql=_abbreviated(query)) from error
        self._swarm.statement_ran(self, query)
        result: DataFrame = ours(frame, self._swarm.runner(self))
        self._swarm.remember_sql(result, query)
        return result

    def _feeding(self, query: str, *given: Any) -> AbstractContextManager[str]:
        """Return what gives the statement to run; one with options or parameters is DataFusion's to run as it is."""
        return nullcontext(query) if any(given) else self._swarm.feeding(self, query)

    def sql_with_options(self, query: str, options: Any, param_values: Any = None, **named_params: Any) -> DataFrame:
        """As :meth:`sql`, with the options required."""
        return self.sql(query, options, param_values, **named_params)

    def enable_spark_functions(self) -> None:
        """Replace functions by Spark's of the same names; from here on, this session's queries run in this process."""
        super().enable_spark_functions()
        self._swarm.spark_functions_enabled()

    def register_object_store(self, schema: str, store: Any, host: str | None = None) -> None:
        """Add an object store, for this process and for planning. Nodes reach cells by their own options."""
        super().register_object_store(schema, store, host)
        self._swarm.object_store_registered(schema, store, host)


def _abbreviated(sql: str, most: int = 200) -> str:
    line = " ".join(sql.split())
    return line if len(line) <= most else line[:most] + " …"


def _keep_swarm(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method that returns another handle on the same session, so that the handle keeps the swarm."""

    @functools.wraps(method)
    def wrapper(self: SessionContext, *args: Any, **kwargs: Any) -> Any:
        handle = method(self, *args, **kwargs)
        if not isinstance(handle, SessionContext):
            # Some of datafusion's methods make a session of their own class, whatever they are called on.
            handle, internal = type(self).__new__(type(self)), handle.ctx
            handle.ctx = internal
        handle._swarm = self._swarm
        handle._cells_factory = self._cells_factory
        return handle

    return wrapper


def _reaching(method: Callable[..., Any], position: int) -> Callable[..., Any]:
    """Wrap a method that takes a path, so that a bucket's URL is reached by the session's own storage options."""

    @functools.wraps(method)
    def wrapper(self: SessionContext, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("path", args[position] if len(args) > position else None)
        for path in given if isinstance(given, (list, tuple)) else [given]:
            if _BUCKET_URL.match(str(path)):
                register_object_store_for(self, str(path), self._swarm.store_options)
        return method(self, *args, **kwargs)

    return wrapper


for _name, _method in methods_giving_frames(datafusion.SessionContext, SessionContext):
    setattr(SessionContext, _name, giving_ours(_method, lambda self: self._swarm.runner(self)))
for _format in ("parquet", "csv", "json", "avro", "arrow"):
    for _name, _position in ((f"register_{_format}", 1), (f"read_{_format}", 0)):
        setattr(SessionContext, _name, _reaching(getattr(SessionContext, _name), _position))
SessionContext.register_listing_table = _reaching(  # type: ignore[method-assign]
    SessionContext.register_listing_table, 1
)
for _name in (
    "enable_url_table",
    "with_extensions",
    "with_logical_extension_codec",
    "with_physical_extension_codec",
    "with_python_udf_inlining",
):
    setattr(SessionContext, _name, _keep_swarm(getattr(datafusion.SessionContext, _name)))
