"""GPT-2 medium and large: Table 3, and Table 1's latencies, which were measured on GPT-2 medium."""

from __future__ import annotations

from collections.abc import Iterator

from loratools.reports.costs.formulas import Count
from loratools.reports.costs.prints.sheet import TOTAL, Sheet
from loratools.reports.costs.rows import PaperFigure

__all__ = ["gpt2_rows"]

_MEDIUM, _LARGE = Sheet("gpt2-medium"), Sheet("gpt2-large")

_LATENCIES = (
    ("batch 1, sequence 128", 19.8, (("Adapter-L", 23.9, "+20.7%"), ("Adapter-H", 25.8, "+30.3%"))),
    ("batch 16, sequence 256", 338.0, (("Adapter-L", 354.8, "+5.0%"), ("Adapter-H", 366.3, "+8.4%"))),
    ("batch 32, sequence 512", 1449.4, (("Adapter-L", 1482.0, "+2.2%"), ("Adapter-H", 1492.2, "+3.0%"))),
)
"""Milliseconds of one forward pass on a Quadro RTX8000: base or merged LoRA, then the adapters."""


def gpt2_rows() -> tuple[PaperFigure, ...]:
    return (*_medium(), *_large(), *_latencies())


def _medium() -> Iterator[PaperFigure]:
    model = _MEDIUM.model
    d = model.hidden
    yield _MEDIUM.row(
        "354.92M",
        "Table 3",
        "fine-tuning",
        Count(TOTAL, "L = 24, d = 1,024, V = 50,257, P = 1,024", model.parameters),
        "does not follow: the model has 354.82M",
    )
    two = Count("2 · (12·d² + 13·d)", f"2 · (12·{d:,}² + 13·{d:,})", 2 * (12 * d * d + 13 * d))
    yield _MEDIUM.row("25.19M", "Table 3", "fine-tuning of the last two layers", two)
    for printed, bottleneck in (("0.37M", 6), ("11.09M", 224)):
        count = _MEDIUM.adapters(bottleneck, a_block=1, norms=True)
        yield _MEDIUM.row(printed, "Table 3", f"Adapter-L, r = {bottleneck}", count, _FITTED)
    more = _MEDIUM.adapters(113, a_block=2).value
    yield _MEDIUM.row(
        "11.09M",
        "Table 3",
        "Adapter-H, r = 112",
        _MEDIUM.adapters(112, a_block=2),
        f"does not follow: no whole r gives it, 113 gives {more:,}",
    )
    yield _MEDIUM.row("0.35M", "Table 3", "q, v at r = 4", _MEDIUM.lora(4))


def _large() -> Iterator[PaperFigure]:
    model = _LARGE.model
    yield _LARGE.row(
        "774.03M",
        "Table 3",
        "fine-tuning",
        Count(TOTAL, "L = 36, d = 1,280, V = 50,257, P = 1,024", model.parameters),
    )
    for printed, bottleneck in (("0.88M", 8), ("23.00M", 248)):
        count = _LARGE.adapters(bottleneck, a_block=1, norms=True)
        yield _LARGE.row(printed, "Table 3", f"Adapter-L, r = {bottleneck}", count, _FITTED)
    yield _LARGE.row("0.77M", "Table 3", "q, v at r = 4", _LARGE.lora(4))


_FITTED = "follows at the r that fits: the paper does not print it"


def _latencies() -> Iterator[PaperFigure]:
    for load, base, adapters in _LATENCIES:
        for name, slower, printed in adapters:
            yield _MEDIUM.other(
                printed,
                "Table 1",
                f"{name}, {load}",
                f"{slower} ms / {base} ms of base or merged LoRA - 1",
                100 * (slower / base - 1),
                "percent",
            )
