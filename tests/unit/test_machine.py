from __future__ import annotations

import os
from pathlib import Path

import pytest

from apiary_df.errors import ConfigError
from apiary_df.machine import Machine, detect_machine, load_settings
from apiary_df.units import MIB

OWN_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
OWN_MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
OWN = Machine(cores=OWN_CORES, memory_bytes=OWN_MEMORY_BYTES, source="this machine")
UNLIMITED_V1 = str(2**63 - 4096)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_machine_without_cgroup_is_taken_as_it_is(tmp_path: Path) -> None:
    assert detect_machine(tmp_path) == OWN


def test_cgroup_v2_limits_cores_and_memory(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/cpu.max": "100000 100000",
            "sys/fs/cgroup/memory.max": str(512 * MIB),
        },
    )
    assert detect_machine(root) == Machine(cores=1, memory_bytes=512 * MIB, source="cgroup v2")


def test_group_around_the_own_one_limits_too(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer.slice/inner.scope",
            "sys/fs/cgroup/outer.slice/memory.max": str(64 * MIB),
            "sys/fs/cgroup/outer.slice/inner.scope/memory.max": str(512 * MIB),
        },
    )
    assert detect_machine(root).memory_bytes == 64 * MIB


def test_v2_without_limits_leaves_the_machine(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/cpu.max": "max 100000",
            "sys/fs/cgroup/memory.max": "max",
        },
    )
    assert detect_machine(root) == OWN


def test_share_of_a_core_counts_as_one(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"})
    assert detect_machine(root).cores == 1


def test_quota_above_the_machine_gives_no_cores(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "99900000 100000"})
    assert detect_machine(root) == OWN


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_cgroup_v1_limits_cores_and_memory(tmp_path: Path, mount: str) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n0::/job",
            f"sys/fs/cgroup/{mount}/job/cpu.cfs_quota_us": "100000",
            f"sys/fs/cgroup/{mount}/job/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(256 * MIB),
        },
    )
    assert detect_machine(root) == Machine(cores=1, memory_bytes=256 * MIB, source="cgroup v1")


def test_cgroup_v1_seen_from_inside_a_container_is_the_mount_itself(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/0123abc",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(256 * MIB),
        },
    )
    assert detect_machine(root).memory_bytes == 256 * MIB


def test_cgroup_v1_without_limits_leaves_the_machine(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n3:cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
        },
    )
    assert detect_machine(root) == OWN


def test_source_says_both_where_they_differ(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": str(64 * MIB)})
    assert detect_machine(root).source == "cores: this machine, memory: cgroup v2"


@pytest.mark.parametrize("nonsense", ["", "0", "soup", "-5", "1 2 3"])
def test_unreadable_limit_is_no_limit(tmp_path: Path, nonsense: str) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "what\n0::/",
            "sys/fs/cgroup/cpu.max": nonsense,
            "sys/fs/cgroup/memory.max": nonsense,
        },
    )
    assert detect_machine(root) == OWN


def test_settings_file_comes_from_the_argument_before_the_environment(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.toml", tmp_path / "theirs.toml"
    ours.write_text("local_bees = 1")
    theirs.write_text("local_bees = 2")
    environ = {"APIARY_CONFIG": str(theirs)}
    assert load_settings(None, environ).local_bees == 2
    assert load_settings(ours, environ).local_bees == 1


def test_environment_and_arguments_go_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("local_bees = 1\nmax_attempts = 2\ntimeout_s = 3")
    settings = load_settings(file, {"APIARY_MAX_ATTEMPTS": "5", "APIARY_TIMEOUT_S": "6"}, timeout_s=7)
    assert (settings.local_bees, settings.max_attempts, settings.timeout_s) == (1, 5, 7)


def test_settings_file_in_the_working_folder_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apiary.toml").write_text("local_bees = 1")
    monkeypatch.chdir(tmp_path)
    assert load_settings(None, {}).local_bees == 0


def test_absent_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the settings file .*absent\.toml: No such file"):
        load_settings(tmp_path / "absent.toml", {})


def test_wrong_line_of_a_settings_file_is_reported_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("loca_bees = 1")
    with pytest.raises(ConfigError, match=r"a\.toml: unknown setting 'loca_bees'.*did you mean 'local_bees'"):
        load_settings(file, {})
