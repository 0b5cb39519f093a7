"""The paper's figures (Hu et al. 2021, arXiv 2106.09685) beside what its formulas give, those that do not
follow too. A formula is never bent to meet a print: the difference is named instead."""

from __future__ import annotations

from collections.abc import Sequence

from loratools.reports.costs.prints.encoders import encoder_rows
from loratools.reports.costs.prints.gpt2 import gpt2_rows
from loratools.reports.costs.prints.gpt3 import gpt3_rows
from loratools.reports.costs.rows import Method, MethodRow, PaperFigure

__all__ = ["figures", "figures_of", "printed_beside"]


def figures() -> tuple[PaperFigure, ...]:
    """Every figure, GPT-3 first, then in the order in which the paper's tables have them."""
    return (*gpt3_rows(), *gpt2_rows(), *encoder_rows())


def figures_of(name: str) -> tuple[PaperFigure, ...]:
    """Those about the model of one preset; empty for a model that is not in the paper."""
    return tuple(row for row in figures() if row.model == name)


def printed_beside(name: str, rows: Sequence[MethodRow]) -> list[str | None]:
    """What the paper prints for just the model and settings of each row: `4.7M (Table 4)`."""
    printed = {row.settings: row for row in figures_of(name) if row.unit == "parameters"}
    return [
        None if (figure := printed.get(_settings(row))) is None else _beside(figure, row.parameters)
        for row in rows
    ]


def _beside(figure: PaperFigure, parameters: int) -> str:
    """The print, and in two words how it stands to the row's own number."""
    text = f"{figure.printed} ({figure.where})"
    if not figure.follows:
        return f"{text}, does not follow"
    return text if figure.value == parameters else f"{text}, without norms"


def _settings(row: MethodRow) -> str:
    """The settings of a method as the rows of `prints` word them."""
    held = row.settings
    words = {
        Method.FULL: "fine-tuning",
        Method.BITFIT: "BitFit",
        Method.LORA: f"q, v at r = {held.get('rank')}" if held.get("targets") in _QUERY_VALUE else "",
        Method.HOULSBY: f"Adapter-H, r = {held.get('bottleneck')}",
        Method.BOTTLENECK: f"Adapter-{str(held.get('kind', ' '))[0]}, r = {held.get('bottleneck')}",
        Method.PREFIX_EMBEDDING: f"PreEmbed, l_p = {held.get('l_p')}, l_i = {held.get('l_i')}",
        Method.PREFIX_LAYER: f"PreLayer, l_p = {held.get('l_p')}, l_i = {held.get('l_i')}",
    }
    return words.get(row.method, "")


_QUERY_VALUE = (
    ["attn.c_attn.q", "attn.c_attn.v"],
    ["attention.self.query", "attention.self.value"],
    ["attention.self.query_proj", "attention.self.value_proj"],
)
"""What query and value are called in the paper's models."""
