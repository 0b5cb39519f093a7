"""Signals while jobs are under way go to the thread that runs them, and never to a worker."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from loratools.engine.local import LocalEngine

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals of POSIX")


@dataclass(frozen=True)
class Asking:
    """Says which signals its worker holds back."""

    name: str
    bytes: int = 1

    def run(self, workspace: Path) -> set[int]:
        return set(signal.pthread_sigmask(signal.SIG_BLOCK, []))


@pytest.fixture
def handled() -> Iterator[None]:
    """SIGTERM has a handler of Python, as the command line gives it one; SIGINT has Python's own."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("handled")
def test_workers_hold_signals_back_and_the_run_does_not(tmp_path: Path) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    for _, held in LocalEngine(2).run("asking", [Asking("one"), Asking("two")], tmp_path, torch=False):
        assert {signal.SIGINT, signal.SIGTERM} <= held
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
