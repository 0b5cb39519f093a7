"""What rounding leaves of small updates: to nearest, and by chance.

    python tests/benchmarks/swallowed_updates.py

A Gaussian weight W in bfloat16 and Gaussian updates D of rank 16, smaller and smaller beside it. `changed` is
the share of elements that differ afterwards; `error` is what `merge` reports, the norm of what rounding made
of the update over the update's; `kept` the update's share in what was added, <W' - W, D> / ||D||^2; and
`where it acts` the error on the inputs that the update reads, ||(W' - W - D) V|| / ||D V||, V its right
singular vectors.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from loratools.linalg.rounding import bfloat16_to_float32
from loratools.operations.precision import rounded
from loratools.operations.seeds import draws_of

RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=2048)
    width = parser.parse_args().width
    print("| update / weight | rounding | changed | error | kept | where it acts |")
    print("|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    weight = _values(rounded(0.02 * rng.standard_normal((width, width)).astype(np.float32), "bfloat16"))
    A, B = rng.standard_normal((RANK, width)), rng.standard_normal((width, RANK))
    for size in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        update = B @ A
        update *= size * np.linalg.norm(weight) / np.linalg.norm(update)
        directions = np.linalg.qr(A.T)[0]  # (width, rank)
        draws = draws_of(0, "weight").at(0, weight.size).reshape(weight.shape)
        for name, drawn in (("nearest", None), ("stochastic", draws)):
            after = _values(rounded((weight + update).astype(np.float32), "bfloat16", drawn))
            print(f"| {size:g} | {name} | {_figures(after - weight, update, directions)} |")


def _figures(moved: NDArray[np.float64], update: NDArray[np.float64], directions: NDArray[np.float64]) -> str:
    lost = moved - update
    error = np.linalg.norm(lost) / np.linalg.norm(update)
    kept = np.vdot(moved, update) / np.vdot(update, update)
    acting = np.linalg.norm(lost @ directions) / np.linalg.norm(update @ directions)
    return f"{100 * np.mean(moved != 0):.3g} % | {error:.2g} | {kept:.3f} | {acting:.2g}"


def _values(bits: NDArray[np.uint16]) -> NDArray[np.float64]:
    return bfloat16_to_float32(bits).astype(np.float64)


if __name__ == "__main__":
    main()
