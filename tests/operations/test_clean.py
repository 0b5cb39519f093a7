"""`clean`: dead runs' leftovers go; living ones, strangers' folders and only copies stay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import loratools
from fixtures.system_faults import CHANGING, Faults
from loratools.checkpoints import system
from loratools.checkpoints.journal import sealed
from loratools.checkpoints.liveness import SILENT_SECONDS, Process
from loratools.checkpoints.partial import PartialFolder
from loratools.checkpoints.publication import Publication
from loratools.cli.app import application
from loratools.errors import LoratoolsError
from loratools.reports.report import Leftover


def tree(path: Path) -> dict[str, bytes | None]:
    return {
        str(one.relative_to(path)): one.read_bytes() if one.is_file() else None
        for one in sorted(path.rglob("*"))
    }


def write_old(target: Path) -> None:
    target.mkdir(parents=True)
    (target / "config.json").write_text("old config")


def killed(root: Path, *, at: int | None = None, force: bool = False, beside: str = "") -> int:
    """What a process leaves in `root` that dies while it publishes: at its n-th call, or before it publishes.

    Returns its exit status.
    """
    child = os.fork()
    if child == 0:
        try:
            faults = Faults(at or 0, lambda _: os._exit(9), only=CHANGING)
            with faults.installed(), Publication(root / "out", force=force, inputs=[]) as output:
                (output.folder / "config.json").write_text("new config")
                if at is None:
                    os._exit(9)
                output.publish()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def clean(folder: Path, **options: bool) -> list[Leftover]:
    return list(loratools.clean(folder, **options).details["leftovers"])


def test_a_dead_run_s_folder_goes(tmp_path: Path) -> None:
    assert killed(tmp_path / "some" / "folder") == 9
    write_old(tmp_path / "some" / "output")
    before = tree(tmp_path)
    (row,) = clean(tmp_path, dry_run=True)
    assert (row.action, row.bytes > 100) == ("removable", True)
    assert tree(tmp_path) == before
    report = loratools.clean(tmp_path)
    (row,) = report.details["leftovers"]
    assert row.action == "removed" and report.details["freed_bytes"] == row.bytes
    assert sorted(tree(tmp_path)) == ["some", "some/folder", "some/output", "some/output/config.json"]
    assert clean(tmp_path) == []


def test_a_run_at_work_is_left_alone(tmp_path: Path) -> None:
    with Publication(tmp_path / "out", force=False, inputs=[]) as output:
        (output.folder / "config.json").write_text("new")
        (row,) = clean(tmp_path)
        assert row.action == "left" and f"process {os.getpid()}" in row.reason
        output.publish()
    assert tree(tmp_path) == {"out": None, "out/config.json": b"new"}


AT_WORK = """
import sys, time
from pathlib import Path
from loratools.checkpoints.publication import Publication
with Publication(Path(sys.argv[1]) / "out", force=False, inputs=[]) as output:
    (output.folder / "config.json").write_text("new")
    print("at work", flush=True)
    sys.stdin.readline()
    output.publish()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is writing `tmp_path/out`, until it is told to go on."""
    path = os.pathsep.join([str(Path(loratools.__file__).parent.parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", AT_WORK, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "at work\n"
        yield process
        process.kill()


def test_another_process_at_work_is_told_of_and_spared(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    """The second run on a target, be it with --force or --resume, and `clean`; then the first is done."""
    for more in ((), ("--force",), ("--resume",)):
        result = CliRunner().invoke(application, ["merge", "-o", str(tmp_path / "out"), *more])
        assert result.exit_code == 1
        assert "another run is writing this output (host " in result.stderr
        assert f"process {other.pid}) ({tmp_path / 'out'}); wait for it" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    result = CliRunner().invoke(application, ["clean", str(tmp_path), "--json"])
    (row,) = json.loads(result.stdout)["leftovers"]
    assert row["action"] == "left" and f"process {other.pid}" in row["reason"]
    assert [path.name.partition("-")[0] for path in tmp_path.iterdir()] == ["out.partial"]
    other.communicate("go on\n", timeout=60)
    assert tree(tmp_path) == {"out": None, "out/config.json": b"new"}


def test_another_process_that_was_killed_blocks_nobody(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it still has an entry in the process table
    with Publication(tmp_path / "out", force=False, inputs=[]) as output:
        (output.folder / "config.json").write_text("mine")
        output.publish()
    (row,) = clean(tmp_path)
    assert row.action == "removed"
    assert tree(tmp_path) == {"out": None, "out/config.json": b"mine"}


@pytest.fixture
def dead(tmp_path: Path) -> PartialFolder:
    killed(tmp_path)
    (path,) = tmp_path.glob("out.partial-*")
    return PartialFolder(path)


def by(folder: PartialFolder, **changes: Any) -> None:
    """Makes the run that of another process."""
    process = replace(Process.this(), **changes)
    (folder.path / "alive").write_bytes(sealed({"process": asdict(process)}))


@pytest.mark.parametrize(
    ("changes", "age", "lives"),
    [
        ({"host": "elsewhere", "boot": "other"}, 0.0, True),
        ({"host": "elsewhere", "boot": "other"}, SILENT_SECONDS + 5, False),
        ({"space": "pid:[1]"}, 0.0, True),
        ({"space": "pid:[1]"}, SILENT_SECONDS + 5, False),
        ({"started": 1}, 0.0, False),
        ({"pid": 2**22 + 1}, 0.0, False),
        ({"pid": 2**22 + 1, "started": None}, 0.0, False),
        ({"pid": 2**70, "started": None}, 0.0, False),
        ({"ended": True}, 0.0, False),
    ],
    ids=[
        "another host", "another host, long silent", "another container", "another container, long silent",
        "a reused number", "a number of nobody", "nobody without a time",
        "a number that none can be", "over",
    ],
)  # fmt: skip
def test_who_lives(dead: PartialFolder, changes: dict[str, Any], age: float, lives: bool) -> None:
    """The heartbeat tells of processes that cannot be seen from here, and the process table of all others."""
    by(dead, **changes)
    now = dead.liveness.changed()
    assert now is not None
    assert dead.liveness.alive(now + age) is lives


def test_this_process_lives_in_the_runs_that_it_has_under_way(dead: PartialFolder) -> None:
    by(dead)
    now = dead.liveness.changed()
    assert now is not None and not dead.liveness.alive(now), "a run of this process that is over"
    dead.liveness.begin()
    assert dead.liveness.alive(now + SILENT_SECONDS + 5)


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratools.checkpoints.liveness.BEAT_SECONDS", 0.01)
    beats: list[object] = []
    plain = system.calls.touch
    monkeypatch.setattr(system.calls, "touch", lambda path: (plain(path), beats.append(path)))
    with Publication(tmp_path / "out", force=False, inputs=[]) as output:
        for _ in range(1000):
            if len(beats) > 2:
                break
            time.sleep(0.01)
        assert beats[:3] == 3 * [output.folder.parent / "alive"]


def stranger(root: Path, kind: str) -> Path:
    """Something with a leftover's name that is none."""
    path = root / "out.partial-0123abcd"
    if kind == "file":
        path.write_text("precious")
    elif kind == "link":
        write_old(root / "precious")
        path.symlink_to(root / "precious")
    else:
        write_old(path)
    if kind == "words":
        (path / "journal").write_text("dear diary\n")
        (path / "alive").write_text("and how\n")
    if kind == "another name":
        path = path.rename(root / "out.partial-mine")
    if kind == "old":
        path = path.rename(root / "out.old-0123abcd")
    return path


@pytest.mark.parametrize("kind", ["folder", "file", "link", "words", "old", "another name"])
def test_what_does_not_prove_to_be_ours_stays(tmp_path: Path, kind: str) -> None:
    stranger(tmp_path, kind)
    before = tree(tmp_path)
    rows = clean(tmp_path)
    assert tree(tmp_path) == before
    assert [row.action for row in rows] == ([] if kind == "another name" else ["left"])
    assert all(row.reason == "nothing in it proves that loratools wrote it" for row in rows)


def test_links_are_not_followed(tmp_path: Path, dead: PartialFolder) -> None:
    """Neither to a folder to be looked through nor out of one that is removed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copytree(dead.path, outside / dead.path.name)
    (tmp_path / "looked-at").mkdir()
    (tmp_path / "looked-at" / "link").symlink_to(outside)
    (dead.output / "link").symlink_to(outside)
    assert clean(tmp_path / "looked-at") == []
    dead.path.rename(tmp_path / "looked-at" / dead.path.name)
    assert [row.action for row in clean(tmp_path / "looked-at")] == ["removed"]
    assert (outside / dead.path.name / "journal").exists()


@pytest.mark.parametrize("swapping", ["exchange", "two renames"])
def test_after_a_kill_anywhere_the_only_copy_stays(
    tmp_path: Path, swapping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that replaces an output is killed at each of its calls; then `clean`, and what it says."""
    if swapping == "two renames":
        monkeypatch.setattr(system, "_renameat2", None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    seen = set()
    for at in range(1, 1000):
        root = tmp_path / f"{at}"
        write_old(root / "out")
        status = killed(root, at=at, force=True)
        rows = clean(root)
        contents = [path.read_text() for path in root.rglob("config.json")]
        if (root / "out").exists():
            assert contents.count("old config") + contents.count("new config") >= 1
            assert [row.action for row in rows if row.precious] == []
            seen.add(((root / "out" / "config.json").read_text(), "there"))
        else:
            (row,) = [row for row in rows if row.precious]
            assert "old config" in contents and row.reason.endswith(f"mv {row.path} {root / 'out'}")
            row.path.rename(root / "out")
            assert all(one.action == "removed" for one in clean(root))
            seen.add(("old config", "put back"))
        left = [path.name for path in root.iterdir() if path.name != "out"]  # killed as it began
        assert all(tree(root / name).keys() <= {"alive.new"} for name in left), (at, left)
        if status == 0:
            break
    else:
        pytest.fail("it never got through")
    assert {("old config", "there"), ("new config", "there")} <= seen
    assert (("old config", "put back") in seen) is (swapping == "two renames")


def test_what_could_not_be_put_back_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if system._renameat2 is None:
        pytest.skip("no renameat2 here")
    from loratools.checkpoints import publication

    plain = publication.exchange

    def flush_folder(folder: Path) -> None:
        if folder == tmp_path:
            monkeypatch.setattr(publication, "exchange", fail)
            raise OSError(5, "Input/output error")

    def fail(*_: object) -> bool:
        raise OSError(5, "Input/output error")

    write_old(tmp_path / "out")
    monkeypatch.setattr(publication, "flush_folder", flush_folder)
    with (
        pytest.raises(LoratoolsError, match="could not be put back"),
        Publication(tmp_path / "out", force=True, inputs=[]) as output,
    ):
        (output.folder / "config.json").write_text("new config")
        output.publish()
    monkeypatch.setattr(publication, "exchange", plain)
    by(PartialFolder(output.folder.parent), started=1)
    (row,) = clean(tmp_path)
    assert row.action == "left" and row.precious and "mv " in row.reason
    assert (output.folder / "config.json").read_text() == "old config"


def test_what_cannot_be_removed_is_said(tmp_path: Path, dead: PartialFolder) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with Faults(1, refuse, only=("rename",)).installed():
        (row,) = clean(tmp_path)
    assert (row.action, row.reason) == ("left", "cannot be removed: Permission denied")
    assert [row.action for row in clean(tmp_path)] == ["removed"]


def test_on_the_command_line(tmp_path: Path, dead: PartialFolder) -> None:
    result = CliRunner().invoke(application, ["clean", str(tmp_path), "--dry-run"])
    assert result.exit_code == 0 and "removable" in result.stdout
    assert "1 of 1 would be removed" in result.stdout and "nothing was removed" in result.stdout
    assert dead.path.exists()
    report = json.loads(CliRunner().invoke(application, ["clean", str(tmp_path), "--json"]).stdout)
    (row,) = report["leftovers"]
    assert row == {
        "path": str(dead.path), "bytes": row["bytes"], "action": "removed",
        "reason": "the run that wrote it is dead", "precious": False,
    }  # fmt: skip
    assert report["freed_bytes"] == row["bytes"] and list(tmp_path.iterdir()) == []
    assert "no run left anything here" in CliRunner().invoke(application, ["clean", str(tmp_path)]).stdout
    result = CliRunner().invoke(application, ["clean", str(tmp_path / "absent")])
    assert result.exit_code == 1 and result.stderr.startswith("Error: no such folder (")


def test_a_name_too_long_to_be_lengthened(tmp_path: Path) -> None:
    """255 bytes are a name that a target may have; what is beside it has a shorter one, and is found."""
    target = tmp_path / ("ä" * 127 + "x")
    with Publication(target, force=False, inputs=[]) as output:
        (output.folder / "config.json").write_text("new")
        with pytest.raises(LoratoolsError, match="another run"), Publication(target, force=False, inputs=[]):
            pass
        shutil.copytree(output.folder.parent, copy := output.folder.parent.with_name("copied"))
        output.publish()
    assert (target / "config.json").read_text() == "new"
    copy.rename(output.folder.parent)
    by(PartialFolder(output.folder.parent), started=1)
    assert [row.action for row in clean(tmp_path)] == ["removed"]
