"""`Report`: what a verb did, as data. Tables and JSON are made from it and from nothing else.

The names of the fields are the keys of `--json`: numbers or None, never NaN; bytes as integers,
seconds as floats, ratios are base over adapter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

from loratools.engine.coverage import Coverage
from loratools.engine.forecast import Forecast
from loratools.engine.plan import Plan

SCHEMA = 1

DIGITS = 9
"""Significant digits of a float in JSON: beyond what any figure is good to, and half the bytes of all 17."""


@dataclass(frozen=True, slots=True)
class ExtractedModule:
    """A factored tensor. `residual` is of the factors as stored, `storage_error` what the dtype added to it,
    `excess` the certificate's bound before storage, `failure_probability` its chance of being wrong.

    With `--rank auto`, `noise_floor` is the largest singular value that rounding explains, `noise_rank` how
    many stand above it, None where that is not decided, and `noise_note` then says why."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    rank: int
    alpha: float
    method: str
    norm: float
    energy: float
    residual: float
    excess: float | None
    storage_error: float
    failure_probability: float
    parameters: int
    bytes: int
    seconds: float
    noise_floor: float | None = None
    noise_rank: int | None = None
    noise_note: str | None = None


@dataclass(frozen=True, slots=True)
class MergedModule:
    """A tensor that merge or unmerge changed. `kind` is the update's (`lora`, `dora`, `replace`, ...), joined
    by `+` where several apply; `norm` is the Frobenius norm of what was added; `changed` the share of
    elements that differ from before; `rounding_error`, for merge, the norm of what rounding took of it, over
    `norm`; `exact`, for unmerge, True or the share of elements that may be off, and
    `largest_difference` then the most by which they may be."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    scaling: float | None
    norm: float | None
    changed: float | None
    exact: bool | float | None = None
    largest_difference: float | None = None
    rounding_error: float | None = None


@dataclass(frozen=True, slots=True)
class ResizedModule:
    """A pair of factors that `resize` cut, or kept as it was. `norm` is that of the update before, scaling
    included; `residual` is of the factors as stored, as a share of it, and `energy` the share of its square
    that they keep. `rank` 0: left out."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    rank_before: int
    rank: int
    alpha: float
    norm: float
    energy: float
    residual: float
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CombinedModule:
    """A pair of factors that `combine` made.

    `rank_before` is that of the weighted sum of the parts, `norm` its norm; `residual` is the distance of the
    factors, as stored, from that sum, as a share of the norm (None where the sum is zero). `parts` are the
    places of the adapters that have the module, from 1 on, with their ranks and the factors of their
    products; `truncation`, for the methods that cut a dense matrix, is the share of its norm that was cut."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    rank_before: int
    rank: int
    alpha: float
    norm: float
    residual: float | None
    truncation: float | None
    parts: tuple[CombinedPart, ...]
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CombinedPart:
    """What an adapter brought to a module: `factor · B A`, with its weight and its scaling in the factor."""

    adapter: int
    rank: int
    factor: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the output, beside the base; ratios are base over output, None where there is nothing, and
    all of the base None where it was not read."""

    parameters: int
    bytes: int
    base_parameters: int | None
    base_bytes: int | None
    ratio_parameters: float | None
    ratio_bytes: float | None

    @classmethod
    def alone(cls, parameters: int, size: int) -> Totals:
        """Those of a verb that reads no base."""
        return cls(parameters, size, None, None, None, None)

    @classmethod
    def of(cls, parameters: int, size: int, base_parameters: int, base_bytes: int) -> Totals:
        return cls(
            parameters,
            size,
            base_parameters,
            base_bytes,
            base_parameters / parameters if parameters else None,
            base_bytes / size if size else None,
        )


@dataclass(frozen=True, slots=True)
class InspectedItem:
    """One reference as `inspect` saw it: from headers only."""

    reference: str
    kind: str
    format: str
    dtype: str | None
    tensors: int
    parameters: int
    bytes: int
    rank: int | list[int] | None
    alpha: float | list[float] | None
    targets: list[str]
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class PlannedWork:
    """What a dry run foretells.

    `read_bytes` and `write_bytes` are those of the whole run, `weight_bytes` those of the files of weights in
    what it writes; `written` and `weights_written` say how well headers tell them: "exactly", "at most" or
    "about". `memory_bytes` is the peak of anonymous memory, interpreter and libraries included, with
    `workers` of the largest jobs side by side; `least_memory_bytes` the least that `--max-memory` may be.
    `estimated_seconds` is the time that the whole run takes. `calibration_runs` of this machine stand behind
    it: of the same kind where `calibrated` is "alike", of a similar one where it is "similar", none where it
    is "no".
    """

    jobs: int
    read_bytes: int
    write_bytes: int
    memory_bytes: int
    estimated_seconds: float
    weight_bytes: int
    written: str
    weights_written: str
    least_memory_bytes: int
    workers: int
    calibration_runs: int
    calibrated: str


@dataclass(frozen=True, slots=True)
class Leftover:
    """What `clean` found of an interrupted run. `action` is `removed`, `left`, or `removable` in a dry run;
    `precious` where it may be somebody's only copy of an output."""

    path: Path
    bytes: int
    action: str
    reason: str
    precious: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the demo: the command that does it, what came of it in a line, and how long it took."""

    command: str
    summary: str
    seconds: float


@dataclass(frozen=True, slots=True)
class HeldoutLoss:
    """Mean next-token cross entropy, in nats, on text that none was trained on. `bytes` are the adapter's."""

    model: str
    rank: int | None
    bytes: int | None
    loss: float


@dataclass(frozen=True)
class Report:
    """The outcome of one verb. `modules` and `items` hold the verb's own row type; `details` its further keys
    (keys may be added within a schema, never changed)."""

    command: str
    version: str
    output: Path | None
    coverage: Coverage | None
    warnings: tuple[str, ...]
    seconds: float
    peak_bytes: int | None
    modules: (
        tuple[ExtractedModule, ...]
        | tuple[MergedModule, ...]
        | tuple[ResizedModule, ...]
        | tuple[CombinedModule, ...]
        | None
    ) = None
    items: tuple[InspectedItem, ...] | None = None
    totals: Totals | None = None
    details: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    ok: bool = True
    """Whether nothing was found wrong: only `verify` can find something, and then exits with 3."""

    @classmethod
    def of_plan(
        cls,
        plan: Plan[Any],
        forecast: Forecast,
        *,
        version: str,
        seconds: float,
        peak_bytes: int | None,
        totals: Totals | None = None,
    ) -> Report:
        """What `--dry-run` reports: the plan's coverage and, under `plan`, the work that it foretells.

        `seconds` is what planning took, and is part of every run.
        """
        work = PlannedWork(
            jobs=len(plan.jobs),
            read_bytes=plan.read_bytes,
            write_bytes=plan.write_bytes,
            memory_bytes=forecast.memory_bytes,
            estimated_seconds=seconds + forecast.seconds,
            weight_bytes=plan.weight_bytes,
            written=plan.written.value,
            weights_written=plan.weights_written.value,
            least_memory_bytes=forecast.least_bytes,
            workers=forecast.workers,
            calibration_runs=forecast.runs,
            calibrated="alike" if forecast.alike else "similar" if forecast.runs else "no",
        )
        return cls(
            plan.command,
            version,
            plan.output,
            plan.coverage,
            plan.warnings,
            seconds,
            peak_bytes,
            totals=totals,
            details={"plan": work},
            dry_run=True,
        )

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints: plain dicts, lists, strings, numbers and None."""
        report: dict[str, Any] = {
            "schema": SCHEMA,
            "command": self.command,
            "ok": self.ok,
            "version": self.version,
            "output": None if self.output is None else str(self.output),
        }
        if self.dry_run:
            report["dry_run"] = True
        if self.modules is not None:
            report["modules"] = [plain(row) for row in self.modules]
        if self.items is not None:
            report["items"] = [plain(row) for row in self.items]
        if self.coverage is not None:
            report["coverage"] = [plain(row) for row in self.coverage]
        if self.totals is not None:
            report["totals"] = plain(self.totals)
        report.update({key: plain(value) for key, value in self.details.items()})
        report["warnings"] = list(self.warnings)
        report["seconds"] = self.seconds
        report["peak_bytes"] = self.peak_bytes
        return report


def plain(value: Any) -> Any:
    """`value` as JSON knows it: floats to `DIGITS` digits, and None where they are not finite."""
    if value is None or type(value) in _PLAIN:
        return value
    kind: type = type(value)
    if is_dataclass(kind):
        return {name: plain(getattr(value, name)) for name in _names(kind)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


_PLAIN = frozenset({str, int, bool})
"""Types whose values JSON knows as they are."""


@lru_cache
def _names(kind: type) -> tuple[str, ...]:
    """The names of a dataclass's fields."""
    return tuple(one.name for one in fields(kind))
