"""Journals and folders made to deceive a run that is gone on with: not believed, or refused in one line."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from fixtures.killed_runs import (
    VERBS,
    Inputs,
    partial,
    some_killed,
    tree,
    write_inputs,
)
from loratools.checkpoints.hashing import root_of
from loratools.checkpoints.journal import LINE_BYTES, Line, sealed
from loratools.errors import LoratoolsError


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def rewritten(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Every line of the journal changed, and sealed again as somebody would who knows how."""
    path = partial(root).journal.path
    lines = [json.loads(line.split(b" ", 1)[1]) for line in path.read_bytes().splitlines()]
    for line in lines:
        change(line)
    path.write_bytes(b"".join(map(sealed, lines)))


def of_jobs(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda line: change(line) if "job" in line else None


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an absolute path": lambda line: line.update(files={"/etc/passwd": "0" * 64}),
    "a path upwards": lambda line: line.update(files={"../../victim": "0" * 64}),
    "a part elsewhere": lambda line: (line["result"].get("undo") or {}).update(part="../../victim"),
    "a part elsewhere, with its hash": lambda line: (
        (line["result"].get("undo") or {}).update(part="../../../victim"),
        line.update(files={"../../../victim": root_of(b"precious")}),
    ),
    "factors elsewhere": lambda line: (line["result"].get("factors") or {}).update(
        a_file="../../../victim", b_file="/etc/passwd"
    ),
    "factors of another rank": lambda line: (line["result"].get("factors") or {}).update(rank=10**9),
    "no figures": lambda line: line.update(result=[]),
    "figures of another": lambda line: line["result"].update(name="x", roots=[]),
    "numbers beyond numbers": lambda line: line["result"].update(changed=10**400, norm="inf"),
    "words for numbers": lambda line: line["result"].update(changed="many", norm="long"),
    "numbers for words": lambda line: line["result"].update(name=3, root=4, roots=5),
    "no hashes": lambda line: line.update(files=7),
    "more figures": lambda line: line["result"].update(more=1),
    "true for one": lambda line: line["result"].update(foreign=True, seconds=True),
}


@pytest.mark.parametrize("name", ["merge-undo", "extract"])
@pytest.mark.parametrize("lie", LIES)
def test_a_journal_that_lies_is_not_believed(lie: str, name: str, inputs: Inputs, tmp_path: Path) -> None:
    """Nothing outside is read into the output or written, and the output is what it has to be."""
    run = VERBS[name](inputs)
    root = some_killed(run, tmp_path)
    (tmp_path / "victim").write_text("precious")
    rewritten(root, of_jobs(LIES[lie]))
    run(root / "out", resume=True)
    assert tree(root / "out") == tree(tmp_path / "whole" / "out")
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize(
    "kind", ["link to a file", "link to a folder", "hard link", "fifo", "output is a link"]
)
def test_a_folder_with_strangers_in_it_is_refused(kind: str, inputs: Inputs, tmp_path: Path) -> None:
    run = VERBS["merge"](inputs)
    root = some_killed(run, tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    shard = next(partial(root).output.glob("*.safetensors"))
    if kind == "fifo":
        os.mkfifo(shard.with_name("fifo"))
    elif kind == "output is a link":
        partial(root).output.rename(tmp_path / "elsewhere")
        partial(root).output.symlink_to(tmp_path / "elsewhere")
    elif kind == "link to a folder":
        shard.with_name("folder").symlink_to(tmp_path)
    else:
        shard.unlink()
        shard.symlink_to(victim) if kind == "link to a file" else shard.hardlink_to(victim)
    before = tree(tmp_path / "whole")
    with pytest.raises(LoratoolsError, match="holds something that no run writes"):
        run(root / "out", resume=True)
    assert victim.read_text() == "precious" and not (root / "out").exists()
    run(root / "out")
    assert tree(root) != {} and tree(tmp_path / "whole") == before


def test_a_huge_or_deep_journal_costs_little(inputs: Inputs, tmp_path: Path) -> None:
    run = VERBS["merge"](inputs)
    root = some_killed(run, tmp_path)
    path = partial(root).journal.path
    jobs = len(partial(root).journal.jobs())
    deep = b'{"job":"tensor/x","files":{},"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with path.open("ab") as file:
        file.write(blake3(deep).hexdigest()[:32].encode() + b" " + deep + b"\n")
        file.write(b"x" * 40_000_000)
        file.write(b"\n\0\n" + b"[" * 1000)
    tracemalloc.start()
    report = run(root / "out", resume=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.details["resumed_jobs"] == jobs
    assert peak < 8 * LINE_BYTES
    assert tree(root / "out") == tree(tmp_path / "whole" / "out")


def test_of_a_journal_without_end_the_beginning_is_read(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = some_killed(VERBS["merge"](inputs), tmp_path)
    journal = partial(root).journal
    told = journal.jobs()
    for place in range(50):
        journal.add(Line(f"tensor/more {place}", {}, None))
    assert len(journal.jobs()) == len(told) + 50
    monkeypatch.setattr("loratools.checkpoints.journal.JOURNAL_BYTES", journal.path.stat().st_size - 1)
    assert len(told) < len(journal.jobs()) == len(told) + 49


@pytest.mark.parametrize(
    "header",
    [
        {"inputs": 3}, {"inputs": [[], {}, 1]}, {"options": []}, {"libraries": None}, {"command": ["merge"]},
        {"version": {}}, {"schema": 99}, {"target": "../../elsewhere"}, {"command": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_header_that_makes_no_sense_is_one_line_or_nothing(
    header: dict[str, Any], inputs: Inputs, tmp_path: Path
) -> None:
    run = VERBS["merge"](inputs)
    root = some_killed(run, tmp_path)
    rewritten(root, lambda line: line.update(header) if "schema" in line else None)
    try:
        run(root / "out", resume=True)
    except LoratoolsError as error:
        assert "cannot be resumed" in str(error) and "\n" not in str(error)
        run(root / "out")
    assert tree(root / "out") == tree(tmp_path / "whole" / "out")
