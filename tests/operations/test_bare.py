"""Bare runs: what may be replaced, and what is remembered."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from loratools.errors import LoratoolsError
from loratools.operations.bare import bare_run


def write(target: Path, text: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    (target / "loratools.json").write_text(text)


def test_what_a_bare_run_left_may_be_replaced(tmp_path: Path) -> None:
    with bare_run("verb", force=False, folder=tmp_path) as target:
        assert (target.path, target.force) == (tmp_path / "verb", False)
        write(target.path, "one")
    with bare_run("verb", force=False, folder=tmp_path) as target:
        assert target.force
        write(target.path, "two")
    with bare_run("verb", force=False, folder=tmp_path) as target:
        assert target.force


def test_what_somebody_else_put_there_may_not(tmp_path: Path) -> None:
    with bare_run("verb", force=False, folder=tmp_path) as target:
        write(target.path, "one")
    write(tmp_path / "verb", "theirs")
    with (
        pytest.raises(LoratoolsError, match="no run without references left it"),
        bare_run("verb", force=False, folder=tmp_path),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("content", [None, "file"], ids=["folder", "file"])
def test_nor_what_is_no_output(tmp_path: Path, content: str | None) -> None:
    target = tmp_path / "verb"
    target.mkdir() if content is None else target.write_text(content)
    with pytest.raises(LoratoolsError, match="exists"), bare_run("verb", force=False, folder=tmp_path):
        pytest.fail("the block must not run")


def test_force_replaces_and_remembers(tmp_path: Path) -> None:
    write(tmp_path / "verb", "theirs")
    with bare_run("verb", force=True, folder=tmp_path) as target:
        assert target.force
        write(target.path, "ours")
    with bare_run("verb", force=False, folder=tmp_path) as target:
        assert target.force


def test_a_dry_run_does_not_make_it_ours(tmp_path: Path) -> None:
    write(tmp_path / "verb", "theirs")
    with bare_run("verb", force=True, dry_run=True, folder=tmp_path):
        pass
    with pytest.raises(LoratoolsError), bare_run("verb", force=False, folder=tmp_path):
        pass


def test_a_run_that_failed_is_not_remembered(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), bare_run("verb", force=False, folder=tmp_path) as target:
        write(target.path, "half")
        raise ValueError("mine")
    with pytest.raises(LoratoolsError), bare_run("verb", force=False, folder=tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "[]", '{"verb": 1}', "\xff"], ids=["empty", "list", "number", "bytes"])
def test_a_broken_ledger_forgets_and_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / ".bare-runs.json").write_bytes(text.encode("latin-1"))
    with bare_run("verb", force=False, folder=tmp_path) as target:
        write(target.path, "one")
    assert list(json.loads((tmp_path / ".bare-runs.json").read_text())) == ["verb"]


def test_each_name_is_its_own(tmp_path: Path) -> None:
    for name in ("verb", "demo/verb"):
        with bare_run(name, force=False, folder=tmp_path) as target:
            write(target.path, name)
    assert sorted(json.loads((tmp_path / ".bare-runs.json").read_text())) == ["demo/verb", "verb"]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize(
    "ledger",
    [
        *(b"[" * 100_000, b'{"merge": ' * 5000, b"\xff", b'{"merge": 1}', b'{"merge": "x", "merge": "y"}'),
        b" " * 2_000_000,
    ],
    ids=["deep list", "deep object", "no UTF-8", "a number", "a key twice", "too long"],
)
def test_a_ledger_that_somebody_else_wrote_allows_nothing(ledger: bytes, tmp_path: Path) -> None:
    (tmp_path / "merge").mkdir()
    (tmp_path / "merge" / "loratools.json").write_text("{}")
    (tmp_path / ".bare-runs.json").write_bytes(ledger)
    with (
        pytest.raises(LoratoolsError, match="no run without references left it"),
        bare_run("merge", force=False, folder=tmp_path),
    ):
        pass


def test_a_ledger_that_is_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".bare-runs.json")
    with bare_run("merge", force=False, folder=tmp_path, dry_run=True) as target:
        assert not target.force
