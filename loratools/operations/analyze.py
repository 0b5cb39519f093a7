"""`analyze`: which rank a fine-tune needs, which directions adapters share, and what they amplify."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import loratools
from loratools.adapters.contents import Contents
from loratools.checkpoints.sizes import size_in_bytes
from loratools.engine.coverage import Coverage
from loratools.engine.engine import Engine
from loratools.engine.execution import Execution
from loratools.engine.foresight import Foresight
from loratools.engine.memory import PeakMemory
from loratools.engine.plan import Plan
from loratools.engine.progress import Progress
from loratools.errors import UsageError
from loratools.operations.analysis.findings import Findings
from loratools.operations.analysis.options import AnalyzeOptions, Directions, SpectrumExtent
from loratools.operations.analysis.references import AnalyzeInputs, Mode, open_references
from loratools.operations.analysis.skinny import SkinnyAdapter, open_skinny
from loratools.operations.choices import choice
from loratools.operations.references import Reference, as_list
from loratools.reports.report import Report

__all__ = ["analyze"]


def analyze(
    references: Sequence[Reference] | Reference = (),
    *,
    ranks: Sequence[int] | None = None,
    directions: str = "factor",
    spectrum: str = "leading",
    amplification: bool = True,
    seed: int = 0,
    workers: int | None = None,
    max_memory: int | str | None = None,
    cluster: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Says what the references have to say to each other; what that is depends on what they are.

    - two or more adapters: the similarity of their subspaces (Hu et al., section 7.2), all pairs;
    - one adapter: its singular values, and what lower ranks keep;
    - a base and adapters: what these amplify in it (section 7.3);
    - a base and its fine-tune: spectra of the change, its noise floor, amplification, and where it happened;
    - both, and adapters: also how much of the change each adapter holds.

    Args:
        references: paths, hub ids or names of the sample, in any order but the base before its fine-tune;
            none for the sample's adapters of the ranks asked for.
        ranks: of several adapters alone, the rank to cut each to, in their order; otherwise the ranks at
            which figures are told. None for each mode's own.
        directions: "factor" for those of lora_A and lora_B by themselves, as the paper takes them, "product"
            for those of BA, which do not depend on how a trainer split it.
        spectrum: "leading" or "full": the singular values of a fine-tune's change that are computed.
        amplification: of a fine-tune, whether to compute it; it needs directions of the base's weights.
        seed: of what is drawn at random, and of randomized decompositions.
        workers: modules that are worked on side by side; by default as many as there are processors.
        max_memory: bytes that the process may hold, interpreter and libraries included, as a number or like
            "1.5GB"; by default what the machine has. Fewer jobs then run side by side; what is found is the
            same.
        cluster: the address of a Dask scheduler, or its scheduler file, whose workers do the work instead;
            `workers` is then how many jobs are under way at one time.
        dry_run: plan only; nothing is read but headers.
        progress: a watcher.

    Returns:
        A report whose `details` has the rows of `loratools.reports.analysis` by kind: `similarity` and
        `similarity_means`, `amplification`, `spectra`, `movement`, `tokens`, `overlap`; those that are asked.

    Raises:
        UsageError: options or references that make no sense together.
        LoratoolsError: something cannot be read, holds values that are not finite, or cannot be analysed.
    """
    options = AnalyzeOptions(
        ranks=_ranks(ranks),
        directions=choice(Directions, directions, "--directions"),
        spectrum=choice(SpectrumExtent, spectrum, "--spectrum"),
        amplification=amplification,
        seed=seed,
    )
    started = time.perf_counter()
    execution = Execution(
        workers=workers,
        max_memory=size_in_bytes(max_memory),
        cluster=cluster,
    )
    foresight = Foresight(progress)
    engine = execution.engine(foresight)
    with PeakMemory() as memory:
        inputs = open_references(as_list(references), options.ranks)
        options = replace(options, ranks=inputs.ranks)
        analysis = _ANALYSES[inputs.mode]
        if analysis.torch and not dry_run:
            import torch  # noqa: F401 (its second, and its memory, are no part of what is estimated)
        question = analysis.question(inputs, options, Contents.of(dry_run=dry_run))
        forecast = foresight.expect(question.plan, engine, execution.max_memory)
        if dry_run:
            return Report.of_plan(
                question.plan,
                forecast,
                version=loratools.__version__,
                seconds=time.perf_counter() - started,
                peak_bytes=memory.peak_bytes,
            )
        findings = question.answer(engine)
    report = Report(
        command="analyze",
        version=loratools.__version__,
        output=None,
        coverage=Coverage.of(findings.coverage),
        warnings=findings.warnings,
        seconds=time.perf_counter() - started,
        peak_bytes=memory.peak_bytes,
        details=_details(analysis, findings),
    )
    return foresight.learnt(report)


def _ranks(ranks: Sequence[int] | None) -> tuple[int, ...] | None:
    if not ranks:
        return None
    if min(ranks) < 1:
        raise UsageError(f"rank {min(ranks)} is less than 1")
    return tuple(ranks)


@dataclass(frozen=True)
class _Question:
    """A question as it is planned, and what answers it."""

    plan: Plan[Any]
    answer: Callable[[Engine], Findings]


@dataclass(frozen=True)
class _Analysis:
    """How one question is planned, and which keys of `details` its answer has."""

    question: Callable[[AnalyzeInputs, AnalyzeOptions, Contents], _Question]
    keys: tuple[str, ...]
    torch: bool
    """Whether the answer takes torch."""


def _similarity(inputs: AnalyzeInputs, options: AnalyzeOptions, contents: Contents) -> _Question:
    from loratools.operations.analysis.similarity import plan_similarity, run_similarity

    adapters = _skinny(inputs)
    plan = plan_similarity(adapters, options)
    return _Question(plan, lambda engine: run_similarity(plan, adapters, options, engine))


def _spectra(inputs: AnalyzeInputs, options: AnalyzeOptions, contents: Contents) -> _Question:
    from loratools.operations.analysis.adapter_spectra import plan_spectra, run_spectra

    (adapter,) = _skinny(inputs)
    plan = plan_spectra(adapter, options)
    return _Question(plan, lambda engine: run_spectra(plan, adapter, options, engine))


def _adapters(inputs: AnalyzeInputs, options: AnalyzeOptions, contents: Contents) -> _Question:
    from loratools.operations.analysis.adapter_amplification import plan_adapters, run_adapters

    (base,) = inputs.checkpoints
    plan = plan_adapters(base, inputs.adapters, _amplifying(options), contents)
    return _Question(plan, lambda engine: run_adapters(plan, engine))


def _amplifying(options: AnalyzeOptions) -> AnalyzeOptions:
    """The options, where amplification is all that is asked and so cannot be left out."""
    if not options.amplification:
        raise UsageError(
            "a base and adapters are analysed for amplification, and nothing else",
            hint="leave out --no-amplification, or name the adapters alone",
        )
    return options


def _pair(inputs: AnalyzeInputs, options: AnalyzeOptions, contents: Contents) -> _Question:
    from loratools.operations.analysis.pair_plan import plan_pair

    base, tuned = inputs.checkpoints
    plan = plan_pair(base, tuned, inputs.adapters, options, contents)

    def answer(engine: Engine) -> Findings:
        from loratools.operations.analysis.pairs import run_pair

        return run_pair(plan, engine)

    return _Question(plan, answer)


def _skinny(inputs: AnalyzeInputs) -> list[SkinnyAdapter]:
    return [open_skinny(adapter) for adapter in inputs.adapters]


_ANALYSES = {
    Mode.SIMILARITY: _Analysis(_similarity, ("similarity", "similarity_means"), torch=False),
    Mode.SPECTRA: _Analysis(_spectra, ("spectra",), torch=False),
    Mode.ADAPTERS: _Analysis(_adapters, ("amplification",), torch=True),
    Mode.PAIR: _Analysis(_pair, ("spectra", "movement", "tokens"), torch=True),
}


def _details(analysis: _Analysis, findings: Findings) -> dict[str, Any]:
    """The rows by their keys: those that the question asks for, and any that were found besides."""
    rows = {
        "similarity": findings.similarity,
        "similarity_means": findings.means,
        "amplification": findings.amplification,
        "spectra": findings.spectra,
        "movement": findings.movement,
        "tokens": findings.tokens,
        "overlap": findings.overlap,
    }
    return {key: found for key, found in rows.items() if found or key in analysis.keys}
