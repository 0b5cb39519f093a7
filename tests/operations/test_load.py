"""Load: plans whose work grows with their tensors and no faster, few open files, many runs at once."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loratools
from fixtures.load import many_adapters, many_tensors, moved
from loratools.cli.app import application

ROOT = Path(loratools.__file__).parent.parent


def calls(work: Callable[[], object]) -> int:
    """Calls of functions, Python's own among them: a measure of work that no other process disturbs."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def tensors_of_a_merge(folder: Path, count: int) -> list[str]:
    tensors = many_tensors(folder / "base", count)
    return ["merge", str(folder / "base"), *map(str, many_adapters(folder / "adapters", tensors, 1))]


def adapters_of_a_merge(folder: Path, count: int) -> list[str]:
    tensors = many_tensors(folder / "base", 7)
    return ["merge", str(folder / "base"), *map(str, many_adapters(folder / "adapters", tensors, count))]


def tensors_of_an_extraction(folder: Path, count: int) -> list[str]:
    tuned = moved(folder / "tuned", many_tensors(folder / "base", count))
    return ["extract", str(folder / "base"), str(tuned), "--rank", "2"]


@pytest.mark.parametrize(
    ("words", "more"),
    [(tensors_of_a_merge, 400), (adapters_of_a_merge, 60), (tensors_of_an_extraction, 400)],
    ids=["tensors-merged", "adapters-merged", "tensors-extracted"],
)
def test_twice_as_much_is_twice_the_work(
    words: Callable[[Path, int], list[str]], more: int, tmp_path: Path
) -> None:
    def planned(name: str, count: int) -> int:
        line = [*words(tmp_path / name, count), "-o", str(tmp_path / "out"), "--dry-run"]
        return calls(lambda: application.main(line, prog_name="loratools", standalone_mode=False))

    planned("warm", 20)
    few, many, most = (planned(str(times), 20 + times * more) for times in range(3))
    assert most - many < 1.02 * (many - few)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    tensors = many_tensors(folder / "base", 1000, shards=1000)
    moved(folder / "tuned", tensors, shards=1000)
    many_adapters(folder / "adapters", tensors, 1)
    many_adapters(folder / "small", many_tensors(folder / "few", 7), 300)
    return folder


def few_open_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    "line",
    [
        ["merge", "base", "adapters/00000", "--undo"],
        ["extract", "base", "tuned", "--rank", "2"],
        ["merge", "few", *(f"small/{number:05d}" for number in range(300))],
    ],
    ids=["merge-1000-shards", "extract-1000-shards", "merge-300-adapters"],
)
def test_128_open_files_are_enough(line: list[str], shards: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loratools", *line, "-o", str(tmp_path / "out"), "--quiet"],
        cwd=shards,
        env=environment(),
        preexec_fn=few_open_files,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert len(files) == (1000 if line[:2] == ["merge", "base"] else 1)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_eight_runs_at_once_do_not_meet(tmp_path: Path) -> None:
    """On shared inputs, with outputs side by side; each is what a run alone writes."""
    tensors = many_tensors(tmp_path / "base", 40, shards=3)
    one, two = many_adapters(tmp_path / "adapters", tensors, 2)
    kinds: list[list[Any]] = [["merge", "base", one], ["merge", "base", two, one, "--undo"]]
    before = {name: tree(tmp_path / name) for name in ("base", "adapters")}

    def start(words: list[Any], output: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "loratools", *map(str, words), "-o", output, "--quiet"]
        return subprocess.Popen(line, cwd=tmp_path, env=environment())

    expected = []
    for number, words in enumerate(kinds):
        assert start(words, f"alone-{number}").wait(timeout=120) == 0
        expected.append(tree(tmp_path / f"alone-{number}"))
    runs = [start(kinds[number % 2], f"out-{number}") for number in range(8)]
    assert [run.wait(timeout=300) for run in runs] == [0] * 8
    assert [tree(tmp_path / f"out-{number}") for number in range(8)] == expected * 4
    assert {name: tree(tmp_path / name) for name in before} == before
    assert not list(tmp_path.glob("*.partial-*"))
