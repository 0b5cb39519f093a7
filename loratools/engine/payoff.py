"""When a device pays: what its transfers and its start cost, against the time that it saves the processor.

Reading, hashing and writing stay on the processor either way and are in neither sum. The rates are those of
modest machines: where they err, the processor keeps work that a device would have done a little sooner.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["RATES", "Rates", "Work", "device_seconds", "pays", "processor_seconds", "total"]

_MARGIN = 0.8
"""A device is taken where it needs at most this share of the processor's time."""


@dataclass(frozen=True)
class Work:
    """What jobs would move to and from a device, and what would be computed there.

    `moved`: bytes over the bus, both ways; `passed`: bytes of weights that arithmetic goes over, element by
    element; `multiplications`: those of matrix products; `blocks`: how many are started on their way.
    """

    moved: int = 0
    passed: int = 0
    multiplications: float = 0.0
    blocks: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.moved + other.moved,
            self.passed + other.passed,
            self.multiplications + other.multiplications,
            self.blocks + other.blocks,
        )


@dataclass(frozen=True)
class Rates:
    """What is assumed of machines, by the second."""

    bus: float = 1.0e10
    """Bytes between pinned memory and a device: PCIe 3.0 x16, which holds 1.2e10 to 1.3e10."""
    processor_bytes: float = 5.0e8
    """Bytes of weights that one core widens, adds to, rounds and tallies."""
    processor_multiplications: float = 1.5e10
    """Float32 multiplications of one core in products with a skinny matrix."""
    device_multiplications: float = 1.0e12
    """The same of a device: such products are bound by its memory, and far below what its data sheet says."""
    start: float = 4.0
    """Seconds until the first device works: the context, its libraries, and torch itself."""
    block: float = 1.0e-3
    """Seconds that starting one block's kernels takes of a core."""


RATES = Rates()


def total(works: Iterable[Work]) -> Work:
    return sum(works, Work())


def processor_seconds(work: Work, workers: int, rates: Rates = RATES) -> float:
    """What `workers` cores need for what a device would take off them."""
    passing = work.passed / rates.processor_bytes
    return (passing + work.multiplications / rates.processor_multiplications) / workers


def device_seconds(work: Work, devices: int, rates: Rates = RATES) -> float:
    """What so many devices, each on a bus of its own, need for it, with their start."""
    each = work.moved / rates.bus + work.multiplications / rates.device_multiplications
    return rates.start + (each + work.blocks * rates.block) / devices


def pays(work: Work, *, workers: int, devices: int, rates: Rates = RATES) -> bool:
    """Whether the gain exceeds what the transfers and the start cost."""
    return device_seconds(work, devices, rates) <= _MARGIN * processor_seconds(work, workers, rates)
