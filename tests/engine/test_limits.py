"""Processors and memory left, from files as the kernel writes them: a folder stands for the root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loratools.engine import limits

MIB = 2**20
MEMINFO = "MemTotal:       8388608 kB\nMemFree:         100000 kB\nMemAvailable:   4194304 kB\n"
UNIFIED = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
SPLIT = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def machine(root: Path, files: dict[str, str]) -> Path:
    """A root folder with such files."""
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(folder: str, **files: str) -> dict[str, str]:
    return {f"sys/fs/cgroup{folder}/{name.replace('__', '.')}": text for name, text in files.items()}


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def v2(*groups: dict[str, str], place: str = "/a/b", mounts: str = UNIFIED) -> dict[str, str]:
    files = {"proc/self/cgroup": f"0::{place}\n", "proc/self/mountinfo": mounts}
    for one in groups:
        files |= one
    return files


CASES = {
    "no groups": ({}, 8, 4096 * MIB),
    "v2": (
        v2(group("/a/b", cpu__max="200000 100000\n", memory__max=f"{1024 * MIB}\n", memory__current="0\n")),
        2,
        1024 * MIB,
    ),
    "v2, max": (v2(group("/a/b", cpu__max="max 100000\n", memory__max="max\n")), 8, 4096 * MIB),
    "v2, a parent is narrower": (
        v2(
            group("/a/b", cpu__max="400000 100000\n", memory__max=f"{2048 * MIB}\n", memory__current="0"),
            group("/a", cpu__max="150000 100000\n", memory__max=f"{512 * MIB}\n", memory__current="0"),
        ),
        2,
        512 * MIB,
    ),
    "v2, the root of a container": (
        v2(group("", cpu__max="100000 100000", memory__max=f"{256 * MIB}", memory__current="0"), place="/"),
        1,
        256 * MIB,
    ),
    "v2, the host's path in a container": (
        v2(
            group("", memory__max=f"{256 * MIB}", memory__current=f"{6 * MIB}"),
            place="/docker/1234",
            mounts=UNIFIED.replace(" / /sys", " /docker/1234 /sys"),
        ),
        8,
        250 * MIB,
    ),
    "v2, what is used counts and what is cached does not": (
        v2(
            group(
                "/a/b",
                memory__max=f"{1000 * MIB}",
                memory__current=f"{900 * MIB}",
                memory__stat=f"anon 1\ninactive_file {300 * MIB}\nactive_file {200 * MIB}\nfile 9\n",
            )
        ),
        8,
        600 * MIB,
    ),
    "v2, less than a processor": (v2(group("/a/b", cpu__max="20000 100000")), 1, 4096 * MIB),
    "v1": (
        {
            "proc/self/cgroup": "4:memory:/job\n2:cpu,cpuacct:/job\n0::/\n",
            "proc/self/mountinfo": SPLIT,
            **group("/cpu,cpuacct/job", cpu__cfs_quota_us="300000\n", cpu__cfs_period_us="100000\n"),
            **group(
                "/memory/job",
                memory__limit_in_bytes=f"{800 * MIB}\n",
                memory__usage_in_bytes=f"{500 * MIB}\n",
                memory__stat=f"inactive_file 1\ntotal_inactive_file {100 * MIB}\ntotal_active_file 0\n",
            ),
        },
        3,
        400 * MIB,
    ),
    "v1, no limits": (
        {
            "proc/self/cgroup": "4:memory:/job\n2:cpu,cpuacct:/job\n",
            "proc/self/mountinfo": SPLIT,
            **group("/cpu,cpuacct/job", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n"),
            **group("/memory/job", memory__limit_in_bytes="9223372036854771712\n"),
        },
        8,
        4096 * MIB,
    ),
    "v1 for memory, v2 beside it": (
        {
            "proc/self/cgroup": "4:memory:/job\n0::/\n",
            "proc/self/mountinfo": SPLIT + UNIFIED.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "),
            **group("/memory", memory__limit_in_bytes=f"{64 * MIB}", memory__usage_in_bytes="0"),
            **group("/unified", cpu__max="max 100000"),
        },
        8,
        64 * MIB,
    ),
    "used up": (v2(group("/a/b", memory__max="1000", memory__current="5000")), 8, 0),
    "malformed": (
        {
            "proc/self/cgroup": "nonsense\n0::relative\n0::/a/b\n::::\n",
            "proc/self/mountinfo": "short\n" + UNIFIED + "31 23 - cgroup2\n",
            **group("/a/b", cpu__max="two of them", memory__max="-5", memory__current="³"),
        },
        8,
        4096 * MIB,
    ),
    "a period of zero": (v2(group("/a/b", cpu__max="100 0")), 8, 4096 * MIB),
    "a path that climbs out": (
        v2(group("", memory__max=f"{MIB}", memory__current="0"), place="/../../etc"), 8, MIB,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "count", "left"), CASES.values(), ids=CASES)
def test_the_least_of_all_limits_holds(files: dict[str, str], count: int, left: int, tmp_path: Path) -> None:
    root = machine(tmp_path, files)
    assert limits.processors(root) == count
    assert limits.memory_left(root) == left


def test_affinity_is_narrower_than_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert limits.processors(machine(tmp_path, v2(group("/a/b", cpu__max="400000 100000")))) == 1


def test_a_system_without_proc_or_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert limits.processors(tmp_path) == 3
    assert limits.memory_left(tmp_path) is None
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert limits.processors(tmp_path) == 1


def test_this_machine_says_something() -> None:
    assert limits.processors() >= 1
    left = limits.memory_left()
    assert left is None or left > 0
