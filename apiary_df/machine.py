"""What the surroundings of this process allow and say: cores, memory, where its settings come from and its cache goes.

What belongs here: reading the operating system, the cgroup and the settings file. What does not: what is done with
it: bounds and defaults are in ``config``, the division among bees is the node's.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from apiary_df.config import Settings
from apiary_df.errors import ConfigError
from apiary_df.units import GIB

CONFIG_VARIABLE = "APIARY_CONFIG"
"""Environment variable with the path of the settings file."""

ASSUMED_MEMORY_BYTES = 2 * GIB
"""Taken where the system does not say how much memory it has: little, so that a wrong guess does no harm."""

_V1_CORES, _V1_MEMORY = "cpu", "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this process may use.

    Attributes:
        cores: Whole CPU cores, >= 1.
        memory_bytes: Memory in bytes, >= 1.
        source: Where the two come from, for a person.
    """

    cores: int
    memory_bytes: int
    source: str


def detect_machine(root: Path = Path("/")) -> Machine:
    """Return the cores and the memory that this process may use.

    The limits of its cgroup (version 2 or 1, its own and those of the groups around it) count where they are
    lower than what the machine has; a share of a core is rounded down, since a bee keeps a whole one busy.

    Args:
        root: Folder that holds ``proc`` and ``sys``; another than ``/`` only in tests.
    """
    cores, cores_from = _own_cores(), "this machine"
    memory_bytes, memory_from = _own_memory_bytes()
    for name, group, limits in _cgroups(root):
        quota = _quota_cores(group) if _V1_CORES in limits else None
        if quota is not None and max(1, int(quota)) <= cores:
            cores, cores_from = max(1, int(quota)), name
        limit = _memory_limit(group) if _V1_MEMORY in limits else None
        # A limit of 0 is a group that is being set up; nothing could run below it.
        if limit is not None and 0 < limit < memory_bytes:
            memory_bytes, memory_from = limit, name
    source = cores_from if cores_from == memory_from else f"cores: {cores_from}, memory: {memory_from}"
    return Machine(cores=cores, memory_bytes=memory_bytes, source=source)


@functools.cache
def usable_cores() -> int:
    """Return the whole cores that this process may use, as they were when that was first asked."""
    return detect_machine().cores


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Return the settings of file, environment and arguments; what comes later in this list wins.

    A file is read only if it is named, here or in the environment: what happens to lie in the working folder
    must not change how an application works.

    Args:
        path: A TOML file; None: the one that ``APIARY_CONFIG`` names, if any.
        environ: The environment; None: this process's.
        **overrides: Settings by name.

    Raises:
        ConfigError: The file cannot be read or is not TOML, or a name or a value in any of the three is wrong.
    """
    environ = os.environ if environ is None else environ
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    if path is None:
        return Settings.load(environ, None, **overrides)
    try:
        document = path.expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}", path=path) from error
    try:
        Settings.load({}, document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", **{**error.details, "path": path}) from error
    return Settings.load(environ, document, **overrides)


def _own_cores() -> int:
    # The affinity mask holds what a cpuset or taskset leaves of the machine; not every system has one.
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _own_memory_bytes() -> tuple[int, str]:
    try:
        size_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return ASSUMED_MEMORY_BYTES, "assumed"
    return (size_bytes, "this machine") if size_bytes > 0 else (ASSUMED_MEMORY_BYTES, "assumed")


def _cgroups(root: Path) -> Iterator[tuple[str, Path, frozenset[str]]]:
    """Yield name, folder and controllers of every cgroup that limits this process, its own and all above."""
    mount = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            # With version 1 mounted beside it, version 2 lies in a folder of its own and limits nothing.
            yield from _chain("cgroup v2", mount, path, frozenset({_V1_CORES, _V1_MEMORY}))
            continue
        for controller in frozenset(controllers.split(",")) & {_V1_CORES, _V1_MEMORY}:
            folders = (mount / controllers, mount / controller)
            folder = next((f for f in folders if f.is_dir()), None)
            if folder is not None:
                yield from _chain("cgroup v1", folder, path, frozenset({controller}))


def _chain(name: str, mount: Path, path: str, limits: frozenset[str]) -> Iterator[tuple[str, Path, frozenset[str]]]:
    group = mount
    yield name, group, limits
    # A container sees the path that its host knows but only its own part of the tree: then the mount is the group.
    for part in path.strip("/").split("/"):
        group = group / part
        if part in ("", "..") or not group.is_dir():
            return
        yield name, group, limits


def _quota_cores(group: Path) -> float | None:
    unified = (_read(group / "cpu.max") or "").split()
    if len(unified) == 2:
        return _ratio(*unified)
    return _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _ratio(quota: str | None, period: str | None) -> float | None:
    """Return quota over period; None if there is no quota, which is written "max" or -1."""
    quota_us, period_us = _number(quota), _number(period)
    if quota_us is None or not period_us or quota_us <= 0:
        return None
    return quota_us / period_us


def _memory_limit(group: Path) -> int | None:
    unified = _number(_read(group / "memory.max"))
    return unified if unified is not None else _number(_read(group / "memory.limit_in_bytes"))


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def cache_folder(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the cell cache: as set, or where this machine's user keeps such things.

    Args:
        settings: Settings.
        environ: The environment; the process's own if None.
    """
    if settings.cache_dir is not None:
        return Path(settings.cache_dir).expanduser()
    variables = os.environ if environ is None else environ
    given = variables.get("XDG_CACHE_HOME")
    try:
        base = Path(given).expanduser() if given else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        base = Path(tempfile.gettempdir()) / f"user-{os.getuid()}"
    return base / "apiary_df" / "cells"
