"""A merge holds a few blocks and the adapter, whatever the checkpoint's size, and imports no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder

RUN = """
import json, sys
from loratools.operations.merge import merge

report = merge(sys.argv[1], [sys.argv[2]], sys.argv[3], workers=2)
print(json.dumps([report.peak_bytes, "torch" in sys.modules]))
"""


def peak(folder: Path, layers: int) -> tuple[int, int]:
    """(bytes of the checkpoint, peak anonymous memory of a process that merges into it)."""
    import json

    tensors = decoder(dtype=torch.bfloat16, layers=layers, hidden=1024, ffn=2048)
    base = write_decoder(folder / f"base{layers}", tensors)
    adapter = write_adapter(folder / f"adapter{layers}", lora_factors(tensors, modules=["up_proj", "q_proj"]))
    command = [sys.executable, "-c", RUN, str(base), str(adapter), str(folder / f"out{layers}")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found, with_torch = json.loads(done.stdout)
    assert not with_torch
    return sum(tensor.nbytes for tensor in tensors.values()), found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is not known here")
def test_memory_does_not_follow_the_checkpoint(tmp_path: Path) -> None:
    small, small_peak = peak(tmp_path, 1)
    large, large_peak = peak(tmp_path, 8)
    assert large - small > 80e6
    assert large_peak - small_peak < 0.15 * (large - small)
