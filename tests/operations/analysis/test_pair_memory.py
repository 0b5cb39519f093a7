"""Memory of analyzing a pair holds some matrices, whatever the number of layers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.pairs import llama_pair

RUN = """
import json, sys
import loratools
print(json.dumps(loratools.analyze(sys.argv[1:], ranks=[4], workers=1).peak_bytes))
"""


def peak(folder: Path, layers: int) -> int:
    pair = llama_pair(folder / str(layers), layers=layers, hidden=512, ffn=1024)
    command = [sys.executable, "-c", RUN, str(pair.base), str(pair.tuned)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is not known here")
def test_memory_does_not_follow_the_checkpoint(tmp_path: Path) -> None:
    """Four more layers are 21 MB a side."""
    assert peak(tmp_path, 6) - peak(tmp_path, 2) < 7e6
