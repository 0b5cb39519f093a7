"""The undo record: its size beside the least there can be; `merge --undo` and `unmerge` beside `merge`.

    python tests/benchmarks/undo.py --layers 2

For each dtype and size of the update, Llama layers with Gaussian weights and a LoRA of rank 16 on all linear
layers. The bound is the entropy of the base's numbers given the merged ones and the update, as a share of
the tensors' bytes: the mean of log2 N, N the base numbers that an element may have been. Times are wall
clock, the start of Python included, three commands in turn; the restored files are compared with the base's.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.lora_files import write_adapter
from loratools.linalg.predecessors import Maps, Predecessors
from loratools.operations.precision import arithmetic_dtype
from tests.benchmarks.paired import Contender, run

SHAPES = {
    "self_attn.q_proj": (2048, 2048),
    "self_attn.k_proj": (512, 2048),
    "self_attn.v_proj": (512, 2048),
    "self_attn.o_proj": (2048, 2048),
    "mlp.gate_proj": (8192, 2048),
    "mlp.up_proj": (8192, 2048),
    "mlp.down_proj": (2048, 8192),
}
GOALS = {
    "bfloat16": {1e-3: 0.04, 1e-2: 0.25, 1e-1: 1.5},
    "float16": {1e-3: 0.04, 1e-2: 0.25, 1e-1: 1.5},
    "float32": {1e-3: 0.02, 1e-2: 0.12, 1e-1: 0.75},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    loratools = shutil.which("loratools", path=sysconfig.get_path("scripts"))
    if loratools is None:
        parser.error("loratools is not installed beside this Python")
    print(
        "| dtype | update / weight | record, % of tensors | bound | goal | merge | merge --undo | unmerge |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for dtype, goals in GOALS.items():
        for size, goal in goals.items():
            with tempfile.TemporaryDirectory(prefix="undo-") as work:
                print(
                    _row(loratools, Path(work), dtype, size, goal, options.layers, options.rounds), flush=True
                )


def _row(loratools: str, work: Path, dtype: str, size: float, goal: float, layers: int, rounds: int) -> str:
    base, adapter = _written(work, dtype, size, layers)
    merged = [loratools, "merge", str(base), str(adapter), "-o"]
    contenders = [
        Contender("merge", [*merged, str(work / "plain")], work / "plain"),
        Contender("merge --undo", [*merged, str(work / "merged"), "--undo"], work / "merged"),
        Contender(
            "unmerge", [loratools, "unmerge", str(work / "merged"), "-o", str(work / "back")], work / "back"
        ),
    ]
    runs = [[run(contender) for contender in contenders] for _ in range(rounds + 1)][1:]
    if not filecmp.cmp(base / "model.safetensors", work / "back" / "model.safetensors", shallow=False):
        raise RuntimeError("what came back is not the base")
    told = subprocess.run(
        [*merged, str(work / "again"), "--undo", "--json"], capture_output=True, check=True, text=True
    )
    share = json.loads(told.stdout)["undo"]["interval_share"]
    seconds = statistics.median(one[0].wall for one in runs)
    ratios = [f"{statistics.median(one[place].wall / one[0].wall for one in runs):.2f}x" for place in (1, 2)]
    return (
        f"| {dtype} | {size:g} | {100 * share:.4f} | {100 * _bound(dtype, size):.4f} | {goal:g} "
        f"| {seconds:.2f} s | {ratios[0]} | {ratios[1]} |"
    )


def _written(work: Path, dtype: str, size: float, layers: int) -> tuple[Path, Path]:
    generator = torch.Generator().manual_seed(0)
    tensors, factors = {}, {}
    for layer in range(layers):
        for name, (out, into) in SHAPES.items():
            module = f"model.layers.{layer}.{name}"
            tensors[f"{module}.weight"] = (0.02 * torch.randn(out, into, generator=generator)).to(
                getattr(torch, dtype)
            )
            A = torch.randn(16, into, generator=generator) / 4.0
            factors[module] = (A, 0.02 * size * torch.randn(out, 16, generator=generator))
    (work / "base").mkdir()
    save_file(tensors, work / "base" / "model.safetensors", metadata={"format": "pt"})
    (work / "base" / "config.json").write_text('{"model_type": "llama"}')
    return work / "base", write_adapter(work / "adapter", factors)


def _bound(dtype: str, size: float) -> float:
    """Bits of an element that nothing can do without, over the bits that it has."""
    generator = np.random.default_rng(0)
    weight = torch.from_numpy(0.02 * generator.standard_normal((1024, 1024))).to(getattr(torch, dtype))
    update = 0.02 * size * generator.standard_normal((1024, 16)) @ generator.standard_normal((16, 1024)) / 4.0
    merged = (weight.double() + torch.from_numpy(update)).to(weight.dtype).flatten()
    bits = merged.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else merged.numpy()
    shift = update.ravel()
    maps = Maps(np.ones_like(shift), shift, np.abs(shift), 16)
    count = Predecessors.of(bits, maps, dtype, arithmetic_dtype("float32")).count
    return float(np.log2(np.maximum(count, 1)).mean()) / (8 * bits.itemsize)


if __name__ == "__main__":
    main()
