"""Publication under faults: every call to the system fails in turn, every line is interrupted in turn, the
process is killed at every call, the disk is full. The target is always what it was, or the new one, whole."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from fixtures.system_faults import CHANGING, Faults, fail
from loratools.checkpoints import disk, exchange, files, flushing, parts, publication, system, trees
from loratools.checkpoints.parts import PartWriter, SafetensorsLayout
from loratools.checkpoints.provenance import Provenance
from loratools.checkpoints.publication import Publication
from loratools.errors import LoratoolsError

LEFTOVER = re.compile(r"out(\.safetensors)?\.(partial|old)-[0-9a-f]{8}")
PARTIAL = re.compile(r"out(\.safetensors)?\.partial-[0-9a-f]{8}")


def tree(path: Path) -> Any:
    """A file's bytes, or a folder's entries by name; None where there is nothing."""
    if path.is_dir():
        return {entry.name: tree(entry) for entry in path.iterdir()}
    return path.read_bytes() if path.exists() else None


@dataclass(frozen=True)
class Case:
    """What is published over what."""

    name: str
    place: str
    one_file: bool = False
    old: str | None = None

    def target(self, root: Path) -> Path:
        return root / self.place

    def prepare(self, root: Path) -> None:
        target = self.target(root)
        if self.old == "folder":
            target.mkdir()
            (target / "config.json").write_text("old config")
            (target / "model.bin").write_text("old weights")
        elif self.old == "file":
            target.write_text("old weights")

    def publish(self, root: Path) -> tuple[bool, tuple[str, ...]]:
        """A run as a verb makes it; whether it was published, and the warnings."""
        provenance = Provenance("merge", "0", {}, (), {})
        with Publication(
            self.target(root), force=self.old is not None, inputs=[root / "input"], one_file=self.one_file
        ) as output:
            layout = SafetensorsLayout.of(
                [("w", "uint8", (100,)), ("v", "uint8", (3,))], provenance.to_header()
            )
            layout.create(output.folder / "model.safetensors")
            with PartWriter(output.folder / "model.safetensors") as writer:
                writer.write(layout.offset("w"), bytes(range(100)))
                writer.write(layout.offset("v"), b"abc")
            if not self.one_file:
                provenance.write(output.folder)
                files.make_folder(output.folder / "sub")
                with disk.disk_errors(output.folder / "sub" / "code.py"):
                    files.write_text(output.folder / "sub" / "code.py", "new code")
            return output.published, output.publish()


EXCHANGE, TWO_RENAMES = "exchange", "two-renames"

NEW_FOLDER = (Case("new-folder-and-parents", "made/out"), EXCHANGE)
NEW_FILE = (Case("new-file", "out.safetensors", one_file=True), TWO_RENAMES)
FOLDER = Case("folder-over-folder", "out", old="folder")
FILE = Case("file-over-file", "out.safetensors", one_file=True, old="file")
FEW = [NEW_FOLDER, (FOLDER, EXCHANGE), (FOLDER, TWO_RENAMES)]
ALL = [
    *FEW,
    NEW_FILE,
    (FILE, EXCHANGE),
    (FILE, TWO_RENAMES),
    (Case("file-over-folder", "out.safetensors", one_file=True, old="folder"), EXCHANGE),
    (Case("folder-over-file", "out.safetensors", old="file"), TWO_RENAMES),
]


def cases(chosen: list[tuple[Case, str]]) -> Callable[[Any], Any]:
    return pytest.mark.parametrize(
        "case", chosen, ids=[f"{case.name}-{how}" for case, how in chosen], indirect=True
    )


@pytest.fixture
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A case, with or without `renameat2`; without waiting for the disk, which no test here can see."""
    chosen, swapping = request.param
    if swapping == TWO_RENAMES:
        monkeypatch.setattr(system, "_renameat2", None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    found: Case = chosen
    return found


def interrupt(place: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def roots(tmp_path: Path, case: Case) -> Callable[[], Path]:
    """Fresh folders with an input and what was there before."""
    made = iter(range(100_000))

    def fresh() -> Path:
        root = tmp_path / f"{next(made)}"
        root.mkdir()
        (root / "input").mkdir()
        case.prepare(root)
        return root

    return fresh


LEAKS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""An interruption right after `open` loses the handle, as it does anywhere in Python."""


@dataclass(frozen=True)
class States:
    """What the target was before, and what it becomes."""

    old: Any
    new: Any


@pytest.fixture
def states(case: Case, roots: Callable[[], Path]) -> States:
    root = roots()
    old = tree(case.target(root))
    case.publish(root)
    new = tree(case.target(root))
    assert new != old and new is not None
    assert not [path for path in root.rglob("*") if LEFTOVER.fullmatch(path.name)]
    return States(old, new)


def check_whole(case: Case, root: Path, states: States) -> Any:
    """The target is whole, old or new; if neither, the old one is whole beside it; no strangers are left."""
    target = case.target(root)
    found = tree(target)
    there = target.parent.iterdir() if target.parent.exists() else ()
    beside = {path.name: tree(path) for path in there}
    strangers = {name for name in beside if name not in ("input", "made", target.name)}
    assert all(LEFTOVER.fullmatch(name) for name in strangers), strangers
    if found is None and states.old is not None:
        assert states.old in [content for name, content in beside.items() if ".old-" in name]
    else:
        assert found in (states.old, states.new)
    return found


def run(case: Case, root: Path, faults: Faults) -> tuple[BaseException | None, tuple[str, ...]]:
    with faults.installed():
        try:
            return None, case.publish(root)[1]
        except (LoratoolsError, KeyboardInterrupt) as error:
            return error, ()


@cases(ALL)
@pytest.mark.parametrize(
    ("code", "lasting"), [(errno.EIO, False), (errno.ENOSPC, True)], ids=["once", "from-then-on"]
)
def test_each_call_fails_in_turn(
    case: Case, roots: Callable[[], Path], states: States, code: int, lasting: bool
) -> None:
    for at in range(1, 1000):
        root = roots()
        faults = Faults(at, fail(code), lasting=lasting)
        error, warnings = run(case, root, faults)
        if not faults.hit:
            break
        found = check_whole(case, root, states)
        if error is None:
            assert found == states.new, (at, faults.hit)
        else:
            assert isinstance(error, LoratoolsError) and "\n" not in str(error)
            assert os.strerror(code) in str(error) or "exists" in str(error)
            if not lasting:
                assert found == states.old, (at, faults.hit)
                left = [path.name for path in case.target(root).parent.glob("out*.*-*")]
                assert all(PARTIAL.fullmatch(name) for name in left), (at, faults.hit, left)
        leftovers = [path for path in root.rglob("*") if LEFTOVER.fullmatch(path.name)]
        assert error is not None or all(str(path) in "".join(warnings) for path in leftovers)
    else:
        pytest.fail("it never got through")
    assert at > 15


@LEAKS
@cases(ALL)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_interruption_at_each_call_in_turn(
    case: Case, roots: Callable[[], Path], states: States, after: bool
) -> None:
    for at in range(1, 1000):
        root = roots()
        faults = Faults(at, interrupt, after=after)
        error, _ = run(case, root, faults)
        if faults.calls < at:
            break
        found = check_whole(case, root, states)
        assert found == (states.new if error is None else states.old), (at, faults.hit)
    else:
        pytest.fail("it never got through")


ROOMS = (publication, exchange, disk, parts, flushing, trees)
"""Those where an order of steps matters; `files` only hands calls on, and these are interrupted above."""


@LEAKS
@cases(FEW)
def test_an_interruption_at_each_line_in_turn(case: Case, roots: Callable[[], Path], states: States) -> None:
    """Ctrl-C comes between any two lines: here between each two of our own, one after the other."""
    files = {module.__file__ for module in ROOMS}
    late = 0
    for at in range(1, 5000):
        root = roots()
        passed = 0

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal passed
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                passed += 1
                if passed == at:  # noqa: B023
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        interrupted = False
        sys.settrace(trace)
        try:
            case.publish(root)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(before)
        found = check_whole(case, root, states)
        if passed < at:
            break
        assert interrupted or found == states.new
        late += interrupted and found == states.new
    else:
        pytest.fail("it never got through")
    assert at > 100
    assert late <= 15, "once published, only the way out of `publish` can still be interrupted"


@LEAKS
@cases(FEW)
def test_a_kill_at_each_call_in_turn(case: Case, roots: Callable[[], Path], states: States) -> None:
    """A process that dies at its n-th call leaves the old output or the new, and plainly named leftovers."""
    for at in range(1, 1000):
        root = roots()
        child = os.fork()
        if child == 0:
            try:
                die = Faults(at, lambda _: os.kill(os.getpid(), signal.SIGKILL), only=CHANGING)
                with die.installed():
                    case.publish(root)
            finally:
                os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        found = check_whole(case, root, states)
        if not killed:
            assert found == states.new
            break
    else:
        pytest.fail("it never got through")
    assert at > 15


def script(root: Path, body: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A process of its own that publishes into `root`, as a verb does: one line and exit 1 on a failure."""
    program = f"""
import signal, sys, time
from pathlib import Path
from loratools.checkpoints import system
from loratools.checkpoints.parts import PartWriter, SafetensorsLayout
from loratools.checkpoints.publication import Publication
from loratools.errors import LoratoolsError

def publish(size, force=True, after=lambda: None):
    with Publication(root / "out", force=force, inputs=[]) as output:
        layout = SafetensorsLayout.of([("w", "uint8", (size,))])
        layout.create(output.folder / "model.safetensors")
        with PartWriter(output.folder / "model.safetensors") as writer:
            for start in range(0, size, 2**16):
                writer.write(layout.offset("w") + start, b"n" * min(2**16, size - start))
                after()
        (output.folder / "config.json").write_text("new config")
        output.publish()

root = Path({str(root)!r})
try:
    exec({body!r})
except LoratoolsError as error:
    print(f"Error: {{error}}", file=sys.stderr)
    sys.exit(1)
"""
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def old_output(root: Path) -> Any:
    FOLDER.prepare(root)
    return tree(root)


@pytest.mark.parametrize("reserving", ["", "system._fallocate = None; "], ids=["reserved", "not-reserved"])
def test_a_limit_on_file_sizes_is_one_line(tmp_path: Path, reserving: str) -> None:
    before = old_output(tmp_path)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    process = script(tmp_path, reserving + limit + "publish(1_000_000)")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert errors.splitlines() == [
        f"Error: cannot create: File too large ({tmp_path / 'out' / 'model.safetensors'}); "
        "raise the limit on file sizes (ulimit -f), write to another disk or use smaller shards"
    ]
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("reserving", "doing"),
    [("", "create"), ("system._fallocate = None; ", "write")],
    ids=["reserved", "not-reserved"],
)
def test_a_full_disk_is_one_line(tmp_path: Path, reserving: str, doing: str) -> None:
    """On a real file system of 8 MB, mounted in a name space of its own."""
    mount = f"mount -t tmpfs -o size=8m tmpfs {shlex.quote(str(tmp_path))}"
    inside = ("unshare", "-Urm", "sh", "-c", f'{mount} && "$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no user name spaces here")
    body = f"{reserving}publish(1_000_000, force=False); publish(2**23)"
    listing = "sorted(str(path.relative_to(root)) for path in root.rglob('*'))"
    config = "(root / 'out' / 'config.json').read_text()"
    process = script(tmp_path, f"try: {body}\nfinally: print({listing}, {config})", prefix=inside)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert errors.splitlines() == [
        f"Error: cannot {doing}: No space left on device ({tmp_path / 'out' / 'model.safetensors'}); "
        "free some space or write to another disk"
    ]
    assert output == "['out', 'out/config.json', 'out/model.safetensors'] new config\n"


READY = "publish(2**20, after=lambda: (print('ready', flush=True), [time.sleep(0.05) for _ in range(1200)]))"
"""Many short sleeps: a signal that comes just before one is only seen after it."""
AS_THE_CLI = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "


@pytest.mark.parametrize(
    ("body", "sent", "code", "clean"),
    [
        (READY, signal.SIGINT, -signal.SIGINT, True),
        (AS_THE_CLI + READY, signal.SIGTERM, 143, True),
        (READY, signal.SIGTERM, -signal.SIGTERM, False),
        (READY, signal.SIGKILL, -signal.SIGKILL, False),
    ],
    ids=["ctrl-c", "term", "term-unhandled", "kill"],
)
def test_a_signal_leaves_at_most_a_partial_folder(
    tmp_path: Path, body: str, sent: signal.Signals, code: int, clean: bool
) -> None:
    before = old_output(tmp_path)
    process = script(tmp_path, body)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == code
    after = tree(tmp_path)
    partial = [name for name in after if PARTIAL.fullmatch(name)]
    assert len(partial) == (0 if clean else 1)
    assert {name: content for name, content in after.items() if name not in partial} == before
