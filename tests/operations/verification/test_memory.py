"""Memory of `verify` follows neither the checkpoint nor its largest tensor, however that is shaped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

RUN = """
import json, sys
import loratools
report = loratools.verify(sys.argv[1:], workers=1)
print(json.dumps([report.peak_bytes, report.ok, "torch" in sys.modules]))
"""


def peak(*references: Path) -> int:
    """Peak of anonymous memory of a process that verifies, without torch."""
    command = [sys.executable, "-c", RUN, *map(str, references)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found, ok, with_torch = json.loads(done.stdout)
    assert ok and not with_torch
    return int(found)


def one_tensor(path: Path, shape: tuple[int, ...]) -> Path:
    save_file({"w": torch.ones(shape, dtype=torch.bfloat16)}, path)
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is not known here")
@pytest.mark.parametrize("shape", [(1, 40_000_000), (40_000_000,), (20_000, 2000)], ids=str)
def test_memory_does_not_follow_a_tensor(shape: tuple[int, ...], tmp_path: Path) -> None:
    small = peak(one_tensor(tmp_path / "small.safetensors", (8, 8)))
    large = peak(one_tensor(tmp_path / "large.safetensors", shape))
    assert large - small < 8e6
