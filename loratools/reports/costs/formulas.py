"""The parameters that each method trains, by the formulas of Hu et al. (2021), §5.1, and of its sources.

Each returns a `Count`: the formula in symbols, the same with the numbers put in, and its value. d is the
hidden size, L the number of layers, r a rank or the width of a bottleneck, l_p and l_i the lengths of a
prefix and an infix.
"""

from __future__ import annotations

from dataclasses import dataclass

from loratools.reports.costs.architecture import BIASES, Architecture, Role
from loratools.reports.costs.targets import Targets

__all__ = [
    "Count",
    "adapter_layers",
    "bitfit",
    "full",
    "lora",
    "prefix_embedding",
    "prefix_key_values",
    "prefix_layer",
    "prompt",
]


@dataclass(frozen=True, slots=True)
class Count:
    """A number of parameters: how it comes about, in symbols and in numbers."""

    formula: str
    evaluation: str
    value: int


_PLURALS = {
    Role.MATRIX: "matrices",
    Role.EMBEDDING: "embeddings",
    Role.HEAD: "head",
    Role.NORM: "norms",
    Role.BIAS: "biases",
    Role.NORM_BIAS: "norms' biases",
    Role.ROUTER: "routers",
    Role.OTHER: "others",
}


def full(model: Architecture) -> Count:
    """All parameters, by what they are."""
    held = {_PLURALS[role]: count for role, count in model.by_role.items() if count}
    return Count(
        "all parameters: " + " + ".join(held),
        " + ".join(f"{count:,}" for count in held.values()),
        model.parameters,
    )


def bitfit(model: Architecture) -> Count:
    """All bias vectors, norms' too, and nothing else (Ben Zaken et al. 2021; baseline of §5.1)."""
    widths: dict[int, int] = {}
    for part in model.parts:
        if part.role in BIASES:
            widths[part.shape[0]] = widths.get(part.shape[0], 0) + part.count
    terms = " + ".join(f"{count:,}·{width:,}" for width, count in sorted(widths.items()))
    return Count("all biases: Σ (vectors · width)", terms or "0", model.biases)


def lora(targets: Targets, rank: int) -> Count:
    """r · (in + out) for each adapted matrix; 2 · L_lora · d · r where all are d x d (§4.1 and §5.1)."""
    sides = {(one.out, one.into) for one in targets.matrices}
    value = targets.parameters(rank)
    if len(sides) == 1 and len(set(next(iter(sides)))) == 1:
        ((d, _),) = sides
        return Count("2 · L_lora · d · r", f"2 · {targets.count:,} · {d:,} · {rank}", value)
    by_sides: dict[tuple[int, int], int] = {}
    for one in targets.matrices:
        by_sides[one.into, one.out] = by_sides.get((one.into, one.out), 0) + one.count
    terms = " + ".join(f"{count:,}·({into:,} + {out:,})" for (into, out), count in sorted(by_sides.items()))
    return Count("r · Σ (in + out)", f"{rank} · ({terms})", value)


def adapter_layers(d: int, adapters: int, bottleneck: int, norms: int, *, norm_biases: bool = True) -> Count:
    """L_adpt · (2·d·r + r + d) + 2·L_ln·d (§5.1): two matrices with biases an adapter, and the norms trained
    with them, which have d parameters instead of 2d where they are RMSNorms."""
    per_norm = 2 if norm_biases else 1
    formula = "L_adpt · (2·d·r + r + d)"
    evaluation = f"{adapters} · (2·{d:,}·{bottleneck} + {bottleneck} + {d:,})"
    if norms:
        formula += " + 2·L_ln·d" if norm_biases else " + L_ln·d"
        evaluation += f" + {'2·' if norm_biases else ''}{norms}·{d:,}"
    value = adapters * (2 * d * bottleneck + bottleneck + d) + per_norm * norms * d
    return Count(formula, evaluation, value)


def prefix_embedding(d: int, prefix: int, infix: int) -> Count:
    """d · (l_p + l_i): embeddings of special tokens before and among the others (§5.1)."""
    return Count("d · (l_p + l_i)", f"{d:,} · ({prefix} + {infix})", d * (prefix + infix))


def prefix_layer(layers: int, d: int, prefix: int, infix: int) -> Count:
    """L · d · (l_p + l_i): the activations of those tokens after every layer (§5.1)."""
    return Count(
        "L · d · (l_p + l_i)", f"{layers} · {d:,} · ({prefix} + {infix})", layers * d * (prefix + infix)
    )


def prefix_key_values(layers: int, key_value_width: int, tokens: int) -> Count:
    """n · 2 · L · d_kv: keys and values in every layer (Li and Liang 2021), as PEFT stores a prefix."""
    value = tokens * 2 * layers * key_value_width
    return Count(
        "n · 2 · L · d_kv",
        f"{tokens} · 2 · {layers} · {key_value_width:,}",
        value,
    )


def prompt(d: int, tokens: int) -> Count:
    """n · d: embeddings before the input (Lester et al. 2021)."""
    return Count("n · d", f"{tokens} · {d:,}", tokens * d)
