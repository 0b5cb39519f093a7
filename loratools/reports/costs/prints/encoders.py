"""RoBERTa and DeBERTa: Table 2, with the widths of Table 9. AdapterDrop's rows, of prior work, name none."""

from __future__ import annotations

from collections.abc import Iterator

from loratools.reports.costs import formulas
from loratools.reports.costs.prints.sheet import Sheet
from loratools.reports.costs.rows import PaperFigure

__all__ = ["encoder_rows"]

_BASE, _LARGE, _XXL = Sheet("roberta-base"), Sheet("roberta-large"), Sheet("deberta-xxl")


def encoder_rows() -> tuple[PaperFigure, ...]:
    return (*_base(), *_large(), *_xxl())


def _base() -> Iterator[PaperFigure]:
    yield _BASE.row("125.0M", "Table 2", "fine-tuning", formulas.full(_BASE.model), _counted("124.6M"))
    yield _BASE.row("0.1M", "Table 2", "BitFit", formulas.bitfit(_BASE.model))
    yield _BASE.row("0.3M", "Table 2", "q, v at r = 8", _BASE.lora(8))


def _large() -> Iterator[PaperFigure]:
    yield _LARGE.row("355.0M", "Table 2", "fine-tuning", formulas.full(_LARGE.model), _counted("355.4M"))
    yield _LARGE.row("0.8M", "Table 2", "q, v at r = 8", _LARGE.lora(8))
    for printed, letter, a_block, bottleneck in (
        ("3.0M", "P", 1, 64),
        ("0.8M", "P", 1, 16),
        ("6.0M", "H", 2, 64),
        ("0.8M", "H", 2, 8),
    ):
        count = _LARGE.adapters(bottleneck, a_block=a_block)
        yield _LARGE.row(printed, "Table 2", f"Adapter-{letter}, r = {bottleneck}", count)


def _xxl() -> Iterator[PaperFigure]:
    yield _XXL.row("1500.0M", "Table 2", "fine-tuning", formulas.full(_XXL.model), _counted("1564.5M"))
    eight = _XXL.lora(8).value
    yield _XXL.row(
        "4.7M",
        "Table 2",
        "q, v at r = 16",
        _XXL.lora(16),
        f"follows; Table 10 says r = 8, which gives {eight:,}",
    )


def _counted(parameters: str) -> str:
    return f"does not follow: the model without a task's head has {parameters}"
