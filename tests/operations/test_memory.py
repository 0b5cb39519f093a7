"""Memory holds some blocks or modules and the adapter, whatever the checkpoint's size.

One worker: with two, the peak is a matter of which modules' peaks happen to meet (up to 20 MB here).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fixtures.lora_files import decoder, exact_sum, lora_factors, write_adapter, write_decoder

RUN = """
import json, sys
import loratools
verb, first, second, output = sys.argv[1:]
options = {"rank": 4} if verb == "extract" else {}
report = getattr(loratools, verb)(first, second, output, workers=1, **options)
print(json.dumps([report.peak_bytes, "torch" in sys.modules]))
"""


RANK = {"extract": 4, "merge": 64, "unmerge": 64}
"""Where adapters are read, of one that would be seen if it were held: 6 and 19 MB."""


def peak(verb: str, folder: Path, layers: int) -> tuple[int, int]:
    """(bytes of the checkpoint, peak anonymous memory of a process that works on it)."""
    tensors = decoder(dtype=torch.bfloat16, layers=layers, hidden=1024, ffn=2048)
    base = write_decoder(folder / f"base{layers}", tensors)
    factors = lora_factors(tensors, modules=["up_proj", "q_proj"], rank=RANK[verb])
    if verb == "extract":
        changed = {name: value.bfloat16() for name, value in exact_sum(tensors, (factors, 1.0)).items()}
        other = write_decoder(folder / f"tuned{layers}", changed)
    else:
        other = write_adapter(folder / f"adapter{layers}", factors)
    command = [sys.executable, "-c", RUN, verb, str(base), str(other), str(folder / f"out{layers}")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found, with_torch = json.loads(done.stdout)
    assert with_torch == (verb == "extract")
    return sum(tensor.nbytes for tensor in tensors.values()), found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is not known here")
@pytest.mark.parametrize("verb", ["extract", "merge", "unmerge"])
def test_memory_does_not_follow_the_checkpoint(verb: str, tmp_path: Path) -> None:
    small, small_peak = peak(verb, tmp_path, 4)
    large, large_peak = peak(verb, tmp_path, 12)
    assert large - small > 80e6
    assert large_peak - small_peak < 0.15 * (large - small)
    if verb != "extract":
        assert large_peak < 1.1 * small_peak


FORETELL = """
import json, sys
import loratools
base, tuned = "loratools-sample/base", "loratools-sample/tuned"
def foretold():
    extracted = loratools.extract(base, tuned, dry_run=True).to_json()["plan"]
    analysed = loratools.analyze([base, tuned], dry_run=True).to_json()["plan"]
    return [extracted["memory_bytes"], analysed["memory_bytes"], "torch" in sys.modules]
before = foretold()
import loratools.operations.extract_work, loratools.operations.analysis.pairs
print(json.dumps([before, foretold()]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is not known here")
def test_a_plan_without_torch_foretells_the_peak_with_it() -> None:
    done = subprocess.run([sys.executable, "-c", FORETELL], check=True, capture_output=True, text=True)
    (*without, none), (*with_torch, loaded) = json.loads(done.stdout)
    assert (none, loaded) == (False, True)
    for one, other in zip(without, with_torch, strict=True):
        assert abs(one - other) < 20e6  # of 139 MB
