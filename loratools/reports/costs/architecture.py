"""`Architecture`: a model as a bill of its parameters, from which every method's cost is computed.

It is made from a config (`families`), from a preset, or from the headers of a real checkpoint; what it is
made from makes no difference to the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import product

__all__ = ["Architecture", "Parts", "Role"]


class Role(str, Enum):
    """What a parameter is; MATRIX is the weight of a linear layer inside a block, what LoRA may adapt."""

    MATRIX = "matrix"
    EMBEDDING = "embedding"
    HEAD = "head"
    NORM = "norm"
    BIAS = "bias"
    NORM_BIAS = "bias of a norm"
    ROUTER = "router"
    OTHER = "other"


BIASES = frozenset({Role.BIAS, Role.NORM_BIAS})


@dataclass(frozen=True, slots=True)
class Parts:
    """Parameters of one kind and shape: `layers.*.self_attn.q_proj` in each of 32 layers.

    `module` has a `*` for each of `numbers`, which say what stands there. A matrix's shape is (out, in),
    however it is stored. `slices` are the matrices that one fused matrix holds, one below the other, each
    with its rows: query, key and value of GPT-2's `c_attn`.
    """

    module: str
    role: Role
    shape: tuple[int, ...]
    numbers: tuple[range, ...] = ()
    slices: tuple[tuple[str, int], ...] = ()

    @property
    def count(self) -> int:
        return math.prod(len(some) for some in self.numbers)

    @property
    def in_a_block(self) -> bool:
        """Whether a number stands in the name: that of a layer."""
        return bool(self.numbers) or any(part.isdigit() for part in self.module.split("."))

    @property
    def parameters(self) -> int:
        return self.count * math.prod(self.shape)

    def modules(self) -> Iterator[str]:
        """The names of the modules, numbers put in."""
        pieces = self.module.split("*")
        for chosen in product(*self.numbers):
            yield pieces[0] + "".join(
                f"{number}{piece}" for number, piece in zip(chosen, pieces[1:], strict=True)
            )


@dataclass(frozen=True)
class Architecture:
    """A model: its measures, and every parameter it has.

    `norm_biases` tells a LayerNorm, of 2d parameters, from an RMSNorm, of d. `key_value_width` is the width
    of keys and of values, which grouped-query attention makes smaller than `hidden`; `prefixed_layers` those
    whose keys and values PEFT gives a prefix (one side of an encoder and decoder; None for all). `counted`
    names the class whose parameters these are, `stored_bytes` the bytes of a real checkpoint (None for a
    config).
    """

    name: str
    source: str
    model_type: str | None
    layers: int
    hidden: int
    parts: tuple[Parts, ...] = field(repr=False)
    heads: int | None = None
    key_value_heads: int | None = None
    key_value_width: int | None = None
    feed_forward: int | None = None
    vocabulary: int | None = None
    positions: int | None = None
    experts: int | None = None
    prefixed_layers: int | None = None
    tied: bool | None = None
    norm_biases: bool = True
    dtype: str | None = None
    counted: str | None = None
    stored_bytes: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def by_role(self) -> Mapping[Role, int]:
        """Parameters of each role."""
        return {role: sum(part.parameters for part in self.parts if part.role is role) for role in Role}

    @property
    def biases(self) -> int:
        """All bias vectors' elements, those of norms too: what BitFit trains."""
        return sum(part.parameters for part in self.parts if part.role in BIASES)

    @property
    def matrices(self) -> tuple[Parts, ...]:
        return tuple(part for part in self.parts if part.role is Role.MATRIX)

    @property
    def block_norms(self) -> int:
        """Norms over the hidden states inside the blocks: what Houlsby et al. train beside their adapters."""
        held = (part for part in self.parts if part.role is Role.NORM and part.in_a_block)
        return sum(part.count for part in held if part.shape == (self.hidden,))
