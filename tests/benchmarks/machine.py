"""The machine that the figures were measured on: processors, memory, disk, and versions of what counts.

python tests/benchmarks/machine.py --write
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.campaign_figures import Figures

PACKAGES = ("loratools", "torch", "numpy", "safetensors", "blake3", "transformers", "peft")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    rows = [
        ("processors", f"{len(os.sched_getaffinity(0))}, {_field('/proc/cpuinfo', 'model name')}"),
        ("memory", f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) * 1024 / 1e9:.0f} GB"),
        ("file system", _file_system(Path(tempfile.gettempdir()))),
        ("system", f"{platform.system()} on {platform.machine()}, Python {platform.python_version()}"),
        ("packages", ", ".join(found for name in PACKAGES if (found := _version(name)))),
    ]
    figures = Figures("python tests/benchmarks/machine.py --write", ("what", "measured on"), rows)
    print(figures.markdown())
    if options.write:
        figures.write("machine")


def _field(file: str, name: str) -> str:
    """The first value of that name in a file of `name: value` lines."""
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _file_system(folder: Path) -> str:
    """The kind that holds a folder: that of the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    above = [(len(point), kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(above)[1]


def _version(package: str) -> str | None:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
