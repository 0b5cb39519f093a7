"""Runs that are killed and gone on with: the same bytes, from parts that are taken, and never from others."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3

from fixtures.lora_files import decoder, exact_sum, lora_factors, write_adapter, write_decoder
from fixtures.system_faults import Faults
from loratools.checkpoints.journal import LINE_BYTES, Journal, Line, sealed
from loratools.checkpoints.liveness import Process
from loratools.checkpoints.partial import PartialFolder
from loratools.errors import LoratoolsError
from loratools.operations.extract import extract
from loratools.operations.merge import merge
from loratools.operations.undo.record import root_of
from loratools.operations.unmerge import unmerge
from loratools.reports.report import Report


@dataclass(frozen=True)
class Inputs:
    base: Path
    tuned: Path
    adapters: tuple[Path, Path]
    merged: Path
    plain: Path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A base in two shards, its fine-tune, two adapters, and merges of them with and without a record."""
    root = tmp_path_factory.mktemp("inputs")
    tensors = decoder(dtype=torch.bfloat16)
    factors = lora_factors(tensors)
    exact = exact_sum(tensors, (factors, 1.0))
    tuned = {name: value.to(torch.bfloat16) for name, value in exact.items()}
    tuned["model.norm.weight"] += 1
    base = write_decoder(root / "base", tensors, shards=2)
    one = write_adapter(root / "one", factors)
    two = write_adapter(root / "two", lora_factors(tensors, rank=3, seed=5))
    merge(base, [one, two], root / "merged", undo=True)
    merge(base, [one], root / "plain")
    return Inputs(base, write_decoder(root / "tuned", tuned), (one, two), root / "merged", root / "plain")


Verb = Callable[..., Report]

VERBS: dict[str, Callable[[Inputs], Verb]] = {
    "extract": lambda given: lambda out, **more: extract(given.base, given.tuned, out, rank=4, **more),
    "merge": lambda given: lambda out, **more: merge(given.base, given.adapters, out, **more),
    "merge-undo": lambda given: lambda out, **more: merge(given.base, given.adapters, out, undo=True, **more),
    "unmerge-record": lambda given: lambda out, **more: unmerge(given.merged, (), out, **more),
    "unmerge-subtract": lambda given: (
        lambda out, **more: unmerge(given.plain, [given.adapters[0]], out, **more)
    ),
}


@pytest.fixture(params=VERBS)
def verb(request: pytest.FixtureRequest, inputs: Inputs) -> Verb:
    return VERBS[request.param](inputs)


def tree(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def die(root: Path) -> None:
    """Makes the runs below `root`, which this very process copied, those of a process that is dead."""
    for alive in root.glob("*.partial-*/alive"):
        process = replace(Process.this(), started=1)
        alive.write_bytes(sealed({"process": asdict(process)}))


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


def killed_at_lines(run: Verb, root: Path, keys: list[str]) -> list[Path]:
    """A whole run, and what lay there at the moment when each job had just written its line."""
    snapshots: list[Path] = []
    plain = Journal.add

    def add(self: Journal, line: Line) -> None:
        plain(self, line)
        keys.append(line.job)
        snapshots.append(root.with_name(f"{root.name}-{len(snapshots) + 1}"))
        shutil.copytree(root, snapshots[-1])
        die(snapshots[-1])

    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "add", add)
        run(root / "out", workers=1)
    return snapshots


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


def some_killed(run: Verb, tmp_path: Path) -> Path:
    """What a run left that was killed after most of its jobs."""
    snapshots = killed_at_lines(run, tmp_path / "whole", [])
    return snapshots[-2]


def partial(root: Path) -> PartialFolder:
    (found,) = root.glob("out.partial-*")
    return PartialFolder(found)


def test_parts_that_were_damaged_are_made_again(verb: Verb, tmp_path: Path, written: list[str]) -> None:
    root = some_killed(verb, tmp_path)
    whole = tree(tmp_path / "whole" / "out")
    lines = len(partial(root).journal.jobs())
    for path in partial(root).path.rglob("*"):
        if path.is_file() and path.suffix in (".safetensors", ".A", ".B"):
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
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


def test_an_input_that_changed_behind_its_time_is_refused(verb: Verb, inputs: Inputs, tmp_path: Path) -> None:
    """Same size, same time: a tensor that a finished job read is hashed again."""
    root = some_killed(verb, tmp_path)
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
            LoratoolsError, match=r"changed since the interrupted run .*safetensors, .*\); run"
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
