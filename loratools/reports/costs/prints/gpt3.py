"""GPT-3 175B: Tables 4 and 15, and the sizes, speeds and the amplification of §4.2 and §7.3."""

from __future__ import annotations

from collections.abc import Iterator

from loratools.reports.costs import formulas
from loratools.reports.costs.formulas import Count
from loratools.reports.costs.memory import PRECISIONS
from loratools.reports.costs.prints.sheet import TOTAL, Sheet
from loratools.reports.costs.rows import PaperFigure

__all__ = ["gpt3_rows"]

_GPT3 = Sheet("gpt3-175b")
_VALUE = (r"attn\.c_attn\.v$",)
_ALL_FOUR = (r"attn\.c_attn\.(q|k|v)$", r"attn\.c_proj$")

_PRE_EMBED = (("0.4M", 32), ("0.9M", 64), ("1.7M", 128), ("3.2M", 256), ("6.4M", 512))
_PRE_LAYER = (("5.1M", 2, 2), ("10.1M", 8, 0), ("20.2M", 8, 8), ("44.1M", 32, 4), ("76.1M", 64, 0))
_ADAPTERS = (("7.1M", 1), ("21.2M", 4), ("40.1M", 8), ("77.9M", 16), ("304.4M", 64))
_LORA = (
    ("4.7M", "v", _VALUE, 2),
    ("4.7M", "q, v", (), 1),
    ("9.4M", "q, v", (), 2),
    ("9.4M", "q, k, v, o", _ALL_FOUR, 1),
    ("18.8M", "q, v", (), 4),
    ("18.8M", "q, k, v, o", _ALL_FOUR, 2),
    ("37.7M", "q, v", (), 8),
    ("37.7M", "q, k, v, o", _ALL_FOUR, 4),
    ("301.9M", "q, v", (), 64),
    ("603.8M", "q, k, v, o", _ALL_FOUR, 64),
)
_WITH_PREFIX = (("37.8M", 8), ("151.1M", 32), ("302.1M", 64))
"""LoRA on q and v beside a prefix-embedding of 8 + 4."""

_TABLE_4 = frozenset({"175,255.8M", "14.2M", "3.2M", "20.2M", "7.1M", "40.1M", "4.7M", "37.7M"})
"""Prints of Table 15 that Table 4 has, too."""


def gpt3_rows() -> tuple[PaperFigure, ...]:
    return (*_baselines(), *_prefixes(), *_adapters(), *_loras(), *_sizes(), *_speed_and_strength())


def _where(printed: str) -> str:
    return "Table 4" if printed in _TABLE_4 else "Table 15"


def _baselines() -> Iterator[PaperFigure]:
    """Fine-tuning and BitFit."""
    model = _GPT3.model
    d, layers = model.hidden, model.layers
    untied = model.parameters + d * (model.vocabulary or 0)
    yield _GPT3.row(
        "175,255.8M",
        "Table 4",
        "fine-tuning",
        Count(TOTAL, f"L = {layers}, d = {d:,}, V = 50,257, P = 2,048", model.parameters),
        f"does not follow: 651.5M more than the formula; an untied head would make it {untied / 1e6:,.1f}M",
    )
    yield _GPT3.row(
        "14.2M",
        "Table 4",
        "BitFit",
        Count("11·L·d", f"11 · {layers} · {d:,}", 11 * layers * d),
        "does not follow: a block has 4 biases of d in attention, 4 + 1 in its feed-forward, 2 in its norms; "
        "the print would take twelve",
    )


def _prefixes() -> Iterator[PaperFigure]:
    d, layers = _GPT3.model.hidden, _GPT3.model.layers
    for printed, prefix in _PRE_EMBED:
        count = formulas.prefix_embedding(d, prefix, 8)
        yield _GPT3.row(printed, _where(printed), f"PreEmbed, l_p = {prefix}, l_i = 8", count)
    for printed, prefix, infix in _PRE_LAYER:
        count = formulas.prefix_layer(layers, d, prefix, infix)
        yield _GPT3.row(printed, _where(printed), f"PreLayer, l_p = {prefix}, l_i = {infix}", count)


def _adapters() -> Iterator[PaperFigure]:
    for printed, bottleneck in _ADAPTERS:
        with_norms = _GPT3.adapters(bottleneck, a_block=2, norms=True).value
        yield _GPT3.row(
            printed,
            _where(printed),
            f"Adapter-H, r = {bottleneck}",
            _GPT3.adapters(bottleneck, a_block=2),
            f"follows without the formula's LayerNorm term 2·L_ln·d; with it, it would be {with_norms:,}",
        )


def _loras() -> Iterator[PaperFigure]:
    d, layers = _GPT3.model.hidden, _GPT3.model.layers
    for printed, matrices, patterns, rank in _LORA:
        note = (
            "follows; appendix D.4 says r = 2, which gives 18,874,368"
            if (matrices, rank) == _MISPRINT
            else ""
        )
        count = _GPT3.lora(rank, patterns)
        yield _GPT3.row(printed, _where(printed), f"{matrices} at r = {rank}", count, note)
    for printed, rank in _WITH_PREFIX:
        count = _sum(_GPT3.lora(rank), formulas.prefix_embedding(d, 8, 4))
        yield _GPT3.row(printed, "Table 15", f"q, v at r = {rank} and PreEmbed 8 + 4", count)
    count = _sum(_GPT3.lora(8), formulas.prefix_layer(layers, d, 8, 4))
    yield _GPT3.row("52.8M", "Table 15", "q, v at r = 8 and PreLayer 8 + 4", count)


_MISPRINT = ("q, k, v, o", 4)


def _sum(one: Count, other: Count) -> Count:
    return Count(
        f"{one.formula} + {other.formula}",
        f"{one.evaluation} + {other.evaluation}",
        one.value + other.value,
    )


def _sizes() -> Iterator[PaperFigure]:
    """Bytes and memory."""
    full, four = _GPT3.model.parameters, _GPT3.lora(4).value
    yield _GPT3.other("350GB", "§4.2", "a checkpoint in 16 bits", "2 bytes · 174,604.3M", 2 * full, "bytes")
    yield _GPT3.other(
        "35MB",
        "§4.2",
        "q, v at r = 4, in 16 bits",
        f"2 bytes · {four:,}",
        2 * four,
        "bytes",
        f"does not follow: it is {2 * four / 1e6:.1f} MB, or {2 * four / 2**20:.1f} MiB",
    )
    yield _GPT3.other(
        "10,000x",
        "§4.2",
        "350 GB over 35 MB, as printed",
        "350 GB / 35 MB",
        350e9 / 35e6,
        "ratio",
        f"follows from the prints alone; by the formulas {full / four:,.0f}x at r = 4 and "
        f"{4 * full / four:,.0f}x at r = 1, with the printed 175,255.8M {175_255.8e6 / four:,.0f}x and "
        f"{4 * 175_255.8e6 / four:,.0f}x",
    )
    sixteen = PRECISIONS[-1]
    moments = full * (sixteen.weights + sixteen.gradients + sixteen.moments)
    yield _GPT3.other(
        "1.2TB",
        "§4.2",
        "training memory of full fine-tuning with Adam",
        "weights, gradients and two moments in 16 bits: (2 + 2 + 4) bytes · 174,604.3M",
        moments,
        "bytes",
        f"does not follow: 16 bits throughout take {moments / 1e12:.2f} TB ({moments / 2**40:.2f} TiB), "
        f"float32 master weights and moments {16 * full / 1e12:.2f} TB",
    )
    yield _GPT3.other(
        "350GB",
        "§4.2",
        "training memory of LoRA",
        f"frozen weights in 16 bits: 2 bytes · 174,604.3M, and 16 bytes · {four:,}",
        2 * full + 16 * four,
        "bytes",
        "follows: gradients and moments of frozen weights vanish",
    )


def _speed_and_strength() -> Iterator[PaperFigure]:
    yield _GPT3.other(
        "25%",
        "§4.2",
        "43.1 against 32.5 tokens/s for a V100",
        "43.1 / 32.5 - 1",
        100 * (43.1 / 32.5 - 1),
        "percent",
        f"does not follow as throughput; it is {100 * (1 - 32.5 / 43.1):.1f} % less time for a token",
    )
    yield _GPT3.other(
        "21.5x",
        "§7.3",
        "amplification of W_q in layer 48 at r = 4",
        "||ΔW||_F / ||UᵀWV||_F = 6.91 / 0.32",
        6.91 / 0.32,
        "ratio",
        "does not follow to its last digit: the two prints, each rounded, allow 21.2 to 22.0",
    )
