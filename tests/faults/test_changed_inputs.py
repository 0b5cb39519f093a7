"""An input that shrinks, grows, changes or is replaced while it is read: found, and nothing published."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.fault_runs import RUNS, Outcome, Run, loratools, tree, write_inputs
from loratools.checkpoints import system


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    write_inputs(folder)
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))  # long ago: no tick of a clock is shared
    return folder


class Meanwhile(system.System):
    """Does something to a file after the n-th read of it."""

    def __init__(self, path: Path, after: int, act: Callable[[Path], None]) -> None:
        self._path, self._after, self._act = os.path.realpath(path), after, act
        self._handles: set[int] = set()
        self.reads = 0

    def open(self, path: system.Place, flags: int, mode: int = 0o666, *, within: int | None = None) -> int:
        handle = super().open(path, flags, mode, within=within)
        self._handles.discard(handle)
        if os.path.realpath(path) == self._path:
            self._handles.add(handle)
        return handle

    def read_at(self, handle: int, buffer: memoryview, offset: int) -> int:
        got = super().read_at(handle, buffer, offset)
        if handle in self._handles:
            self.reads += 1
            if self.reads == self._after:
                self._act(Path(self._path))
        return got

    @contextmanager
    def installed(self) -> Iterator[None]:
        plain, system.calls = system.calls, self
        try:
            yield
        finally:
            system.calls = plain


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def change(path: Path) -> None:
    """Other numbers in the last quarter, in place."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - size // 4)
        file.write(bytes(size // 4))


def be_replaced(path: Path) -> None:
    """Another file of the same length, and with the same time, takes the name."""
    found = path.stat()
    other = path.with_name("other")
    shutil.copyfile(path, other)
    change(other)
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)


def rewritten(path: Path) -> None:
    """In place and with its old time: only who reads it twice can tell."""
    found = path.stat()
    change(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


INPUTS = {
    "extract": ("base/model.safetensors", "tuned/model.safetensors"),
    "merge": ("base/model.safetensors", "adapter/adapter_model.safetensors"),
    "merge --undo": ("shards/model-00001-of-00002.safetensors", "adapter/adapter_model.safetensors"),
    "merge, torch format": ("torch/pytorch_model.bin",),
    "merge, one file": ("base/model.safetensors",),
    "unmerge by record": ("undoable/model-00001-of-00002.safetensors",),
    "unmerge by subtraction": ("merged/model.safetensors", "adapter/adapter_model.safetensors"),
}
PAIRS = [(run, name) for run in RUNS for name in INPUTS.get(run.name, ())]
ACTS = ((shrink, be_replaced), (grow, change))
CASES = [(run, name, act) for place, (run, name) in enumerate(PAIRS) for act in ACTS[place % 2]]


def run_with(
    originals: Path, folder: Path, run: Run, name: str, after: int, act: Callable[[Path], None]
) -> tuple[Outcome, int]:
    folder.mkdir()
    shutil.copytree(originals, folder / "inputs")
    (folder / "out").mkdir()
    meanwhile = Meanwhile(folder / "inputs" / name, after, act)
    with meanwhile.installed():
        outcome = loratools([*run.words(folder / "inputs", folder / "out"), "--workers", "1"])
    return outcome, meanwhile.reads


@pytest.mark.parametrize(
    ("run", "name", "act"), CASES, ids=[f"{run.name}, {name}, {act.__name__}" for run, name, act in CASES]
)
def test_it_is_refused_or_the_output_is_of_one_state(
    run: Run, name: str, act: Callable[[Path], None], originals: Path, tmp_path: Path
) -> None:
    """Where the change comes so early that all is read afterwards, what was changed was the input."""
    outcome, reads = run_with(originals, tmp_path / "none", run, name, 0, act)
    assert outcome.code == 0
    expected = tree(tmp_path / "none" / "out")
    refused = 0
    for after in sorted({1, 3, reads // 2, reads - 1, reads}):
        folder = tmp_path / f"{after}"
        outcome, _ = run_with(originals, folder, run, name, after, act)
        assert not outcome.wrongs()
        found = tree(folder / "out")
        if outcome.code:
            assert found == {}, outcome
            refused += 1
        elif found != expected:
            again = replace(run, target=f"again/{run.target}")
            assert loratools(again.words(folder / "inputs", folder)).code == 0
            assert found == tree(folder / "again")
    assert refused >= 2


@pytest.mark.parametrize(
    ("run", "name", "says"),
    [("merge", "adapter/adapter_model.safetensors", "adapter_model.safetensors, base_model.model."),
     ("extract", "tuned/model.safetensors", "model.safetensors, ")],
)  # fmt: skip
def test_what_is_read_twice_is_hashed_twice(
    run: str, name: str, says: str, originals: Path, tmp_path: Path
) -> None:
    """Even a change that hides itself from the file system's clock is found between the two."""
    found = next(one for one in RUNS if one.name == run)
    _, reads = run_with(originals, tmp_path / "none", found, name, 0, rewritten)
    told = []
    for after in range(reads // 2, reads):
        outcome, _ = run_with(originals, tmp_path / f"{after}", found, name, after, rewritten)
        if outcome.code:
            assert tree(tmp_path / f"{after}" / "out") == {}
            told.append(outcome.errors)
    assert any("changed while it was read" in line and says in line for line in told)
