"""Running a comparison: distances first, then outputs, and what is to be said of both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratools.engine.engine import Engine
from loratools.engine.limits import processors
from loratools.operations.merge import merge
from loratools.operations.verification.comparison import Comparison, VerifyOptions
from loratools.operations.verification.distances import Distances, distance_rows, total
from loratools.operations.verification.integrity import Integrity
from loratools.operations.verification.outputs import better, measure
from loratools.reports.verification import Check, Distance, ModuleDistance, OutputKind, Outputs

__all__ = ["Compared", "compare"]

_SMALL = 50_000_000
"""Parameters of models that run on one thread: more gain little there, and lose much beside other work."""


@dataclass(frozen=True)
class Compared:
    """What was measured, as far as it could be, and the checks that come of it."""

    checks: tuple[Check, ...]
    distance: Distance | None = None
    distances: tuple[ModuleDistance, ...] = ()
    outputs: Outputs | None = None

    def details(self) -> dict[str, Any]:
        """The keys of the report that only a comparison has."""
        return {"distance": self.distance, "distances": self.distances, "outputs": self.outputs}


def compare(comparison: Comparison, options: VerifyOptions, engine: Engine, integrity: Integrity) -> Compared:
    """Measures what can be measured; what is damaged is not compared.

    Raises:
        LoratoolsError: outputs cannot be measured.
    """
    label = comparison.label
    if comparison.distances is None:
        error = comparison.unfit
        told = "it cannot be compared" if error is None else error.message
        place, tensor = (None, None) if error is None else (error.file, error.tensor)
        return Compared((Check(label, "fit", False, told, place, tensor),))
    if not integrity.sound:
        return Compared((Check(label, "weights", None, "not compared, since what is wrong would spoil it"),))
    rows = _measured(comparison.distances, engine)
    whole = total(rows)
    outputs = _outputs(comparison, engine)
    checks = (
        *_turned_round(comparison, integrity),
        *_incomparable(label, comparison.distances),
        _weights(label, whole, outputs),
        *_said(label, outputs, options.min_agreement),
    )
    return Compared(checks, whole, rows, outputs)


def _measured(distances: Distances, engine: Engine) -> tuple[ModuleDistance, ...]:
    done = engine.run("distances", distances.jobs, Path(), torch=False)
    return distance_rows(distances.jobs, {job.name: apart for job, apart in done})


def _outputs(comparison: Comparison, engine: Engine) -> Outputs | None:
    """Merges into a temporary folder, as large as the base, and runs the three models over the text; all
    in this process, wherever jobs go."""
    if comparison.text is None:
        return None
    with tempfile.TemporaryDirectory(prefix="loratools-") as folder:
        merged = Path(folder) / "merged"
        adapters = [subject.written for subject in comparison.adapters]
        threads = processors() if engine.elsewhere else engine.workers
        merge(comparison.base.reference, adapters, merged, allow_other_base=True, workers=threads)
        return measure(
            comparison.base,
            comparison.tuned,
            merged,
            comparison.text,
            threads=threads if comparison.base.parameters > _SMALL else 1,
            progress=engine.progress,
        )


def _turned_round(comparison: Comparison, integrity: Integrity) -> Iterator[Check]:
    """Adapters whose provenance says that what was named as tuned is their base."""
    base, tuned = (integrity.fingerprints.get(one.reference) for one in (comparison.base, comparison.tuned))
    for adapter in comparison.adapters:
        provenance = integrity.provenances.get(adapter.reference)
        roles = {} if provenance is None else {one.role: one.fingerprint for one in provenance.inputs}
        if base != tuned and roles.get("base") == tuned:
            told = f"{comparison.tuned.reference} is its base: name that first, and its fine-tune second"
            yield Check(adapter.reference, "made from", False, told)


def _incomparable(label: str, distances: Distances) -> Iterator[Check]:
    for name, reason in distances.incomparable.items():
        yield Check(label, "comparable", False, reason, tensor=name)


def _weights(label: str, whole: Distance, outputs: Outputs | None) -> Check:
    """Whether the weights come nearer; where outputs were measured and do, no more than a remark."""
    if whole.remaining is None:
        worse = whole.distance_adapted > 0
        told = (
            "tuned is base, and the adapter changes it"
            if worse
            else "tuned is base, and so is base + adapter"
        )
        return Check(label, "weights", not worse, told)
    share = f"{100 * whole.remaining:.3g} % of the distance from base to tuned is left"
    if whole.farther:
        share += f", and {whole.farther} of {whole.tensors} tensors lie farther off than without it"
    if whole.distance_adapted < whole.distance_base:
        return Check(label, "weights", True, f"nearer to tuned: {share}")
    if outputs is not None and better(outputs):
        return Check(label, "weights", None, f"{share}, though outputs are nearer: another way to the same")
    return Check(label, "weights", False, f"worse than no adapter: {share}")


def _said(label: str, outputs: Outputs | None, least: float | None) -> Iterator[Check]:
    if outputs is None:
        return
    base, adapted, _ = outputs.models
    if outputs.kind is OutputKind.CAUSAL:
        told = f"KL(tuned || model) is {adapted.kl:.4g} nats a token, {base.kl:.4g} without the adapter"
    else:
        told = (
            f"1 - cosine to tuned's hidden states is {adapted.distance:.4g}, {base.distance:.4g} without it"
        )
    near = better(outputs)
    yield Check(label, "outputs", near, f"{'nearer to tuned' if near else 'worse than no adapter'}: {told}")
    if least is not None:
        ok = adapted.agreement >= least
        how = "reach" if ok else "are below"
        told = f"{100 * adapted.agreement:.4g} % {how} the {100 * least:.4g} % asked for"
        yield Check(label, "agreement", ok, told)
