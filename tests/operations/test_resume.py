"""Runs that are killed and gone on with: the same bytes, from parts that are taken, and never from others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.killed_runs import (
    VERBS,
    Inputs,
    Verb,
    damage,
    die,
    killed_at_lines,
    partial,
    some_killed,
    tree,
    write_inputs,
)
from fixtures.system_faults import Faults
from loratools.checkpoints.journal import Journal, Line
from loratools.checkpoints.partial import PartialFolder
from loratools.errors import LoratoolsError
from loratools.operations.merge import merge
from loratools.reports.report import Report


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(params=VERBS)
def verb(request: pytest.FixtureRequest, inputs: Inputs) -> Verb:
    return VERBS[request.param](inputs)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The keys of the jobs that run, as they write their lines."""
    keys: list[str] = []
    plain = Journal.add

    def add(self: Journal, line: Line) -> None:
        plain(self, line)
        keys.append(line.job)

    monkeypatch.setattr(Journal, "add", add)
    yield keys


def test_a_kill_after_each_job(verb: Verb, tmp_path: Path, written: list[str]) -> None:
    snapshots = killed_at_lines(verb, tmp_path / "whole", keys := [])
    whole = tree(tmp_path / "whole" / "out")
    assert len(snapshots) == len(keys) > 5
    chosen = {1, 2, len(keys) // 2, len(keys) - 1, len(keys)}
    for done, root in enumerate(snapshots, start=1):
        if done not in chosen:
            continue
        written.clear()
        report = verb(root / "out", resume=True)
        assert tree(root / "out") == whole
        assert [path.name for path in root.iterdir()] == ["out"]
        assert report.details["resumed_jobs"] == done
        assert sorted(written) == sorted(keys[done:])


def test_a_kill_in_the_middle_of_writes(verb: Verb, tmp_path: Path, written: list[str]) -> None:
    verb(tmp_path / "out", workers=1)
    whole, jobs = tree(tmp_path / "out"), len(written)
    counted = Faults(0, lambda _: None, only=("write_at",))
    with counted.installed():
        verb(tmp_path / "again", workers=1)
    for at in {2, counted.calls // 3, counted.calls // 2, 3 * counted.calls // 4, counted.calls}:
        root = tmp_path / f"{at}"
        root.mkdir()

        def torn(place: object, root: Path = root) -> None:
            shutil.copytree(root, root.with_name(f"{root.name}-killed"))

        with Faults(at, torn, only=("write_at",)).installed():
            verb(root / "out", workers=1)
        left = root.with_name(f"{root.name}-killed")
        die(left)
        written.clear()
        report = verb(left / "out", resume=True)
        assert tree(left / "out") == whole
        assert len(written) + report.details["resumed_jobs"] == jobs


def test_parts_that_were_damaged_are_made_again(verb: Verb, tmp_path: Path, written: list[str]) -> None:
    root = some_killed(verb, tmp_path)
    whole = tree(tmp_path / "whole" / "out")
    lines = len(partial(root).journal.jobs())
    damage(root)
    written.clear()
    report = verb(root / "out", resume=True)
    assert tree(root / "out") == whole
    assert report.details["resumed_jobs"] < lines
    assert len(written) > 1, "the job that was not done, and those whose parts were damaged"


@pytest.mark.parametrize("how", ["torn", "flipped", "gone", "no-header", "empty"])
def test_a_damaged_journal_is_believed_as_far_as_it_holds(
    how: str, inputs: Inputs, tmp_path: Path, written: list[str]
) -> None:
    run = VERBS["merge"](inputs)
    root = some_killed(run, tmp_path)
    path = partial(root).journal.path
    lines = path.read_bytes().splitlines(keepends=True)
    jobs = len(lines) - 1
    if how == "torn":
        path.write_bytes(b"".join(lines)[:-7])
    elif how == "flipped":
        path.write_bytes(b"".join([*lines[:3], lines[3].replace(b'"root":"', b'"root":"0', 1), *lines[4:]]))
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"".join(lines[1:]) if how == "no-header" else b"")
    written.clear()
    report = run(root / "out", resume=True)
    assert tree(root / "out") == tree(tmp_path / "whole" / "out")
    assert report.details["resumed_jobs"] == {"torn": jobs - 1, "flipped": jobs - 1}.get(how, 0)


def test_an_input_that_changed_is_refused(verb: Verb, inputs: Inputs, tmp_path: Path) -> None:
    root = some_killed(verb, tmp_path)
    before = tree(root)
    kept = {path: path.stat() for path in inputs.base.parent.rglob("*.safetensors")}
    for folder in (inputs.base, inputs.merged, inputs.plain):
        for path in folder.glob("*.safetensors"):
            os.utime(path)
    with pytest.raises(LoratoolsError, match=r"cannot be resumed: the (base|merged) changed since then, "):
        verb(root / "out", resume=True)
    assert tree(root) == before
    for path, status in kept.items():
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    verb(root / "out", resume=True)


@pytest.mark.parametrize("damaged", [False, True], ids=["parts hold", "parts are damaged"])
def test_an_input_that_changed_behind_its_time_is_refused(
    damaged: bool, verb: Verb, inputs: Inputs, tmp_path: Path
) -> None:
    """Same size, same time: a tensor that a finished job read is hashed again, also if it is made again."""
    root = some_killed(verb, tmp_path)
    if damaged:
        damage(root, last=None)
    whole = tmp_path / "whole" / "out"
    kept = {
        path: (path.read_bytes(), path.stat())
        for folder in (inputs.base, inputs.merged, inputs.plain)
        for path in folder.glob("model*.safetensors")
    }
    try:
        for path, (content, status) in kept.items():
            size = 8 + int.from_bytes(content[:8], "little")
            path.write_bytes(content[:size] + bytes(byte ^ 1 for byte in content[size:]))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(
            LoratoolsError, match=r"changed since the interrupted run .*safetensors, .*\); restore"
        ):
            verb(root / "out", resume=True)
    finally:
        for path, (content, status) in kept.items():
            path.write_bytes(content)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    die(root)
    verb(root / "out", resume=True)
    assert tree(root / "out") == tree(whole)


@pytest.mark.parametrize(
    ("verb_name", "more", "said"),
    [
        ("merge", {"dtype": "float32"}, "the option dtype was keep then, and is float32"),
        ("merge", {"weights": [1.0, 0.5]}, r"the option weights was \[1.0, 1.0\] then, and is \[1.0, 0.5\]"),
        ("merge", {"undo": True}, "the option undo was null then, and is true"),
        ("extract", {"seed": 3}, "the option seed was 0 then, and is 3"),
        ("unmerge-record", {"allow_modified": True}, "the option allow_modified was false then, and is true"),
    ],
)
def test_other_options_are_refused_by_name(
    verb_name: str, more: dict[str, Any], said: str, inputs: Inputs, tmp_path: Path
) -> None:
    run = VERBS[verb_name](inputs)
    root = some_killed(run, tmp_path)
    before = tree(root)
    with pytest.raises(LoratoolsError, match=f"cannot be resumed: {said}.*without --resume"):
        run(root / "out", resume=True, **more)
    assert tree(root) == before
    report = run(root / "out", **more)  # a dead run's leftovers never block anybody
    assert "resumed_jobs" not in report.details


def test_another_version_is_refused(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = VERBS["merge"](inputs)
    root = some_killed(run, tmp_path)
    monkeypatch.setattr("loratools.operations.rewrite.__version__", "99")
    with pytest.raises(LoratoolsError, match=r"loratools was .* then, and is 99"):
        run(root / "out", resume=True)


def test_another_verb_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    root = some_killed(VERBS["merge"](inputs), tmp_path)
    with pytest.raises(LoratoolsError, match="it was merge, not extract"):
        VERBS["extract"](inputs)(root / "out", resume=True)


def test_with_nothing_to_resume_it_starts_afresh(verb: Verb, tmp_path: Path) -> None:
    verb(tmp_path / "a")
    report = verb(tmp_path / "b", resume=True)
    assert report.details["resumed_jobs"] == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_the_newest_of_several_that_fits_is_taken(inputs: Inputs, tmp_path: Path) -> None:
    run = VERBS["merge"](inputs)
    snapshots = killed_at_lines(run, tmp_path / "whole", [])
    root = snapshots[1]
    for place, snapshot in enumerate((snapshots[7], snapshots[4])):
        left = partial(snapshot).path
        shutil.copytree(left, root / left.name.replace(left.name[-8:], f"{place:08x}"))
    for place, left in enumerate(sorted(root.glob("out.partial-*"))):
        os.utime(left / "alive", (1000 + place, 1000 + place))
    newest = PartialFolder(max(root.glob("out.partial-*")))
    expected = len(newest.journal.jobs())
    assert run(root / "out", resume=True).details["resumed_jobs"] == expected
    assert len(list(root.glob("out.partial-*"))) == 2, "the others are left to `clean`"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_run_that_fails_with_resume_keeps_its_work(
    error: BaseException, verb: Verb, tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verb(tmp_path / "whole")
    jobs = len(written)
    added = Journal.add

    def add(self: Journal, line: Line) -> None:
        if len(written) == jobs + 4:
            raise error
        added(self, line)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "add", add)
        with pytest.raises((LoratoolsError, KeyboardInterrupt)) as caught:
            verb(tmp_path / "out", workers=1, resume=True)
    if isinstance(caught.value, LoratoolsError):
        assert str(caught.value).endswith(
            "what was done is kept: the same command with --resume goes on from there"
        )
    assert [path.name.partition("-")[0] for path in tmp_path.iterdir() if path.name != "whole"] == [
        "out.partial"
    ]
    written.clear()
    report = verb(tmp_path / "out", resume=True)
    assert report.details["resumed_jobs"] == 4 and len(written) == jobs - 4
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_one_file_is_resumed_too(inputs: Inputs, tmp_path: Path) -> None:
    base = inputs.tuned / "model.safetensors"

    def run(out: Path, **more: Any) -> Report:
        return merge(base, inputs.adapters, out.with_suffix(".safetensors"), **more)

    snapshots = killed_at_lines(run, tmp_path / "whole", [])
    report = run(snapshots[4] / "out", resume=True)
    assert report.details["resumed_jobs"] == 5
    assert tree(snapshots[4]) == tree(tmp_path / "whole")


def test_over_an_output_that_exists(inputs: Inputs, tmp_path: Path) -> None:
    run = VERBS["merge"](inputs)
    root = some_killed(run, tmp_path)
    (root / "out").mkdir()
    (root / "out" / "config.json").write_text("{}")
    with pytest.raises(LoratoolsError, match="exists already"):
        run(root / "out", resume=True)
    assert run(root / "out", resume=True, force=True).details["resumed_jobs"] > 5
    assert tree(root / "out") == tree(tmp_path / "whole" / "out")
