"""`analyze BASE TUNED [ADAPTER...]`: a full fine-tune's difference, looked at from all sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.engine.engine import Engine
from loratools.operations.analysis.amplify import amplification_rows
from loratools.operations.analysis.delta_job import DeltaJob
from loratools.operations.analysis.delta_work import DeltaFacts
from loratools.operations.analysis.findings import Findings
from loratools.operations.analysis.movement import Moved, MoveJob, movement_row, token_rows
from loratools.operations.analysis.options import AnalyzeOptions
from loratools.operations.analysis.overlap import overlap_row
from loratools.operations.analysis.pair_plan import PairPlan, plan_pair
from loratools.operations.analysis.places import in_model_order, module_of
from loratools.operations.analysis.spectrum_row import spectrum_row
from loratools.operations.analysis.tokens import texts_beside
from loratools.reports.analysis import Amplification, Movement, Overlap, Spectrum, TokenMovement

__all__ = ["analyze_pair", "run_pair"]


def analyze_pair(
    base: Checkpoint,
    tuned: Checkpoint,
    adapters: Sequence[Checkpoint],
    options: AnalyzeOptions,
    engine: Engine,
) -> Findings:
    """Spectra, amplification, movement and tokens of tuned - base; and the adapters beside it.

    Raises:
        UsageError: one of the two checkpoints is an adapter.
        LoratoolsError: checkpoints that do not belong together, an adapter that cannot be read or bound, a
            tensor that cannot be read or holds values that are not finite.
    """
    return run_pair(plan_pair(base, tuned, adapters, options), engine)


def run_pair(plan: PairPlan, engine: Engine) -> Findings:
    """Reads and decomposes what a plan says. Raises LoratoolsError as `analyze_pair`."""
    nowhere = Path()  # the jobs write nothing
    facts = [found for _, found in engine.run("analysing", plan.decomposed, nowhere)]
    deltas = list(zip(plan.decomposed, facts, strict=True))
    moved = [found for _, found in engine.run("comparing", plan.compared, nowhere)]
    moves = list(zip(plan.compared, moved, strict=True))
    reference = plan.pair.tuned.reference
    tokens, token_notes = _tokens(plan, moves)
    return Findings(
        amplification=tuple(_amplification(deltas, reference)),
        spectra=tuple(_spectra(deltas, reference)),
        movement=_movement(deltas, moves),
        tokens=tokens,
        overlap=tuple(_overlap(deltas)),
        coverage=plan.coverage.rows,
        warnings=(*plan.warnings, *_notes(deltas), *token_notes),
    )


Deltas = Sequence[tuple[DeltaJob, DeltaFacts]]
Moves = Sequence[tuple[MoveJob, Moved]]


def _spectra(deltas: Deltas, reference: str) -> Iterable[Spectrum]:
    for job, facts in deltas:
        yield spectrum_row(module_of(job.name), reference, facts.spectrum, ranks=job.asked, noise=facts.noise)


def _amplification(deltas: Deltas, reference: str) -> Iterable[Amplification]:
    for job, facts in deltas:
        norms = facts.base_norm, facts.norm
        yield from amplification_rows(module_of(job.name), reference, norms, facts.amplified)


def _overlap(deltas: Deltas) -> Iterable[Overlap]:
    for job, facts in deltas:
        for reference, found in facts.overlaps:
            yield overlap_row(module_of(job.name), reference, found)


def _movement(deltas: Deltas, moves: Moves) -> tuple[Movement, ...]:
    rows = [movement_row(job.name, job.tuned.shape, facts.base_norm, facts.norm) for job, facts in deltas]
    rows += [movement_row(job.name, job.tuned.shape, moved.base_norm, moved.norm) for job, moved in moves]
    by_module = {row.module: row for row in rows}
    return tuple(by_module[module] for module in in_model_order(by_module))


def _tokens(plan: PairPlan, moves: Moves) -> tuple[tuple[TokenMovement, ...], list[str]]:
    moved = [(job.name, found) for job, found in moves if found.rows]
    if not moved:
        return (), []
    texts, notes = texts_beside((plan.pair.tuned.folder, plan.pair.base.folder))
    return tuple(row for name, found in moved for row in token_rows(name, found, texts)), notes


def _notes(deltas: Deltas) -> list[str]:
    """What is true of several matrices, in a line each."""
    rounded = [module_of(job.name) for job, facts in deltas if facts.only_rounded and facts.norm]
    if not rounded:
        return []
    more = f" and {len(rounded) - 1} more" if len(rounded) > 1 else ""
    return [f"{rounded[0]}{more}: tuned is base rounded to its dtype: what is shown of it is rounding"]
