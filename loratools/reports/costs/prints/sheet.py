"""`Sheet`: how a print of the paper and its formula's value become a row, for one of the paper's models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loratools.reports.costs import formulas
from loratools.reports.costs.architecture import Architecture
from loratools.reports.costs.formulas import Count
from loratools.reports.costs.presets import architecture, preset
from loratools.reports.costs.printed import follows
from loratools.reports.costs.rows import PaperFigure
from loratools.reports.costs.targets import choose

__all__ = ["TOTAL", "Sheet", "off"]

TOTAL = "12·L·d² + 13·L·d + (V + P + 2)·d"
"""The parameters of a GPT-2 with a tied head."""


@dataclass(frozen=True)
class Sheet:
    """Writes rows about one model, by its preset's name."""

    name: str

    @property
    def model(self) -> Architecture:
        return architecture(preset(self.name))

    def lora(self, rank: int, patterns: Sequence[str] = ()) -> Count:
        """LoRA on query and value, or on other matrices."""
        return formulas.lora(choose(self.model, patterns or preset(self.name).targets, given=False), rank)

    def adapters(self, bottleneck: int, *, a_block: int, norms: bool = False) -> Count:
        """Adapters in series, one or two a block, with a LayerNorm each or without."""
        adapters = a_block * self.model.layers
        return formulas.adapter_layers(self.model.hidden, adapters, bottleneck, adapters if norms else 0)

    def row(self, printed: str, where: str, settings: str, count: Count, note: str = "") -> PaperFigure:
        """A number of parameters; a difference that `note` does not name is named in per cent."""
        joined = ", " if count.evaluation.startswith("L = ") else " = "
        formula = f"{count.formula}{joined}{count.evaluation}"
        told = note or ("" if follows(printed, count.value) else off(printed, count.value))
        return self.other(printed, where, settings, formula, count.value, "parameters", told)

    def other(
        self, printed: str, where: str, settings: str, formula: str, value: float, unit: str, note: str = ""
    ) -> PaperFigure:
        return PaperFigure(
            printed, where, self.name, settings, formula, value, unit, follows(printed, value), note
        )


def off(printed: str, value: float) -> str:
    """By how much a print of parameters misses its formula: `does not follow: printed 7.0 % above ...`."""
    share = 100 * (float(printed.removesuffix("M").replace(",", "")) * 1e6 / value - 1)
    digits = 1 if abs(share) >= 0.95 else 2
    side = "above" if share > 0 else "below"
    return f"does not follow: printed {abs(share):.{digits}f} % {side} the formula"
