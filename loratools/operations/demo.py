"""`demo`: the whole story on the bundled sample, each step as the command that does it."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import loratools
from loratools import sample
from loratools.checkpoints.reference import open_checkpoint
from loratools.engine.memory import PeakMemory
from loratools.operations.bare import ADAPTER, BASE, FOLDER, TUNED, Target, bare_run
from loratools.operations.measuring import measuring
from loratools.reports import words
from loratools.reports.report import ExtractedModule, HeldoutLoss, MergedModule, Report, Step, Totals
from loratools.reports.tables import pages

RANKS = (8, 16)
"""The ranks at which an extracted adapter is set beside a trained one."""

COMPARED = (4, 8)
"""The ranks of the trained adapters whose directions are compared, and whose cost is told."""

INSTALL = "pip install 'loratools[transformers]'"


def demo(
    output: Path | str | None = None, *, force: bool = False, announce: Callable[[str], None] | None = None
) -> Report:
    """Extracts, merges, compares, unmerges, inspects, analyzes and reports on the bundled sample.

    Args:
        output: the folder that the steps' outputs go to, one below it for each; None for
            `loratools-sample/demo`, where a later demo replaces what an earlier one left.
        force: replace outputs that exist.
        announce: is given each step's command and outcome as lines, while the demo runs.

    Returns:
        A report whose details hold `steps`, and `losses` where the extra `[transformers]` is installed: the
        held-out loss of base, fine-tune, extracted and trained adapters.

    Raises:
        LoratoolsError: an output exists and may not be replaced.
    """
    began = time.perf_counter()
    place = _Place(None if output is None else Path(output), force)
    steps: list[Step] = []
    with PeakMemory() as memory:
        for command, run in _story(place):
            if announce:
                announce(f"$ {command}")
            step_began = time.perf_counter()
            steps.append(Step(command, run(), time.perf_counter() - step_began))
            if announce:
                announce(f"  {steps[-1].summary} ({steps[-1].seconds:.1f} s)")
        losses = _losses(place, announce) if find_spec("transformers") and find_spec("peft") else None
    advice = () if losses is not None else (f"held-out losses need transformers and peft: {INSTALL}",)
    return Report(
        command="demo",
        version=loratools.__version__,
        output=place.folder,
        coverage=None,
        warnings=advice,
        seconds=time.perf_counter() - began,
        peak_bytes=memory.peak_bytes,
        details={"steps": tuple(steps), "losses": losses},
    )


@dataclass(frozen=True)
class _Place:
    """Where the demo writes: below a folder that was named, or as bare runs do."""

    named: Path | None
    force: bool

    @property
    def folder(self) -> Path:
        return self.named or FOLDER / "demo"

    def target(self, name: str) -> AbstractContextManager[Target]:
        if self.named is not None:
            return nullcontext(Target(self.named / name, self.force))
        return bare_run(f"demo/{name}", force=self.force)

    def at(self, name: str) -> str:
        return str(self.folder / name)


def _story(place: _Place) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each step: the command as one would type it, and the call that does the same and tells the outcome."""
    adapter, merged = place.at("extracted-r8"), place.at("merged")
    trained, back = place.at("merged-trained"), place.at("unmerged")
    yield _line("inspect", BASE, TUNED, ADAPTER), partial(_inspect, BASE, TUNED, ADAPTER)
    for rank in RANKS:
        name = f"extracted-r{rank}"
        command = _line("extract", BASE, TUNED, "--rank", str(rank), "-o", place.at(name), "--force")
        yield command, partial(_extract, place, name, rank)
    yield _line("merge", BASE, adapter, "-o", merged, "--force"), partial(_merge, place, "merged", adapter)
    yield _comparison(BASE, merged, TUNED), partial(_compare, BASE, merged, TUNED)
    command = _line("merge", BASE, ADAPTER, "-o", trained, "--undo", "--force")
    yield command, partial(_merge, place, "merged-trained", ADAPTER, undo=True)
    command = _line("unmerge", trained, "-o", back, "--force")
    yield command, partial(_unmerge, place, trained)
    yield _comparison(trained, back, BASE), partial(_compare, trained, back, BASE)
    yield _line("inspect", adapter, merged), partial(_inspect, adapter, merged)
    ranks = [str(rank) for rank in COMPARED]
    yield _line("analyze", "--rank", *ranks), lambda: _answer(loratools.analyze(ranks=COMPARED))
    command = _line("analyze", BASE, TUNED, "--rank", *map(str, RANKS))
    yield command, lambda: _answer(loratools.analyze([BASE, TUNED], ranks=RANKS))
    yield _line("report", "--rank", *ranks), lambda: _answer(loratools.report(ranks=COMPARED))


def _line(*words: str) -> str:
    return shlex.join(("loratools", *words))


def _comparison(start: str, reached: str, goal: str) -> str:
    """The command that `_compare` tells the outcome of."""
    call = f"remaining({', '.join(map(json.dumps, (start, reached, goal)))})"
    return shlex.join(("python", "-c", f"from loratools.operations.demo import remaining; print({call})"))


def remaining(start: str, reached: str, goal: str) -> float:
    """The share of the way from one checkpoint's weights to another's that is left from where one got."""
    return distance(reached, goal) / distance(start, goal)


def distance(first: str, second: str) -> float:
    """Frobenius norm of the difference of two checkpoints' weights, over all tensors that both have.

    Computed in float64 from float32 differences, tensor by tensor, with numpy.
    """
    import numpy as np

    one, other = open_checkpoint(first), open_checkpoint(second)
    squares = 0.0
    for name in one:
        if name in other and one[name].floating:
            difference = one.read(name).float32() - other.read(name).float32()
            squares += float(np.square(difference, dtype=np.float64).sum())
    return math.sqrt(squares)


def _compare(start: str, reached: str, goal: str) -> str:
    left = words.share(remaining(start, reached, goal))
    return (
        f"{left} of the way from {Path(start).name} to {Path(goal).name} is left, by the norm of the weights"
    )


def _inspect(*references: str) -> str:
    items = loratools.inspect(references).items or ()
    return "; ".join(
        f"{Path(item.reference).name}: {item.kind}, {item.parameters:,} parameters"
        + ("" if item.rank is None else f" at rank {words.several(item.rank)}")
        for item in items
    )


def _extract(place: _Place, name: str, rank: int) -> str:
    with place.target(name) as target:
        report = loratools.extract(BASE, TUNED, target.path, rank=rank, force=target.force)
    modules = [row for row in report.modules or () if isinstance(row, ExtractedModule)]
    kept = sum(row.energy * row.norm**2 for row in modules) / sum(row.norm**2 for row in modules)
    excess = max((row.excess for row in modules if row.excess is not None), default=None)
    totals = report.totals or Totals.of(0, 0, 0, 0)
    best = "as much as" if excess is None or excess < 1e-6 else f"within {words.share(excess)} of what"
    return (
        f"{len(modules)} modules keep {words.share(kept)} of their deltas' energy, {best} this rank allows; "
        f"{words.size(totals.bytes)}"
    )


def _merge(place: _Place, name: str, adapter: str, *, undo: bool = False) -> str:
    with place.target(name) as target:
        report = loratools.merge(BASE, [adapter], target.path, undo=undo, force=target.force)
    kept = f"; {words.size(report.details['undo']['bytes'])} to undo it" if undo else ""
    return f"{len(report.modules or ())} tensors changed{kept}"


def _unmerge(place: _Place, merged: str) -> str:
    with place.target("unmerged") as target:
        report = loratools.unmerge(merged, output=target.path, force=target.force)
    rows = [row for row in report.modules or () if isinstance(row, MergedModule)]
    exact = sum(row.exact is True for row in rows)
    return f"{exact} of {len(rows)} tensors restored to the last bit, without the adapter"


def _answer(report: Report) -> str:
    """What a report answers: the second of its lines, since the first says to which question."""
    _, answer = islice((page for page in pages(report, full=False) if isinstance(page, str)), 2)
    return answer


def _losses(place: _Place, announce: Callable[[str], None] | None) -> tuple[HeldoutLoss, ...]:
    """Held-out loss of the two checkpoints, and at each rank of the extracted and the trained adapter."""
    from loratools.sample.heldout import heldout_loss

    if announce:
        announce("Measuring held-out losses with transformers and PEFT")
    base = sample.path("base")
    with measuring(threads=1):
        rows = [
            HeldoutLoss("base", None, None, heldout_loss(base)),
            HeldoutLoss("full fine-tune", None, None, heldout_loss(sample.path("tuned"))),
        ]
        for rank in RANKS:
            for model, folder in (
                ("extracted from the fine-tune", place.folder / f"extracted-r{rank}"),
                ("LoRA, trained", sample.path(f"lora-r{rank}")),
            ):
                size = open_checkpoint(str(folder)).bytes
                rows.append(HeldoutLoss(model, rank, size, heldout_loss(base, folder)))
    return tuple(rows)
