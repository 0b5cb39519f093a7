"""What a provenance says of the device: its kind, where that was not the processor."""

from __future__ import annotations

from dataclasses import replace

from loratools.checkpoints.provenance import Provenance
from loratools.engine.device import Kind

__all__ = ["made_on"]


def made_on(record: Provenance, kind: Kind) -> Provenance:
    """The record of what devices of a kind computed: the same run on the processor may end in other last
    bits, so that the kind is an option that changes the result. Which device it was does not."""
    if kind is Kind.CPU:
        return record
    return replace(record, options={**record.options, "device": kind.value})
