"""Training memory by part: weights, gradients, Adam's moments and master weights (§2 and §4.2 of the paper).

Activations, buffers and what the framework keeps for itself are left out: they depend on batch and length,
and are about the same for every method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loratools.reports.costs.rows import MemoryRow, Method, Setting

__all__ = ["MIXED", "PRECISIONS", "Precision", "memory_rows", "training_bytes"]


@dataclass(frozen=True, slots=True)
class Precision:
    """Bytes an element, of every weight and of what is trained.

    `moments` are Adam's two together (Kingma and Ba 2015); `master` the float32 copy that mixed precision
    updates (Micikevicius et al. 2018).
    """

    name: str
    weights: int
    gradients: int
    moments: int
    master: int


MIXED = Precision("mixed", 2, 2, 8, 4)
PRECISIONS = (
    Precision("float32", 4, 4, 8, 0),
    MIXED,
    Precision("16-bit, float32 moments", 2, 2, 8, 0),
    Precision("16-bit", 2, 2, 4, 0),
)
"""16-bit is bfloat16 or float16: they take the same room."""


def training_bytes(
    precision: Precision,
    *,
    frozen: int,
    trained: int,
    method: Method,
    settings: dict[str, Setting],
    full: int,
) -> MemoryRow:
    """The parts of one training run.

    Args:
        frozen: parameters that are held and not trained; they have neither gradients nor moments.
        trained: parameters that are.
        full: the total of the full fine-tune at this precision, for the ratio; 0 for its own row.
    """
    parts = (
        precision.weights * (frozen + trained),
        precision.gradients * trained,
        precision.moments * trained,
        precision.master * trained,
    )
    total = sum(parts)
    return MemoryRow(method, settings, trained, precision.name, *parts, total, full / total if full else 1.0)


def memory_rows(parameters: int, loras: Sequence[tuple[dict[str, Setting], int]]) -> Iterator[MemoryRow]:
    """For each precision, the full fine-tune and LoRA at each rank.

    Args:
        parameters: of the model.
        loras: the settings of each LoRA, and the parameters that it trains.
    """
    for precision in PRECISIONS:
        full = training_bytes(
            precision, frozen=0, trained=parameters, method=Method.FULL, settings={}, full=0
        )
        yield full
        for settings, trained in loras:
            yield training_bytes(
                precision,
                frozen=parameters,
                trained=trained,
                method=Method.LORA,
                settings=settings,
                full=full.total,
            )
