"""Held-out loss on the bundled sample: adapters extracted from the full fine-tune beside trained LoRA.

    python tests/benchmarks/sample_losses.py

Extracts at each rank with `--rest save` and `--rest drop`, loads each result with real PEFT, and prints the
mean held-out loss in nats a token, the share of the fine-tune's gain over the base that it is, and the bytes
of the adapter's weights. Needs `loratools[transformers]`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import loratools
from loratools import sample
from loratools.sample.heldout import heldout_loss

RANKS = (4, 8, 16, 64)


def main() -> None:
    base, tuned = sample.path("base"), sample.path("tuned")
    print("| | held-out loss, nats a token | of the fine-tune's gain | bytes |\n|---|---:|---:|---:|")
    scale = _Scale(heldout_loss(base), heldout_loss(tuned))
    scale.row("base", scale.base, base / "model.safetensors")
    scale.row("full fine-tune", scale.tuned, tuned / "model.safetensors")
    with tempfile.TemporaryDirectory(prefix="sample-losses-") as work:
        for rank in RANKS:
            trained = sample.path(f"lora-r{rank}")
            scale.row(
                f"LoRA trained, rank {rank}",
                heldout_loss(base, trained),
                trained / "adapter_model.safetensors",
            )
            for rest in ("save", "drop"):
                output = Path(work) / f"{rest}-{rank}"
                loratools.extract(base, tuned, output, rank=rank, rest=rest, save_dtype="bfloat16")
                name = f"extracted, rank {rank}, `--rest {rest}`"
                scale.row(name, heldout_loss(base, output), output / "adapter_model.safetensors")


@dataclass(frozen=True)
class _Scale:
    """The losses between which the others lie."""

    base: float
    tuned: float

    def row(self, name: str, loss: float, weights: Path) -> None:
        gain = (self.base - loss) / (self.base - self.tuned)
        print(f"| {name} | {loss:.3f} | {100 * gain:.0f} % | {weights.stat().st_size:,} |", flush=True)


if __name__ == "__main__":
    main()
