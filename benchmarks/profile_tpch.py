"""Where the CPU seconds of TPC-H on a swarm go, query by query, against single-process DataFusion.

    python -m benchmarks.profile_tpch --scale 1 --nodes 2 --queries 17,18

CPU milliseconds of the session, the nodes and their bees by phase. Unlike wall time they mean something on a busy
machine, too; but what waits on a clock (``nodes``, ``wait``) grows with the wall time that others cause.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import datafusion
import msgspec
import typer
from rich.console import Console
from rich.table import Table

import apiary_df
from apiary_df.demo import tpch_queries
from apiary_df.demo.data import generate_tpch, tpch_paths
from apiary_df.machine import detect_machine
from apiary_df.swarm import MEMORY_SHARE
from apiary_df.units import format_bytes
from benchmarks.harness import BENCH_FOLDER, NODES_OPTION_HELP, open_single, register_tables, write_json
from benchmarks.phases import BEE_PHASES, SESSION_PHASES, JobPhases, Meter

ENGINE = "engine"
ROOT = "root and rest"
NODES = "nodes"
LONGEST = "longest"

TABLE_WIDTH = 220

console = Console(width=TABLE_WIDTH)


@dataclass(slots=True, kw_only=True)
class Profile:
    """What one query took. All but ``*_wall_s`` are CPU seconds, of the best run.

    Attributes:
        number: The query.
        single_s: In the single process.
        single_wall_s: Its wall time.
        swarm_s: In all processes of the swarm.
        swarm_wall_s: Its wall time.
        longest_s: Over the levels of its stages, the busiest bee's: what could not be done at the same time.
        levels: How many levels that are.
        phases: By phase.
        stored_bytes: Bytes of all partials.
    """

    number: int
    single_s: float = float("inf")
    single_wall_s: float = float("inf")
    swarm_s: float = float("inf")
    swarm_wall_s: float = float("inf")
    longest_s: float = 0.0
    levels: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    stored_bytes: int = 0


class Nodes:
    """Node processes that measure themselves.

    Args:
        folder: Root of the swarm, and of what the bees leave.
        count: How many, of one bee each.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        share = int(detect_machine().memory_bytes * MEMORY_SHARE / count)
        command = [sys.executable, "-m", "benchmarks.phases", str(folder), "node", "--storage", str(folder / "root")]
        command += ["--bees", "1", "--memory", str(share), "--while-stdin", "--allow-root", "/"]
        self._processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(count)]

    def close(self) -> None:
        """End them."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()

    def check(self) -> None:
        """Raise if one has ended.

        Raises:
            RuntimeError: If so. What it had to say is on the standard error output.
        """
        if any(process.poll() is not None for process in self._processes):
            raise RuntimeError("a node process has ended by itself; see above why")

    def cpu_s(self) -> float:
        """CPU seconds of all of them and their bees, so far."""
        return sum(_cpu_s(pid) for process in self._processes for pid in _tree(process.pid))

    def jobs(self, query_id: str) -> list[JobPhases]:
        """Return what the bees have noted of a query's jobs."""
        lines = [line for path in self._folder.glob("jobs-*.jsonl") for line in path.read_bytes().splitlines()]
        jobs = (msgspec.json.decode(line, type=JobPhases) for line in lines)
        return [job for job in jobs if job.query == query_id]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What is compared, and what measures it."""

    swarm: apiary_df.SessionContext
    single: datafusion.SessionContext
    nodes: Nodes
    meter: Meter

    def profile(self, number: int, repeat: int) -> Profile:
        """Run a query on both so many times in turn, after once to warm up."""
        sql = tpch_queries()[number]
        profile = Profile(number=number)
        for _ in range(repeat + 1):
            single_s, wall_s = _measured(lambda: self.single.sql(sql).to_arrow_table())
            profile.single_s = min(profile.single_s, single_s)
            profile.single_wall_s = min(profile.single_wall_s, wall_s)
            self.meter.take()
            before_s = self.nodes.cpu_s()
            session_s, wall_s = _measured(lambda: self.swarm.sql(sql).to_arrow_table())
            nodes_s = self.nodes.cpu_s() - before_s
            profile.swarm_wall_s = min(profile.swarm_wall_s, wall_s)
            if session_s + nodes_s < profile.swarm_s:
                profile.swarm_s = session_s + nodes_s
                self._note(profile, session_s, nodes_s)
        return profile

    def _note(self, profile: Profile, session_s: float, nodes_s: float) -> None:
        """Take down what the last query took, by phase."""
        phases: defaultdict[str, float] = defaultdict(float, self.meter.take())
        phases[ROOT] = max(0.0, session_s - sum(phases.values()))
        report = self.swarm.last_query
        jobs = self.nodes.jobs(report.query_id) if report is not None else []
        for job in jobs:
            for phase, seconds in job.phases.items():
                phases[phase] += seconds
            phases[ENGINE] += job.engine_s
        phases[NODES] = max(0.0, nodes_s - sum(job.cpu_s for job in jobs))
        profile.phases = dict(phases)
        profile.levels, profile.longest_s = _longest(jobs)
        profile.stored_bytes = report.bytes_through_storage if report is not None else 0


def main(  # noqa: PLR0917 - the options of a command
    scale: Annotated[float, typer.Option(help="TPC-H scale factor.")] = 1.0,
    nodes: Annotated[int, typer.Option(min=1, help=NODES_OPTION_HELP)] = 2,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each engine, after one to warm up.")] = 3,
    queries: Annotated[str, typer.Option(help="Numbers with commas between; all if empty.")] = "",
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="DataFusion option.")] = None,
) -> None:
    """Profile TPC-H on a swarm over a folder."""
    numbers = [int(word) for word in queries.split(",")] if queries else list(tpch_queries())
    data = BENCH_FOLDER / f"tpch-{scale:g}-1"
    generate_tpch(data, scale)
    tables = {name: str(path.resolve()) for name, path in tpch_paths(data).items()}
    meter = Meter()
    meter.wrap(SESSION_PHASES)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apiary-profile-")))
        measured_nodes = Nodes(folder, nodes)
        stack.callback(measured_nodes.close)
        swarm = stack.enter_context(apiary_df.SessionContext(storage=str(folder / "root"), progress=False))
        while len(swarm.nodes()) < nodes:
            measured_nodes.check()
            time.sleep(0.05)
        single = open_single(nodes)
        for ctx in (swarm, single):
            register_tables(ctx, tables)
            for option in set_ or ():
                ctx.sql(f"SET {option.replace('=', ' = ', 1)}")
        engines = Engines(swarm=swarm, single=single, nodes=measured_nodes, meter=meter)
        profiles = [engines.profile(number, repeat) for number in numbers]
    console.print(_table(profiles, f"CPU ms, TPC-H scale {scale:g}, {nodes} nodes of one bee, folder"))
    if json is not None:
        write_json(json, {"benchmark": "profile_tpch", "scale": scale, "nodes": nodes, "queries": profiles})


def _measured(run: Callable[[], object]) -> tuple[float, float]:
    """Run something; returns CPU and wall seconds that it took in this process."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu_s, time.perf_counter() - wall_s


def _longest(jobs: Sequence[JobPhases]) -> tuple[int, float]:
    """Return the levels of a query's stages, and over them the CPU seconds of each one's busiest bee."""
    inputs: defaultdict[int, set[int]] = defaultdict(set)
    for job in jobs:
        inputs[job.stage].update(job.inputs)
    level: dict[int, int] = {}
    for stage in sorted(inputs):
        level[stage] = 1 + max((level.get(below, 0) for below in inputs[stage]), default=0)
    busy: defaultdict[int, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
    for job in jobs:
        busy[level[job.stage]][job.bee] += job.cpu_s
    return len(busy), sum(max(bees.values()) for bees in busy.values())


def _table(profiles: Sequence[Profile], title: str) -> Table:
    phases = (ENGINE, *BEE_PHASES, NODES, *SESSION_PHASES, ROOT)
    table = Table(title=title, pad_edge=False, padding=(0, 0, 0, 1))
    for name in ("", "single", "swarm", "ratio", "single/2", LONGEST, "levels", *phases, "stored"):
        table.add_column(name, justify="right")

    def row(name: str, chosen: Sequence[Profile]) -> None:
        single_s, swarm_s = sum(p.single_s for p in chosen), sum(p.swarm_s for p in chosen)
        longest_s = sum(p.longest_s for p in chosen)
        by_phase = (sum(p.phases.get(phase, 0.0) for p in chosen) for phase in phases)
        table.add_row(
            name,
            *(f"{s * 1000:.0f}" for s in (single_s, swarm_s)),
            f"{swarm_s / single_s:.2f}",
            *(f"{s * 1000:.0f}" for s in (single_s / 2, longest_s)),
            str(sum(p.levels for p in chosen)),
            *(f"{s * 1000:.0f}" for s in by_phase),
            format_bytes(sum(p.stored_bytes for p in chosen)),
        )

    for profile in profiles:
        row(f"Q{profile.number}", [profile])
    row("total", profiles)
    return table


def _tree(pid: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue
        for child in found:
            yield from _tree(int(child))


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    typer.run(main)
