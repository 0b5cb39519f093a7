"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from loratools.checkpoints import exchange, flushing, publication, system
from loratools.checkpoints.parts import write_safetensors
from loratools.checkpoints.publication import Publication
from loratools.errors import LoratoolsError


def tree(folder: Path) -> dict[str, str | None]:
    """Every path below the folder: a file's text, None for a folder, `-> place` for a link."""
    found: dict[str, str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = None if path.is_dir() else path.read_text()
    return found


def write_new(folder: Path) -> None:
    (folder / "config.json").write_text("new config")
    (folder / "model.safetensors").write_text("new weights")
    (folder / "sub").mkdir()
    (folder / "sub" / "code.py").write_text("new code")


NEW = {
    "out": None,
    "out/config.json": "new config",
    "out/model.safetensors": "new weights",
    "out/sub": None,
    "out/sub/code.py": "new code",
}


def write_old(out: Path) -> None:
    out.mkdir()
    (out / "config.json").write_text("old config")
    (out / "old.bin").write_text("old weights")


OLD = {"out": None, "out/config.json": "old config", "out/old.bin": "old weights"}


@pytest.fixture(params=["exchange", "two renames"])
def swapping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of replacing: with `renameat2`, and as on a system that lacks it."""
    if request.param == "two renames":
        monkeypatch.setattr(system, "_renameat2", None)
    return str(request.param)


def test_a_folder_appears_whole_and_nothing_else_is_left(tmp_path: Path, swapping: str) -> None:
    with Publication(tmp_path / "out", force=False, inputs=[]) as output:
        assert output.folder.parents[1] == tmp_path
        assert output.folder.parent.name.startswith("out.partial-")
        write_new(output.folder)
        assert not (tmp_path / "out").exists()
        assert output.publish() == ()
        assert output.published
    assert tree(tmp_path) == NEW


def test_without_publish_nothing_is_left(tmp_path: Path) -> None:
    with Publication(tmp_path / "a" / "b" / "out", force=False, inputs=[]) as output:
        write_new(output.folder)
    assert tree(tmp_path) == {}


def test_constructing_creates_nothing(tmp_path: Path) -> None:
    Publication(tmp_path / "a" / "out", force=False, inputs=[])
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    "error", [ValueError("bug"), KeyboardInterrupt(), SystemExit(143), LoratoolsError("no")]
)
def test_any_exception_removes_the_partial_folder_and_passes(tmp_path: Path, error: BaseException) -> None:
    write_old(tmp_path / "out")
    with (
        pytest.raises(type(error)) as caught,
        Publication(tmp_path / "out", force=True, inputs=[]) as output,
    ):
        write_new(output.folder)
        raise error
    assert caught.value is error
    assert tree(tmp_path) == OLD


def test_parents_that_were_made_are_removed_only_while_empty(tmp_path: Path) -> None:
    with Publication(tmp_path / "a" / "b" / "out", force=False, inputs=[]):
        (tmp_path / "a" / "somebody's").write_text("x")
    assert tree(tmp_path) == {"a": None, "a/somebody's": "x"}


def test_force_puts_the_new_folder_in_the_old_one_s_place(tmp_path: Path, swapping: str) -> None:
    write_old(tmp_path / "out")
    with Publication(tmp_path / "out", force=True, inputs=[]) as output:
        write_new(output.folder)
        assert tree(tmp_path / "out") == {"config.json": "old config", "old.bin": "old weights"}
        assert output.publish() == ()
    assert tree(tmp_path) == NEW


def test_replacing_is_one_exchange_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system._renameat2 is None:
        pytest.skip("no renameat2 here")
    swapped = []
    plain = publication.exchange

    def watched(one: Path, other: Path) -> bool:
        swapped.append(plain(one, other))
        return swapped[-1]

    monkeypatch.setattr(publication, "exchange", watched)
    write_old(tmp_path / "out")
    with Publication(tmp_path / "out", force=True, inputs=[]) as output:
        write_new(output.folder)
        output.publish()
    assert swapped == [True]


@pytest.mark.parametrize("before", ["nothing", "file", "folder"])
def test_one_file_takes_the_name_of_whatever_was_there(tmp_path: Path, before: str, swapping: str) -> None:
    target = tmp_path / "out.safetensors"
    if before == "file":
        target.write_text("old")
    elif before == "folder":
        write_old(target)
    with Publication(target, force=before != "nothing", inputs=[], one_file=True) as output:
        assert output.folder.parent.name.startswith("out.safetensors.partial-")
        (output.folder / "model.safetensors").write_text("new")
        assert output.publish() == ()
    assert tree(tmp_path) == {"out.safetensors": "new"}


def test_a_folder_takes_the_name_of_a_file(tmp_path: Path, swapping: str) -> None:
    (tmp_path / "out.bin").write_text("old")
    with Publication(tmp_path / "out.bin", force=True, inputs=[]) as output:
        (output.folder / "config.json").write_text("new")
        output.publish()
    assert tree(tmp_path) == {"out.bin": None, "out.bin/config.json": "new"}


@pytest.mark.parametrize("names", [(), ("a", "b")])
def test_one_file_is_one_file(tmp_path: Path, names: tuple[str, ...]) -> None:
    with (
        pytest.raises(ValueError, match="one file"),
        Publication(tmp_path / "out.safetensors", force=False, inputs=[], one_file=True) as output,
    ):
        for name in names:
            (output.folder / name).write_text("")
        output.publish()
    assert tree(tmp_path) == {}


def test_links_in_what_is_removed_are_not_followed(tmp_path: Path, swapping: str) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("kept")
    write_old(tmp_path / "out")
    (tmp_path / "out" / "link").symlink_to(precious)
    with Publication(tmp_path / "out", force=True, inputs=[]) as output:
        (output.folder / "config.json").write_text("new")
        output.publish()
    with Publication(tmp_path / "other", force=True, inputs=[]) as output:
        (output.folder / "link").symlink_to(precious)
    assert tree(tmp_path) == {
        "out": None,
        "out/config.json": "new",
        "precious": None,
        "precious/data": "kept",
    }


@pytest.mark.parametrize("force", [False, True])
def test_what_appeared_meanwhile_is_not_overwritten_unless_it_may_be(tmp_path: Path, force: bool) -> None:
    (tmp_path / "other").mkdir()
    with (
        pytest.raises(LoratoolsError, match="exists"),
        Publication(tmp_path / "out", force=force, inputs=[]) as output,
    ):
        write_new(output.folder)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("somebody's")
        output.publish()
    assert tree(tmp_path) == {"other": None, "out": None, "out/thesis.tex": "somebody's"}


def test_a_race_after_the_last_look_does_not_overwrite_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapping: str
) -> None:
    output = Publication(tmp_path / "out", force=False, inputs=[])
    monkeypatch.setattr(publication, "check_target", lambda *_, **__: write_old(tmp_path / "out"))
    with pytest.raises(LoratoolsError, match="File exists"), output:
        write_new(output.folder)
        output.publish()
    assert tree(tmp_path) == OLD


def test_refusals_are_those_of_check_target(tmp_path: Path) -> None:
    write_old(tmp_path / "out")
    with pytest.raises(LoratoolsError, match="exists already"):
        Publication(tmp_path / "out", force=False, inputs=[])
    with pytest.raises(LoratoolsError, match="is an input"):
        Publication(tmp_path / "out", force=True, inputs=[tmp_path / "out"])


def test_weights_are_flushed_first_indexes_and_configs_last_then_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    plain = os.fsync

    def watched(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        plain(handle)

    monkeypatch.setattr(os, "fsync", watched)
    names = [
        "config.json",
        "a.safetensors",
        "model.safetensors.index.json",
        "z.safetensors",
        "loratools.json",
        "card",
    ]
    with Publication(tmp_path / "new" / "out", force=False, inputs=[]) as output:
        for name in names:
            (output.folder / name).write_text(name)
        (output.folder / "sub").mkdir()
        (output.folder / "sub" / "code.py").write_text("")
        output.publish()
    assert set(flushed[:4]) == {"a.safetensors", "z.safetensors", "card", "code.py"}
    assert set(flushed[4:7]) == {"config.json", "model.safetensors.index.json", "loratools.json"}
    assert flushed[7:10] == ["sub", "output", "journal"] and flushed[10].startswith("out.partial-")
    assert flushed[11:] == ["new", tmp_path.name]


def test_a_file_system_without_fsync_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(handle: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "fsync", unsupported)
    with Publication(tmp_path / "out", force=False, inputs=[]) as output:
        write_new(output.folder)
        output.publish()
    assert tree(tmp_path) == NEW


@pytest.mark.parametrize("failing", ["model.safetensors", "config.json", "folder"])
def test_bytes_that_do_not_reach_the_disk_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fsync(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        if name == failing or (failing == "folder" and name == tmp_path.name):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    write_old(tmp_path / "out")
    with (
        pytest.raises(LoratoolsError, match="Input/output error") as caught,
        Publication(tmp_path / "out", force=True, inputs=[]) as output,
    ):
        write_new(output.folder)
        output.publish()
    assert caught.value.file == str(tmp_path / "out" / ("" if failing == "folder" else failing))
    assert tree(tmp_path) == OLD


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), KeyboardInterrupt()])
def test_an_output_that_cannot_be_put_back_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The disk fails after the exchange, and again when it is to be undone: nothing may be removed then."""
    if system._renameat2 is None:
        pytest.skip("no renameat2 here")

    def flush_folder(folder: Path) -> None:
        if folder == tmp_path:
            monkeypatch.setattr(publication, "exchange", lambda *_: fail())
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def fail() -> None:
        raise error

    monkeypatch.setattr(publication, "flush_folder", flush_folder)
    write_old(tmp_path / "out")
    with (
        pytest.raises((LoratoolsError, KeyboardInterrupt)) as caught,
        Publication(tmp_path / "out", force=True, inputs=[]) as output,
    ):
        write_new(output.folder)
        output.publish()
    assert tree(tmp_path / "out")["model.safetensors"] == "new weights"
    assert tree(output.folder) == {"config.json": "old config", "old.bin": "old weights"}
    if isinstance(error, OSError):
        assert "could not be put back" in str(caught.value) and str(output.folder) in str(caught.value)


def test_an_interruption_while_the_folder_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = system.calls.mkdir

    def interrupted(path: Path) -> None:
        plain(path)
        if path.name.startswith("out.partial-"):
            raise KeyboardInterrupt

    monkeypatch.setattr(system.calls, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Publication(tmp_path / "made" / "out", force=False, inputs=[]).__enter__()
    assert tree(tmp_path) == {}


def test_modes_are_what_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with Publication(tmp_path / "made" / "out", force=False, inputs=[]) as output:
            write_safetensors(output.folder / "model.safetensors", {"x": ("uint8", (2,), b"ab")})
            output.publish()
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("made", "made/out")}
    assert modes == {"made": 0o750, "made/out": 0o750}
    assert stat.S_IMODE((tmp_path / "made/out/model.safetensors").stat().st_mode) == 0o640


def test_an_error_names_the_file_as_it_would_have_been_called(tmp_path: Path) -> None:
    with (
        pytest.raises(LoratoolsError, match="cannot write") as caught,
        Publication(tmp_path / "out", force=False, inputs=[]) as output,
    ):
        raise LoratoolsError("cannot write", file=output.folder / "model.safetensors", tensor="w", hint="h")
    assert str(caught.value) == f"cannot write ({tmp_path / 'out' / 'model.safetensors'}, w); h"
    with (
        pytest.raises(LoratoolsError, match="out/sub/missing"),
        Publication(tmp_path / "out", force=False, inputs=[]) as output,
    ):
        (output.folder / "sub" / "missing").write_text("")
    with (
        pytest.raises(LoratoolsError, match="No space left") as caught,
        Publication(tmp_path / "out", force=False, inputs=[]),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "free some space" in str(caught.value)


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    with pytest.raises(FileNotFoundError), Publication(tmp_path / "out", force=False, inputs=[]):
        (tmp_path / "input" / "gone").read_text()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(system.calls, "mkdir", denied)
    with pytest.raises(LoratoolsError, match="cannot create the output: Permission denied"):
        Publication(tmp_path / "out", force=False, inputs=[]).__enter__()


def test_an_old_output_that_cannot_be_removed_is_told_and_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapping: str
) -> None:
    write_old(tmp_path / "out")
    monkeypatch.setattr(publication, "remove", lambda path: None)
    with Publication(tmp_path / "out", force=True, inputs=[]) as output:
        write_new(output.folder)
        (warning,) = output.publish()
    old, proof = sorted(path for path in tmp_path.iterdir() if path.name != "out")
    assert old.name.startswith("out.old-") and str(old) in warning
    assert proof.name.startswith("out.partial-") and str(proof) in warning
    assert tree(proof).keys() == {"alive", "journal"}
    assert tree(tmp_path / "out") == {name[4:]: text for name, text in NEW.items() if name != "out"}


def test_an_interruption_while_the_old_output_is_removed_does_not_undo_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapping: str
) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    write_old(tmp_path / "out")
    with Publication(tmp_path / "out", force=True, inputs=[]) as output:
        write_new(output.folder)
        monkeypatch.setattr(publication, "remove", interrupted)
        assert len(output.publish()) == 1
    assert (tmp_path / "out" / "model.safetensors").read_text() == "new weights"


def test_two_publications_of_one_target_are_one_too_many(tmp_path: Path) -> None:
    with Publication(tmp_path / "out", force=False, inputs=[]) as one:
        with (
            pytest.raises(LoratoolsError, match=rf"another run .*, process {os.getpid()}\) .*out"),
            Publication(tmp_path / "out", force=True, inputs=[]),
        ):
            pass
        write_new(one.folder)
        one.publish()
    assert tree(tmp_path) == NEW


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_knows_no_exchange_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_: object) -> int:
        system.ctypes.set_errno(error)
        return -1

    monkeypatch.setattr(system, "_renameat2", refuse)
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    assert not exchange.exchange(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileExistsError):
        exchange.rename_to_new(tmp_path / "a", tmp_path / "b")
    exchange.rename_to_new(tmp_path / "a", tmp_path / "c")
    assert tree(tmp_path) == {"b": "b", "c": "a"}


def test_a_failed_exchange_is_an_error(tmp_path: Path) -> None:
    if system._renameat2 is None:
        pytest.skip("no renameat2 here")
    with pytest.raises(FileNotFoundError):
        exchange.exchange(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(FileExistsError):
        exchange.rename_to_new(tmp_path / "a", tmp_path / "b")
    assert exchange.exchange(tmp_path / "a", tmp_path / "b")
    assert tree(tmp_path) == {"a": "b", "b": "a"}


@pytest.mark.parametrize("reserving", ["fallocate", "none", "unsupported"])
def test_a_file_gets_its_size_with_and_without_reserving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserving: str
) -> None:
    if reserving == "none":
        monkeypatch.setattr(system, "_fallocate", None)
    elif reserving == "unsupported":
        monkeypatch.setattr(system, "_fallocate", lambda *_: system.ctypes.set_errno(errno.EOPNOTSUPP) or -1)
    for size in (0, 5, 100_000):
        handle = os.open(tmp_path / f"{size}", os.O_RDWR | os.O_CREAT)
        flushing.allocate(handle, size)
        os.close(handle)
        assert (tmp_path / f"{size}").read_bytes() == bytes(size)
