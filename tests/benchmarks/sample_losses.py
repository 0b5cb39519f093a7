"""Held-out loss on the bundled sample: adapters extracted from the full fine-tune beside trained LoRA.

    python tests/benchmarks/sample_losses.py

Extracts at each rank with `--rest save` and `--rest drop`, loads each result with real PEFT, and prints the
mean held-out loss in nats a token and the bytes of the adapter's weights. Needs `loratools[transformers]`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import loratools
from loratools import sample
from loratools.sample.heldout import heldout_loss

RANKS = (4, 8, 16, 64)


def main() -> None:
    base, tuned = sample.path("base"), sample.path("tuned")
    print("| | held-out loss, nats a token | bytes |\n|---|---|---|")
    _row("base", heldout_loss(base), base / "model.safetensors")
    _row("full fine-tune", heldout_loss(tuned), tuned / "model.safetensors")
    with tempfile.TemporaryDirectory(prefix="sample-losses-") as work:
        for rank in RANKS:
            trained = sample.path(f"lora-r{rank}")
            _row(
                f"LoRA trained, rank {rank}",
                heldout_loss(base, trained),
                trained / "adapter_model.safetensors",
            )
            for rest in ("save", "drop"):
                output = Path(work) / f"{rest}-{rank}"
                loratools.extract(base, tuned, output, rank=rank, rest=rest, save_dtype="bfloat16")
                name = f"extracted, rank {rank}, `--rest {rest}`"
                _row(name, heldout_loss(base, output), output / "adapter_model.safetensors")


def _row(name: str, loss: float, weights: Path) -> None:
    print(f"| {name} | {loss:.3f} | {weights.stat().st_size:,} |", flush=True)


if __name__ == "__main__":
    main()
