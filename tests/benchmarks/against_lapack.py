"""Residuals of an extraction beside LAPACK's optimum in float64, module by module, and the way back.

    python tests/benchmarks/against_lapack.py                 # the bundled sample
    python tests/benchmarks/against_lapack.py --layers 2      # Llama layers: hidden 2048, ffn 8192, bf16

Prints, for each module at rank 16: LAPACK's residual of the delta read by the safetensors package, ours as
measured on the stored factors by numpy, their ratio - 1, and the certificate's bound on it. Then extracts at
full rank, merges, and prints the share of tuned's elements that came back bit for bit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import loratools
from fixtures.campaign_figures import Figures
from fixtures.pairs import llama_pair
from loratools import sample

RANK = 16
COLUMNS = ("module", "LAPACK's residual", "ours", "excess", "certified")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, help="of a generated pair; without it the sample is taken")
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="against-lapack-") as work:
        folder = Path(work)
        base, tuned = sample.path("base"), sample.path("tuned")
        if options.layers:
            pair = llama_pair(folder, layers=options.layers)
            base, tuned = pair.base, pair.tuned
        rows = compare(base, tuned, folder / "adapter")
        worst = f"worst excess {max(float(row[3]) for row in rows):.1e}"
        print(f"\n{worst}")
        came_back = come_back(base, tuned, folder)
        print(f"\n{came_back}")
    if options.write:
        words = f"--layers {options.layers} --write" if options.layers else "--write"
        command = f"python tests/benchmarks/against_lapack.py {words}"
        name = f"{options.layers}-layers" if options.layers else "sample"
        Figures(command, COLUMNS, rows, f"{worst}; {came_back}.").write(f"against_lapack-{name}")


def compare(base: Path, tuned: Path, output: Path) -> list[tuple[str, ...]]:
    report = loratools.extract(base, tuned, output, rank=RANK)
    before, after, adapter = tensors(base), tensors(tuned), tensors(output)
    print(f"| {' | '.join(COLUMNS)} |\n|---|---|---|---|---|")
    rows = []
    for row in report.modules or ():
        name = f"{row.name}.weight"
        delta = after[name].double() - before[name].double()
        values = np.linalg.svd(delta.numpy(), compute_uv=False)
        norm = float(np.linalg.norm(values))
        optimum = float(np.linalg.norm(values[RANK:])) / norm
        key = f"base_model.model.{row.name}"
        A, B = (adapter[f"{key}.lora_{factor}.weight"].double() for factor in "AB")
        ours = float(torch.linalg.matrix_norm(delta - B @ A)) / norm
        residuals = (f"{optimum:.6f}", f"{ours:.6f}")
        rows.append((row.name, *residuals, f"{ours / optimum - 1:.1e}", f"{row.excess:.1e}"))
        print(f"| {' | '.join(rows[-1])} |", flush=True)
    return rows


def come_back(base: Path, tuned: Path, folder: Path) -> str:
    full = max(min(spec.shape) for spec in loratools.open_checkpoint(tuned).values() if len(spec.shape) == 2)
    loratools.extract(base, tuned, folder / "full", rank=full, svd="exact")
    loratools.merge(base, [folder / "full"], folder / "merged")
    after, merged = tensors(tuned), tensors(folder / "merged")
    same = sum(int((after[name].view(torch.int16) == merged[name].view(torch.int16)).sum()) for name in after)
    total = sum(tensor.numel() for tensor in after.values())
    share = f"{same / total:.6%} of {total:,} elements"
    return f"extracted at rank {full} and merged: {share} are as in tuned, bit for bit"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    return found


if __name__ == "__main__":
    main()
