"""The memory sampler against allocations of a known size."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from loratools.engine import memory
from loratools.engine.memory import PeakMemory, anonymous_bytes

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")

BLOCK = 64 * 2**20


@linux
def test_a_block_that_is_freed_again_counts() -> None:
    with PeakMemory() as sampler:
        before = anonymous_bytes()
        assert before is not None
        block = bytearray(b"x") * BLOCK  # written to, so that the pages are there
        time.sleep(5 * memory.SAMPLE_SECONDS)
        del block
    assert sampler.peak_bytes is not None
    assert before + BLOCK <= sampler.peak_bytes < before + 1.5 * BLOCK


@linux
def test_pages_of_a_file_do_not_count(tmp_path: Path) -> None:
    import mmap

    file = tmp_path / "file"
    file.write_bytes(bytes(BLOCK))
    with PeakMemory() as sampler:
        before = anonymous_bytes()
        assert before is not None
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert sum(mapped[:: mmap.PAGESIZE]) == 0
            time.sleep(3 * memory.SAMPLE_SECONDS)
    assert sampler.peak_bytes is not None
    assert sampler.peak_bytes < before + BLOCK / 2


def test_the_peak_is_known_while_the_block_runs_and_stays_afterwards() -> None:
    with PeakMemory() as sampler:
        during = sampler.peak_bytes
    after = sampler.peak_bytes
    assert during is not None
    assert after is not None
    assert after >= during
    block = bytearray(b"x") * BLOCK
    assert sampler.peak_bytes == after
    del block


def test_an_error_passes_through_and_stops_the_sampler() -> None:
    sampler = PeakMemory()
    with pytest.raises(ValueError, match="mine"), sampler:
        raise ValueError("mine")
    assert not sampler._thread.is_alive()


@pytest.mark.skipif(sys.platform == "win32", reason="has no resource module")
def test_without_proc_the_largest_resident_size_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent")
    assert anonymous_bytes() is None
    with PeakMemory() as sampler:
        pass
    assert sampler.peak_bytes is not None
    assert sampler.peak_bytes > 2**20
