"""All I/O goes through one seam: nothing else in the package reaches for a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.layers import PACKAGE, sources

ALLOWED = {
    "engine/allocator.py": {"ctypes"},  # glibc's own settings
    "engine/blas.py": {"read_text", "ctypes"},  # /proc/self/maps, and the BLAS that it names
    "engine/calibration.py": {  # what runs taught, in the user's cache folder: never an input or an output
        *("read_text", "os.open", "os.fstat", "os.read", "os.close", "os.listdir", "mkdir", "write_text"),
        "unlink",
    },
    "engine/limits.py": {"read_text"},  # /proc and /sys: the limits of this process
    "engine/device.py": {"ctypes"},  # the driver of NVIDIA, asked how many devices there are
    "engine/memory.py": {"read_bytes"},  # /proc/self/status
    "checkpoints/liveness.py": {"read_text", "readlink"},  # /proc: which processes there are
    "cli/failures.py": {"os.open", "os.close"},  # /dev/null for a stdout that is gone
    "cli/sources.py": {"tempfile"},  # where a bare `unmerge` has a merge made first, by way of the seam
    "operations/verification/compared.py": {
        "tempfile"
    },  # where base + adapter are merged, by way of the seam
    "reports/report.py": {"read_bytes", "write_bytes"},  # a plan's figures, not a Path's methods
    "reports/tables.py": {"read_bytes", "write_bytes"},  # the same
    "sample/heldout.py": {"read_text"},  # what the package brings
    "reports/costs/presets.py": {"read_text"},  # what the package brings
}
"""Whoever may reach past the seam: none of these is a verb's input or output."""

SEAM = "checkpoints/system.py"

OS = {
    "access", "chmod", "chown", "close", "copy_file_range", "fchmod", "fdatasync", "fdopen", "fstat", "fsync",
    "ftruncate", "fwalk", "link", "listdir", "lseek", "lstat", "makedirs", "mkdir", "mkfifo", "open",
    "posix_fallocate", "pread", "preadv", "pwrite", "pwritev", "read", "readlink", "readv", "remove",
    "removedirs", "rename", "renames", "replace", "rmdir", "scandir", "sendfile", "stat", "statvfs",
    "symlink", "sync", "truncate", "unlink", "utime", "walk", "write", "writev",
}  # fmt: skip
OS_PATH = {
    "exists", "getatime", "getctime", "getmtime", "getsize", "isdir", "isfile", "islink", "ismount",
    "lexists", "realpath", "samefile", "sameopenfile",
}  # fmt: skip
OF_A_PATH = {
    "chmod", "exists", "glob", "hardlink_to", "is_block_device", "is_char_device", "is_dir", "is_fifo",
    "is_file", "is_mount", "is_socket", "is_symlink", "iterdir", "lstat", "mkdir", "open",
    "read_bytes", "read_text", "readlink", "rename", "resolve", "rglob", "rmdir", "samefile", "stat",
    "symlink_to", "tofile", "touch", "unlink", "walk", "write_bytes", "write_text",
}  # fmt: skip
"""Methods of a Path, whatever the object is called (`replace` is also a string's, and is not told apart)."""

NUMPY = {"fromfile", "memmap", "loadtxt", "savetxt", "save", "savez", "load"}
FROM = {"os": OS, "os.path": OS_PATH, "io": {"open", "open_code", "FileIO"}, "np": NUMPY, "numpy": NUMPY}
MODULES = {"shutil", "tempfile", "glob", "mmap", "ctypes", "fcntl"}
ABOVE = {"files", "calls"}
"""Names whose methods of those names are ours: the room above the seam, and the seam itself."""


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain; `?` stands for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def reaches(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) for everything that goes to the system by itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = {name.name for name in node.names}
            if node.module in MODULES or names & FROM.get(node.module or "", set()):
                yield node.lineno, node.module
        elif isinstance(node, ast.Attribute):
            yield from _of_attribute(node)
        elif isinstance(node, ast.Call) and dotted(node.func) == "open":
            yield node.lineno, "open"


def _of_attribute(node: ast.Attribute) -> Iterator[tuple[int, str]]:
    owner = dotted(node.value)
    if owner in FROM:
        if node.attr in FROM[owner]:
            yield node.lineno, f"{owner}.{node.attr}"
    elif owner.rpartition(".")[2] not in ABOVE and node.attr in OF_A_PATH:
        yield node.lineno, node.attr


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_reaches_past_the_seam(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    if name == SEAM:
        return
    found = {what for _, what in reaches(ast.parse(path.read_text()))}
    assert found == ALLOWED.get(name, set()), f"{name} reaches for {found}"


@pytest.mark.parametrize(
    "line",
    [
        "os.lstat(x)", "os.path.realpath(x)", "x.read_bytes()", "path.parent.open()", "open(x)",
        "import shutil", "io.open(x)", "from os import unlink", "np.fromfile(x)", "call = x.stat",
        "from os.path import exists", "Path(x).resolve()", "from shutil import rmtree",
    ],
)  # fmt: skip
def test_who_reaches_past_it_is_found(line: str) -> None:
    assert list(reaches(ast.parse(line)))


@pytest.mark.parametrize(
    "line", ["files.exists(x)", "system.calls.open(x, 0)", "os.fspath(x)", "os.path.join(x)"]
)
def test_who_goes_through_it_is_not(line: str) -> None:
    assert not list(reaches(ast.parse(line)))
