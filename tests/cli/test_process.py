"""The command line as a process: signals, pipes, a full disk, completion."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import loratools

ROOT = Path(loratools.__file__).parent.parent

posix = pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")

# The real command, but its engine stops after the first job and says so, with the output half written.
STOPPING = """
import sys, time
from loratools.engine.local import LocalEngine

run = LocalEngine.run

def stopping(self, *words, **options):
    for done in run(self, *words, **options):
        yield done
        print("half way", flush=True)
        for _ in range(1200):  # a signal that comes just before one sleep is only seen after it
            time.sleep(0.05)

LocalEngine.run = stopping
from loratools.cli.process import main
main()
"""

# The real command, interrupted while it is imported.
EARLY = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            signal.raise_signal(signal.{number})

sys.meta_path.insert(0, Finder())
from loratools.cli.process import main
main()
"""

# A signal in the middle of an import of torch, which C++ code would not survive.
IN_TORCH = """
import sys, time, types
from importlib.machinery import ModuleSpec
from loratools.cli import process

class Torch:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == "torch" else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec("import signal\\nsignal.raise_signal(signal.{number})\\nprint('imported')", module.__dict__)

def run():
    import torch
    while True:
        time.sleep(0.01)

sys.meta_path.insert(0, Torch())
process._run = run
process.main()
"""

# The real command, and then what Python would still answer to signals.
AFTERWARDS = """
import signal, sys
from loratools.cli.process import main
try:
    main()
except SystemExit as done:
    print(done.code, *(signal.getsignal(number).name for number in (signal.SIGINT, signal.SIGTERM)))
"""

# The real command, interrupted when its output stands and only its report is to be told.
LATE = """
import os, signal
from loratools.cli import render

render._print = lambda *words: os.kill(os.getpid(), signal.{number})
from loratools.cli.process import main
main()
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def loratools_process(*line: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loratools", *line],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def as_in_a_terminal() -> None:
    """Ctrl-C works in the child even if the tests themselves run in the background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@posix
@pytest.mark.parametrize(
    ("verb", "number", "code", "says"),
    [("extract", signal.SIGINT, 130, "interrupted"), ("merge", signal.SIGTERM, 143, "terminated")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_leaves_nothing_behind(
    verb: str, number: signal.Signals, code: int, says: str, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPING, verb, "-o", "out"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_in_a_terminal,
    ) as process:
        assert process.stdout is not None
        half_way = process.stdout.readline()
        begun = [path.name.partition(".partial-")[0] for path in tmp_path.iterdir()]
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert half_way == "half way\n", errors
    assert begun == ["out"]
    assert process.returncode == code
    assert errors == f"Error: {says}; an unfinished output is never published\n"
    assert list(tmp_path.iterdir()) == []


def run_script(code: str, *line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *line],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=as_in_a_terminal,
    )


@posix
@pytest.mark.parametrize(
    ("number", "code", "says"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")]
)
def test_a_signal_during_the_first_imports_is_one_line(
    number: str, code: int, says: str, tmp_path: Path
) -> None:
    done = run_script(EARLY.format(number=number), "inspect", cwd=tmp_path)
    assert done.stderr == f"Error: {says}; an unfinished output is never published\n"
    assert done.returncode == code


@posix
@pytest.mark.parametrize(
    ("number", "code", "says"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")]
)
def test_a_signal_waits_until_torch_is_imported(number: str, code: int, says: str, tmp_path: Path) -> None:
    done = run_script(IN_TORCH.format(number=number), cwd=tmp_path)
    assert done.stdout == "imported\n"
    assert done.stderr == f"Error: {says}; an unfinished output is never published\n"
    assert done.returncode == code


@posix
@pytest.mark.parametrize(
    ("line", "code"), [(["inspect", "--quiet"], 0), (["inspect", "nowhere"], 1), (["inspekt"], 2)]
)
def test_signals_no_longer_count_once_all_is_done(line: list[str], code: int, tmp_path: Path) -> None:
    done = run_script(AFTERWARDS, *line, cwd=tmp_path)
    assert done.stdout == f"{code} SIG_IGN SIG_IGN\n"


@posix
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_after_publication_is_no_failure(number: str, tmp_path: Path) -> None:
    done = run_script(LATE.format(number=number), "merge", "-o", "out", cwd=tmp_path)
    assert done.stderr == "Warning: interrupted when out was already published: it is whole\n"
    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@posix
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "loratools", "inspect"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "loratools", "inspect", "--json"],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: No space left on device\n"


@pytest.mark.parametrize(
    ("words", "at", "offered"),
    [("loratools un", 1, ["unmerge"]), ("loratools extract --save", 2, ["--save-dtype"])],
    ids=["verb", "option"],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, words: str, at: int, offered: list[str], tmp_path: Path) -> None:
    current = words.split()[-1]
    done = loratools_process(
        cwd=tmp_path,
        _LORATOOLS_COMPLETE=f"{shell}_complete",
        COMP_WORDS=words,
        COMP_CWORD=current if shell == "fish" else str(at),
    )
    assert done.stderr == ""
    for word in offered:
        assert word in done.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_completion_script_names_the_command(shell: str, tmp_path: Path) -> None:
    done = loratools_process(cwd=tmp_path, _LORATOOLS_COMPLETE=f"{shell}_source")
    assert done.returncode == 0
    assert "_LORATOOLS_COMPLETE" in done.stdout


def test_inspect_is_quick_enough_to_be_asked_in_passing(tmp_path: Path) -> None:
    """No time is measured here: what costs time is an import, and which there are is certain."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\nfrom loratools.cli.app import application\n"
            "try: application.main(['inspect', '--json'], prog_name='loratools')\n"
            "except SystemExit: print(*(m for m in sys.modules if '.' not in m), file=sys.stderr)",
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "scipy", "transformers", "peft", "rich"} & set(done.stderr.split())


@posix
def test_the_sigterm_handler_is_only_set_for_the_process_of_the_command() -> None:
    before = signal.getsignal(signal.SIGTERM)
    from loratools.cli import process

    assert callable(process.main)
    assert signal.getsignal(signal.SIGTERM) is before


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_failure(closed: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m loratools merge -o {tmp_path}/out {closed}"
    ended = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=100
    )
    assert ended.returncode == 0 and "Traceback" not in ended.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()
