"""The spectra of one adapter alone: all singular values of s·BA for each of its modules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.engine.allocator import keep_freed_memory
from loratools.engine.coverage import Action, Coverage
from loratools.engine.engine import Engine
from loratools.engine.plan import Plan
from loratools.operations.analysis.findings import Findings
from loratools.operations.analysis.options import AnalyzeOptions
from loratools.operations.analysis.places import in_model_order
from loratools.operations.analysis.similarity_notes import named
from loratools.operations.analysis.skinny import SkinnyAdapter, SkinnyModule, adapter_labels, refuse_above
from loratools.operations.rates import READ_RATE, overhead
from loratools.reports.analysis import Spectrum

if TYPE_CHECKING:
    from loratools.operations.analysis.spectrum_row import KnownSpectrum

__all__ = ["SpectrumJob", "adapter_spectra", "plan_spectra", "powers_of_two"]


@dataclass(frozen=True)
class SpectrumJob:
    """Reads the factors of one module, and finds the singular values of their product."""

    module: SkinnyModule

    @property
    def name(self) -> str:
        return self.module.name

    @property
    def bytes(self) -> int:
        return self.module.bytes

    @property
    def memory(self) -> int:
        return 6 * self.bytes  # float64 of bfloat16, and as much again

    @property
    def cost(self) -> float:
        return self.bytes / READ_RATE

    def run(self, workspace: Path) -> KnownSpectrum:
        return spectrum_of(self.module)


def plan_spectra(adapter: SkinnyAdapter, options: AnalyzeOptions) -> Plan[SpectrumJob]:
    """The jobs of one adapter's spectra, from its headers.

    Raises:
        UsageError: a rank is asked for that the adapter does not have.
    """
    refuse_above(options.ranks or (), adapter)
    jobs = tuple(SpectrumJob(adapter.modules[name]) for name in in_model_order(adapter.modules))
    size = sum(job.bytes for job in jobs)
    (label,) = adapter_labels(1)
    return Plan(
        command="analyze",
        output=None,
        jobs=jobs,
        coverage=Coverage.of(adapter.coverage(label, Action.APPLIED, "spectrum of the product", {})),
        read_bytes=size,
        write_bytes=0,
        overhead_bytes=overhead("spectra"),
        likeness="spectra",
        warnings=adapter.warnings,
    )


def adapter_spectra(adapter: SkinnyAdapter, options: AnalyzeOptions, engine: Engine) -> Findings:
    """The spectrum of each module; energies are told at `options.ranks`, by default at powers of two.

    Raises:
        LoratoolsError: factors cannot be read, or hold values that are not finite.
    """
    return run_spectra(plan_spectra(adapter, options), adapter, options, engine)


def run_spectra(
    plan: Plan[SpectrumJob], adapter: SkinnyAdapter, options: AnalyzeOptions, engine: Engine
) -> Findings:
    """Reads and decomposes what a plan says. Raises LoratoolsError as `adapter_spectra`."""
    from loratools.operations.analysis.spectrum_row import spectrum_row

    keep_freed_memory()
    ranks = options.ranks or powers_of_two(adapter.rank)
    rows: list[Spectrum] = []
    for job, known in engine.run("decomposing", plan.jobs, Path(), torch=False):
        rows.append(spectrum_row(job.name, adapter.reference, known, ranks=ranks))
    zero = [row.module for row in rows if row.norm == 0.0]
    note = (
        [f"BA of {named(zero)} in {adapter.reference} is zero: there is nothing to measure"] if zero else []
    )
    return Findings(spectra=tuple(rows), coverage=plan.coverage.rows, warnings=(*plan.warnings, *note))


def spectrum_of(module: SkinnyModule) -> KnownSpectrum:
    """All singular values of s·BA, in float64: those that a product of rank r can have."""
    import numpy as np

    from loratools.linalg.subspaces import product_directions
    from loratools.operations.analysis.spectrum_row import KnownSpectrum

    right, _ = product_directions(*module.read())
    count = min(module.rank, *module.shape)
    values = np.zeros(count)
    values[: right.count] = abs(module.scaling) * right.values
    return KnownSpectrum(values, float(np.sum(np.square(values))), count, min(module.shape))


def powers_of_two(rank: int) -> tuple[int, ...]:
    """1, 2, 4, ... below `rank`, and `rank`."""
    return (*(2**power for power in range(rank.bit_length()) if 2**power < rank), rank)
