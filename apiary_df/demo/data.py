"""TPC-H data for the demo and the benchmarks, made by the generator from the `demo` extra.

Here belongs what runs the generator and finds what it made. Queries, sessions and uploads do not.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from apiary_df.demo import TPCH_TABLES
from apiary_df.errors import ConfigError, TableError

_GENERATOR = "tpchgen-cli"
_MARKER = "tpch.json"
"""Written last: a folder with it holds all eight tables, complete."""

_UNFINISHED_MARKER = "tpch.unfinished.json"
"""Written first: what else lies in such a folder was made here, and may be made again."""


def generate_tpch(folder: Path, scale: float, parts: int = 1) -> None:
    """Make the folder hold the eight TPC-H tables as Parquet at this scale.

    Does nothing if they are there already, of this scale, in as many parts, by this version of the generator.
    Tables that an earlier call left there in another shape, or unfinished, are replaced.

    Args:
        folder: Where the tables go; made if absent.
        scale: Scale factor, > 0; at 1 the tables are about 0.35 GB of Parquet.
        parts: Files per table, >= 1: with 1 a table is `{name}.parquet`, else a folder `{name}` of files.

    Raises:
        ConfigError: The scale or the parts make no sense, the generator is not installed, or the folder holds
            something that no earlier call put there.
        TableError: The generator failed; the message has its words.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigError(f"TPC-H scale must be a number above 0, got {scale}", scale=scale)
    if parts < 1:
        raise ConfigError(f"TPC-H tables need at least 1 part each, got parts={parts}", parts=parts)
    command = _find_generator()
    version = _run([command, "--version"], folder).strip()
    wanted = {"scale": float(scale), "parts": parts, "generator": version}
    marker, unfinished = folder / _MARKER, folder / _UNFINISHED_MARKER
    if _read_marker(marker) == wanted:
        return
    _clear(folder)
    unfinished.write_text(json.dumps(wanted), encoding="utf-8")
    marker.unlink(missing_ok=True)
    _run(
        [command, "parquet", "-s", repr(float(scale)), f"--output-dir={folder}", "--quiet", "--overwrite"]
        + ([f"--parts={parts}"] if parts > 1 else []),
        folder,
    )
    tpch_paths(folder)
    unfinished.replace(marker)


def tpch_paths(folder: Path) -> dict[str, Path]:
    """Return where each of the eight tables lies in a folder that :func:`generate_tpch` filled.

    Returns:
        Table name to a Parquet file, or to a folder of Parquet files.

    Raises:
        TableError: A table is not there.
    """
    paths: dict[str, Path] = {}
    for table in TPCH_TABLES:
        found = [p for p in (folder / f"{table}.parquet", folder / table) if p.exists()]
        if not found:
            raise TableError(
                f"looked for TPC-H table {table!r} in {folder}: neither {table}.parquet nor a folder "
                f"{table} is there; generate the data again",
                table=table,
                folder=folder,
            )
        paths[table] = found[0]
    return paths


def _find_generator() -> str:
    """Return the generator of the running environment, else the one on PATH."""
    own = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    found = shutil.which(_GENERATOR, path=os.pathsep.join(own)) or shutil.which(_GENERATOR)
    if found is None:
        raise ConfigError(
            f"making TPC-H data needs the command {_GENERATOR}, which is neither in {own[0]} nor on PATH; "
            "install it with: pip install 'apiary-df[demo]'",
            command=_GENERATOR,
        )
    return found


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"could not start {command[0]}: {error}; install it again", command=command[0]) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or "nothing"
        raise TableError(
            f"making TPC-H data in {folder}: {' '.join(command)} ended with code {done.returncode} and said: {said}",
            folder=folder,
            exit_code=done.returncode,
        )
    return done.stdout


def _read_marker(marker: Path) -> object:
    try:
        return json.loads(marker.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _clear(folder: Path) -> None:
    """Make the folder, and take away the tables of an earlier call.

    Raises:
        ConfigError: The folder is somebody else's: it has files and no marker, or it is no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make a folder at {folder} for TPC-H data: {error}", folder=folder) from error
    ours = (folder / _MARKER).exists() or (folder / _UNFINISHED_MARKER).exists()
    if not ours and any(folder.iterdir()):
        raise ConfigError(
            f"folder {folder} holds files that are no TPC-H data of an earlier call; name an empty folder",
            folder=folder,
        )
    for table in TPCH_TABLES:
        (folder / f"{table}.parquet").unlink(missing_ok=True)
        shutil.rmtree(folder / table, ignore_errors=True)
