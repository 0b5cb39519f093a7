"""Above the seam: short calls go on, interrupted ones are made again, errors name their file."""

from __future__ import annotations

import errno
import os
import signal
import threading
import zipfile
from pathlib import Path

import pytest

from fixtures.system_faults import Faults, fail
from loratools.checkpoints import files, system, trees
from loratools.checkpoints.flushing import allocate, flush_file, flush_folder
from loratools.errors import LoratoolsError

DATA = bytes(range(256)) * 20


class Short(system.System):
    """Reads and writes move at most three bytes, and every second one is interrupted before it moves."""

    def __init__(self) -> None:
        self.turn = 0

    def _interrupted(self) -> None:
        self.turn += 1
        if self.turn % 2:
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    def read_at(self, handle: int, buffer: memoryview, offset: int) -> int:
        self._interrupted()
        return super().read_at(handle, buffer[:3], offset)

    def write_at(self, handle: int, data: memoryview, offset: int) -> int:
        self._interrupted()
        return super().write_at(handle, data[:3], offset)


def test_short_and_interrupted_calls_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "calls", Short())
    files.write_bytes(tmp_path / "a", DATA)
    files.copy(tmp_path / "a", tmp_path / "b")
    assert files.read_bytes(tmp_path / "b") == DATA
    assert files.read_bytes(tmp_path / "b", 100) == DATA[:100]
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == DATA


@pytest.mark.parametrize("name", [name for name in system.System.__dict__ if not name.startswith("_")])
def test_each_call_may_be_interrupted_once(tmp_path: Path, name: str) -> None:
    faults = Faults(1, fail(errno.EINTR), only=(name,))
    with faults.installed():
        files.make_folder(tmp_path / "folder" / "sub")
        files.write_bytes(tmp_path / "folder" / "a", DATA)
        handle = files.open_handle(tmp_path / "folder" / "a", os.O_RDWR)
        allocate(handle, 3 * len(DATA))
        files.close_handle(handle)
        flush_file(tmp_path / "folder" / "a")
        flush_folder(tmp_path / "folder")
        assert files.read_bytes(tmp_path / "folder" / "a").rstrip(b"\0") == DATA.rstrip(b"\0")
        assert files.real(tmp_path / "folder") == tmp_path / "folder" and files.size(
            tmp_path / "folder" / "a"
        )
        trees.remove_whole(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_in_a_call_of_the_c_library_is_no_failure(tmp_path: Path) -> None:
    """Python makes its own calls again; `fallocate` and `renameat2` are called past it."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    here = threading.main_thread().ident
    assert here is not None
    try:
        with Faults(1, lambda _: signal.pthread_kill(here, signal.SIGUSR1), only=("reserve",)).installed():
            handle = files.open_handle(tmp_path / "a", os.O_RDWR | os.O_CREAT)
            allocate(handle, 1000)
            files.close_handle(handle)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen and (tmp_path / "a").stat().st_size == 1000


def test_a_write_that_moves_nothing_is_an_error_and_no_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system.calls, "write_at", lambda *_: 0)
    with pytest.raises(OSError, match="Input/output error") as caught:
        files.write_bytes(tmp_path / "a", DATA)
    assert caught.value.filename == str(tmp_path / "a")


@pytest.mark.parametrize("name", ["read_at", "write_at", "open", "close", "fstat"])
def test_errors_name_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(DATA)
    with Faults(1, fail(errno.EIO), only=(name,)).installed(), pytest.raises(OSError) as caught:
        if name in ("read_at", "fstat"):
            with files.reading(tmp_path / "a") as file:
                file.seek(0, os.SEEK_END)
                file.seek(0)
                file.read()
        else:
            files.write_bytes(tmp_path / "a", b"x")
    assert caught.value.filename == str(tmp_path / "a")


@pytest.mark.parametrize(("side", "at"), [("source", 1), ("target", 2)])
def test_a_copy_tells_which_of_the_two_failed(tmp_path: Path, side: str, at: int) -> None:
    (tmp_path / "source").write_bytes(DATA)
    call = "read_at" if side == "source" else "write_at"
    with Faults(1, fail(errno.EIO), only=(call,)).installed(), pytest.raises(LoratoolsError) as caught:
        files.copy(tmp_path / "source", tmp_path / "target")
    assert caught.value.file == str(tmp_path / side)
    assert caught.value.message.startswith("cannot read" if side == "source" else "cannot write")


def test_a_file_that_is_read_seeks_as_any_other(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x", DATA)
    with files.reading(tmp_path / "a.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("x") == DATA


def test_what_is_there_is_told_and_what_cannot_be_told_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for absent in ("absent", "file/below", "x" * 300, "nul\0", "loop"):
        assert not files.exists(tmp_path / absent)
    assert files.has_name(tmp_path / "broken") and not files.exists(tmp_path / "broken")
    assert files.is_link(tmp_path / "broken") and files.is_file(tmp_path / "file")
    for code in (errno.EIO, errno.EACCES, errno.ESTALE):
        with Faults(1, fail(code)).installed(), pytest.raises(OSError):
            files.exists(tmp_path / "absent")


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "link").symlink_to("precious")
    with pytest.raises(OSError):
        files.write_bytes(tmp_path / "link", b"x")
    assert (tmp_path / "precious").read_text() == "kept"


def grown(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    (folder / "a" / "file").write_text("x")


@pytest.mark.parametrize("within", [True, False], ids=["by-handle", "by-path"])
def test_a_tree_goes_and_what_links_lead_to_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: bool
) -> None:
    monkeypatch.setattr(system, "CAN_STAY_WITHIN", within and system.CAN_STAY_WITHIN)
    grown(tmp_path / "gone")
    grown(tmp_path / "kept")
    (tmp_path / "gone" / "a" / "link").symlink_to(tmp_path / "kept")
    trees.remove(tmp_path / "gone")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "file", "file", "kept"]


def test_what_cannot_be_removed_does_not_keep_the_rest(tmp_path: Path) -> None:
    grown(tmp_path / "x")
    with Faults(1, fail(errno.EACCES), only=("unlink",)).installed():
        trees.remove(tmp_path / "x")
    assert len(list(tmp_path.rglob("file"))) == 1
    with (
        Faults(1, fail(errno.EACCES), only=("unlink",)).installed(),
        pytest.raises(OSError, match="Permission denied"),
    ):
        trees.remove_whole(tmp_path / "x")
    trees.remove_whole(tmp_path / "x")
    trees.remove_whole(tmp_path / "x")


def test_a_walk_goes_down_without_following_links(tmp_path: Path) -> None:
    grown(tmp_path / "top")
    (tmp_path / "top" / "link").symlink_to(tmp_path)
    seen = {
        str(here.relative_to(tmp_path)): (folders, names) for here, folders, names in trees.walk(tmp_path)
    }
    assert seen == {
        ".": (["top"], []),
        "top": (["a", "link"], []),
        "top/a": (["b"], ["file"]),
        "top/a/b": ([], ["file"]),
    }
    with Faults(1, fail(errno.EACCES), only=("list",)).installed(), pytest.raises(PermissionError):
        list(trees.walk(tmp_path))
