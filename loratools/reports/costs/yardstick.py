"""`Yardstick`: what every method is measured against, so that parameters become bytes, ratios and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from loratools.reports.costs.formulas import Count
from loratools.reports.costs.rows import Latency, Method, MethodRow, Setting

__all__ = ["BYTES", "COSTS", "Cost", "Yardstick"]

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of an element, by the dtypes that sizes are counted in."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a method does at inference, whatever its size."""

    merges: bool
    latency: Latency


COSTS: dict[Method, Cost] = {
    Method.FULL: Cost(True, Latency.NONE),
    Method.BITFIT: Cost(True, Latency.NONE),
    Method.LORA: Cost(True, Latency.NONE),
    Method.HOULSBY: Cost(False, Latency.SERIAL_DEPTH),
    Method.BOTTLENECK: Cost(False, Latency.SERIAL_DEPTH),
    Method.PREFIX_EMBEDDING: Cost(False, Latency.CONTEXT_POSITIONS),
    Method.PREFIX_LAYER: Cost(False, Latency.CONTEXT_POSITIONS),
    Method.PROMPT: Cost(False, Latency.CONTEXT_POSITIONS),
}
"""§3 of the paper: adapters add depth, which runs in series; prefixes take up the context; what is of the
weights' own shape merges into them and costs nothing."""


@dataclass(frozen=True)
class Yardstick:
    """The full fine-tune's size, the dtype that others are counted in, and the link's bytes a second.

    `parameters` and `bytes` are None where only adapters are known, and no base.
    """

    parameters: int | None
    bytes: int | None
    dtype: str
    link: float | None = None

    def row(
        self,
        method: Method,
        count: Count,
        settings: dict[str, Setting] | None = None,
        *,
        size: int | None = None,
        dtype: str | None = None,
        serial_layers: int = 0,
        context_positions: int = 0,
        paper: str | None = None,
        reference: str | None = None,
        model: str | None = None,
        note: str | None = None,
    ) -> MethodRow:
        """The row of a method of `count` parameters; `size` is its bytes where a file tells them."""
        taken = count.value * BYTES[self.dtype] if size is None else size
        return MethodRow(
            method=method,
            settings=dict(settings or {}),
            parameters=count.value,
            bytes=taken,
            formula=count.formula,
            evaluation=count.evaluation,
            merges=COSTS[method].merges,
            latency=COSTS[method].latency,
            serial_layers=serial_layers,
            context_positions=context_positions,
            paper=paper,
            ratio_parameters=_ratio(self.parameters, count.value),
            ratio_bytes=_ratio(self.bytes, taken),
            per_checkpoint=self.bytes // taken if self.bytes is not None and taken else None,
            seconds_to_move=self.seconds(taken),
            reference=reference,
            model=model,
            dtype=dtype or self.dtype,
            note=note,
        )

    def seconds(self, size: int) -> float | None:
        """The time that so many bytes take over the link, at its full rate."""
        return None if self.link is None else size / self.link


def _ratio(base: int | None, other: int) -> float | None:
    return None if base is None or not other else base / other
