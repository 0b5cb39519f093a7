"""Freed memory is had again without a page fault, in a process of its own, since it is for all of one."""

from __future__ import annotations

import subprocess
import sys

import pytest

import loratools

FAULTS = """
import resource, sys, threading
import numpy as np
from loratools.engine.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
    keep_freed_memory()  # a second time changes nothing

def work(rounds):
    for _ in range(rounds):
        for size in (2**14, 2**15, 2**16, 2**17, 2**18):
            held = [np.ones(size) for _ in range(4)]
            del held

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=work, args=(rounds,))
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

work(4)
print(faults(100))
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True,
        cwd=next(iter(loratools.__path__)) + "/..",
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc")
def test_arrays_take_the_place_of_those_before() -> None:
    """Arrays of 32 to 512 pages, four of each, a hundred times over."""
    kept = faults("kept")
    assert kept < 5_000
    assert faults("left") > 4 * kept
