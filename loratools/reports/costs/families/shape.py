"""`Shape`: what a family finds in a config: its measures, and the inventory of its parameters."""

from __future__ import annotations

from dataclasses import dataclass

from loratools.reports.costs.inventory import Inventory

__all__ = ["Shape", "qkv"]


@dataclass(frozen=True)
class Shape:
    """The measures of a model, as `Architecture` has them, beside the inventory of its parameters.

    `prefixed_layers` are those whose keys and values PEFT gives a prefix, where that is not all.
    """

    inventory: Inventory
    layers: int
    hidden: int
    heads: int | None
    key_value_heads: int | None
    key_value_width: int | None
    feed_forward: int | None
    vocabulary: int | None
    positions: int | None
    tied: bool | None = None
    norm_biases: bool = True
    experts: int | None = None
    prefixed_layers: int | None = None
    notes: tuple[str, ...] = ()


def qkv(query: int, key_value: int) -> tuple[tuple[str, int], ...]:
    """The rows of query, key and value in a matrix that holds all three."""
    return (("q", query), ("k", key_value), ("v", key_value))
