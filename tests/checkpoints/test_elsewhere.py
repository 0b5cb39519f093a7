"""The seam of a worker: durable writes, the coordinator's relative paths, folders in the workspace alone."""

from __future__ import annotations

import inspect
import os
import threading
from pathlib import Path

import pytest

from loratools.checkpoints import files, system
from loratools.checkpoints.elsewhere import Elsewhere, elsewhere
from loratools.checkpoints.parts import SafetensorsLayout, write_at

fcntl = pytest.importorskip("fcntl", reason="flags of POSIX")


class Seen(system.System):
    """Notes the flags that files are open with."""

    def __init__(self) -> None:
        self.flags: list[int] = []

    def open(self, path: system.Place, flags: int, mode: int = 0o666, *, within: int | None = None) -> int:
        handle = super().open(path, flags, mode, within=within)
        self.flags.append(fcntl.fcntl(handle, fcntl.F_GETFL))
        return handle


def test_what_is_written_is_durable_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = SafetensorsLayout.of([("one", "float32", (4,))])
    layout.create(tmp_path / "shard")
    seen = Seen()
    monkeypatch.setattr(system, "calls", seen)
    with elsewhere("/", tmp_path):
        write_at(tmp_path / "shard", layout.offset("one"), b"0" * 16)
        files.write_in_one_step(tmp_path / "part", [b"part"])
    assert len(seen.flags) == 2 and all(flags & os.O_DSYNC for flags in seen.flags)
    with elsewhere("/", tmp_path):
        files.read_bytes(tmp_path / "part")
    assert not seen.flags[-1] & os.O_DSYNC
    files.write_bytes(tmp_path / "other", b"")
    assert not seen.flags[-1] & os.O_DSYNC and system.calls is seen


def test_relative_paths_start_where_the_coordinator_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "workspace").mkdir(parents=True)
    (tmp_path / "there" / "file").write_bytes(b"there")
    monkeypatch.chdir(tmp_path / "here")
    told: list[bytes | bool] = []
    with elsewhere(str(tmp_path / "there"), tmp_path / "there" / "workspace"):
        told += [files.read_bytes("file"), files.exists("workspace"), files.is_file("file")]
        files.make_folder(Path("workspace/deeper"))
        files.write_in_one_step(Path("workspace/deeper/part"), [b"1", b"2"])
        assert files.listing(Path("workspace")) == [Path("workspace/deeper")]
        other = threading.Thread(
            target=lambda: told.append(files.exists("file"))
        )  # one that was told nothing
        other.start()
        other.join()
    assert told == [b"there", True, True, False]
    assert (tmp_path / "there" / "workspace" / "deeper" / "part").read_bytes() == b"12"
    assert not files.exists("file")


def test_no_folder_is_made_again_that_is_gone(tmp_path: Path) -> None:
    workspace = tmp_path / "run" / "output"
    with elsewhere(str(tmp_path), workspace), pytest.raises(FileNotFoundError):
        files.make_folder(workspace / "parts")
    assert list(tmp_path.iterdir()) == []


def test_every_call_that_takes_a_path_is_the_worker_s_own() -> None:
    takes = {
        name
        for name, call in inspect.getmembers(system.System, inspect.isfunction)
        if any("Place" in str(word.annotation) for word in inspect.signature(call).parameters.values())
    }
    assert len(takes) >= 11
    assert takes <= vars(Elsewhere).keys()


def test_two_writers_of_one_part_leave_it_whole(tmp_path: Path) -> None:
    part = tmp_path / "part"
    first = files.write_in_one_step

    def meanwhile() -> object:
        yield b"one"
        first(part, [b"another"])
        assert part.read_bytes() == b"another"
        yield b" writer"

    files.write_in_one_step(part, meanwhile())  # type: ignore[arg-type]
    assert part.read_bytes() == b"one writer"
    assert list(tmp_path.iterdir()) == [part]

    def failing() -> object:
        yield b"half"
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        files.write_in_one_step(part, failing())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [part] and part.read_bytes() == b"one writer"
