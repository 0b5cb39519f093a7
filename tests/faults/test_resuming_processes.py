"""Runs as processes of their own, by the command line: killed or interrupted, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import loratools
from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

# The real command, but its engine stops for good after so many results, and says so.
STOPPING = """
import sys, time
from loratools.engine.local import LocalEngine

after = int(sys.argv.pop(1))
run = LocalEngine.run

def stopping(self, *words, **options):
    for number, done in enumerate(run(self, *words, **options), start=1):
        yield done
        if number == after:
            print("stopped", flush=True)
            while True:
                time.sleep(0.05)

LocalEngine.run = stopping
from loratools.cli.process import main
main()
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("inputs")
    tensors = decoder(dtype=torch.bfloat16)
    base = write_decoder(root / "base", tensors)
    return str(base), str(write_adapter(root / "adapter", lora_factors(tensors)))


@pytest.fixture(scope="module")
def expected(given: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run writes that nothing stops."""
    output = tmp_path_factory.mktemp("expected") / "out"
    loratools.merge(given[0], [given[1]], output, undo=True)
    return output


def process(after: int, *line: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STOPPING, str(after), *line],
        env={**os.environ, "PYTHONPATH": str(Path(loratools.__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before or (lambda: signal.signal(signal.SIGINT, signal.default_int_handler)),
    )


def whole(*line: str) -> tuple[int, str, str]:
    with process(0, *line) as run:
        output, errors = run.communicate(timeout=100)
    return run.returncode, output, errors


def stopped(number: int, *line: str) -> tuple[int, str]:
    """A run that got a signal after four results: its exit code, and what it said."""
    with process(4, *line) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "stopped\n"
        run.send_signal(number)
        _, errors = run.communicate(timeout=100)
    return run.returncode, errors


def tree(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


KEPT = "what was done is kept: the same command with --resume goes on from there"


@pytest.mark.parametrize(
    ("number", "resume", "code", "said"),
    [
        (signal.SIGKILL, False, -9, ""),
        (signal.SIGTERM, True, 143, f"Error: terminated; an unfinished output is never published; {KEPT}\n"),
        (signal.SIGINT, True, 130, f"Error: interrupted; an unfinished output is never published; {KEPT}\n"),
    ],
    ids=["kill", "term", "ctrl-c"],
)
def test_a_run_goes_on_after_a_signal(
    number: int, resume: bool, code: int, said: str, given: tuple[str, str], expected: Path, tmp_path: Path
) -> None:
    line = ("merge", *given, "--workers", "1", "--undo", "--json")
    line = (*line, "-o", str(tmp_path / "out"))
    assert stopped(number, *line, *(("--resume",) if resume else ())) == (code, said)
    assert len(list(tmp_path.iterdir())) == 1
    status, output, errors = whole(*line, "--resume")
    assert status == 0, errors
    taken = json.loads(output)["resumed_jobs"]
    assert 4 <= taken < len(json.loads(output)["coverage"])
    assert tree(tmp_path / "out") == tree(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
