"""What an extraction found out: which tensors changed, how the adapter holds each, and each one's fate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.errors import LoratoolsError
from loratools.linalg.noise_floor import NoiseFloor
from loratools.operations.extract_job import FactorFacts, ReadFacts
from loratools.operations.extract_options import Rest, Unholdable
from loratools.operations.extract_plan import ExtractPlan, refusal, rows_of, tie_job
from loratools.operations.pairing import Pair, Side
from loratools.operations.rest import Holdings, hold, unholdable
from loratools.operations.roles import Assignment, Role
from loratools.operations.tied import Seen, Tied, hold_tied

__all__ = ["Changes", "Findings", "conclude", "look_at_changes"]


@dataclass(frozen=True)
class Changes:
    """What reading told: the changed tensors to be saved, those to be dropped and why, embedding and head.

    `rest`: names in memory, without those that `tied` settles. `dropped`: names and reasons.
    """

    rest: tuple[str, ...]
    tied: Tied
    dropped: Mapping[str, str]


@dataclass(frozen=True)
class Findings:
    """All that is known once every delta is factored."""

    changes: Changes
    factors: Mapping[str, FactorFacts]
    holdings: Holdings
    coverage: Coverage

    @cached_property
    def whole(self) -> tuple[str, ...]:
        """Linear weights that are saved whole: their factors would cost more."""
        return tuple(name for name, facts in self.factors.items() if facts.changed and facts.factors is None)

    @cached_property
    def factored(self) -> dict[str, FactorFacts]:
        return {name: facts for name, facts in self.factors.items() if facts.factors is not None}


def look_at_changes(plan: ExtractPlan, read: Mapping[str, ReadFacts]) -> Changes:
    """Which of the tensors that are not factored changed, and what `--rest` and `--unholdable` make of them.

    Args:
        plan: the plan.
        read: what each reading job told, by its name.

    Raises:
        LoratoolsError: something changed that is to be refused; names the first.
    """
    changed = _changed(plan, read)
    rest = plan.options.rest
    if rest is Rest.REFUSE and changed:
        raise _refused(plan, changed, "changed and would not be factored", "--rest save keeps them whole")
    if rest is Rest.DROP:
        return Changes((), Tied(), dict.fromkeys(changed, "it changed; --rest drop"))
    reasons = unholdable(plan.pair, plan.assignments, changed)
    if reasons and plan.options.unholdable is Unholdable.REFUSE:
        hint = "--unholdable drop goes on without"
        raise _refused(plan, reasons, "no adapter can hold", hint)
    held = [name for name in changed if name not in reasons]
    tied = hold_tied(plan.pair, _seen(plan, read), embedding_only=not _head_bias(plan, held))
    dropped = {name: f"{reason}; --unholdable drop" for name, reason in reasons.items()}
    return Changes(tuple(name for name in held if name not in tied.names), tied, dropped)


def conclude(plan: ExtractPlan, changes: Changes, factors: Mapping[str, FactorFacts]) -> Findings:
    """How everything is held, and what became of every tensor.

    Raises:
        LoratoolsError: nothing changed, or nothing that changed may be held.
    """
    whole = [name for name, facts in factors.items() if facts.changed and facts.factors is None]
    holdings = hold(
        plan.pair,
        plan.assignments,
        changed=(*changes.rest, *whole),
        tied=changes.tied,
        whole=whole,
    )
    if holdings.empty and not any(facts.factors for facts in factors.values()):
        what = _nothing(changes, factors)
        raise LoratoolsError(
            f"{what}: there is nothing to extract",
            file=plan.pair.tuned.root,
            hint="compare other checkpoints",
        )
    rows = _rows(plan, changes, factors, holdings)
    return Findings(changes, factors, holdings, Coverage.of(rows))


def _nothing(changes: Changes, factors: Mapping[str, FactorFacts]) -> str:
    """Why there is nothing to hold."""
    if any(facts.drowned for facts in factors.values()):
        return "nothing of the difference stands above the noise of rounding"
    return "nothing that changed may be held" if changes.dropped else "base and tuned do not differ"


def _changed(plan: ExtractPlan, read: Mapping[str, ReadFacts]) -> dict[str, str]:
    """The names of changed tensors that have no factors, with the reason why not."""
    found: dict[str, str] = {}
    for name, assignment in plan.assignments.items():
        if assignment.role is Role.NEW_HEAD or (
            assignment.role is Role.COMPARE and (read[name].changed or assignment.tensor.grown)
        ):
            found[name] = assignment.reason
    return found


def _refused(plan: ExtractPlan, names: Mapping[str, str], what: str, hint: str) -> LoratoolsError:
    return refusal(
        [(plan.assignments[name].tensor.spec, reason) for name, reason in names.items()], what, hint
    )


def _seen(plan: ExtractPlan, read: Mapping[str, ReadFacts]) -> Seen:
    tie = plan.pair.tie
    if tie is None:
        return Seen({}, (), frozenset())
    names = (tie.embedding, *tie.members)
    apart = {(side, name) for name in tie.members for side in Side if _apart(plan.pair, name, side, read)}
    changed = {name: read[name].changed for name in names if name in read}
    return Seen(changed, read[tie.embedding].changed_rows, frozenset(apart))


def _apart(pair: Pair, name: str, side: Side, read: Mapping[str, ReadFacts]) -> bool:
    """Whether a side writes the parameter, and with other values than its embedding's."""
    tensor = pair.tensors.get(name)
    own = None if tensor is None else tensor.of(side)
    if own is None or pair.tie is None:
        return False
    facts = read.get(tie_job(name, side))
    return facts is None or facts.changed > 0


def _head_bias(plan: ExtractPlan, changed: list[str]) -> bool:
    """Whether something of the tied head changed that is not its weight."""
    tie = plan.pair.tie
    if tie is None or tie.head is None:
        return False
    module = tie.head.rpartition(".")[0]
    above = module.rpartition(".")[0]
    return any(name in (f"{module}.bias", f"{above}.bias") for name in changed)


def _rows(
    plan: ExtractPlan, changes: Changes, factors: Mapping[str, FactorFacts], holdings: Holdings
) -> Iterator[CoverageRow]:
    saved = holdings.parameters()
    for name, assignment in plan.assignments.items():
        action, reason = _fate(name, assignment, changes, factors, holdings, saved)
        yield from rows_of(assignment, action, reason)


def _fate(
    name: str,
    assignment: Assignment,
    changes: Changes,
    factors: Mapping[str, FactorFacts],
    holdings: Holdings,
    saved: frozenset[str],
) -> tuple[Action, str]:
    module = assignment.tensor.module
    facts = factors.get(name)
    if name in changes.dropped:
        return Action.DROPPED, f"{assignment.reason}: {changes.dropped[name]}"
    if assignment.role in (Role.BUFFER, Role.UNHOLDABLE) and name not in saved:
        return Action.DROPPED, assignment.reason
    if facts is not None and facts.factors is not None:
        return Action.FACTORED, f"rank {facts.factors.rank}"
    if facts is not None and facts.changed:
        return Action.SAVED, f"whole: the rank for {_asked(facts)} would cost more than the matrix"
    if facts is not None and facts.noise is not None and facts.drowned:
        return _drowned(facts.noise)
    if module in holdings.biases and assignment.tensor.leaf == "bias":
        return Action.SAVED, "as the difference of a bias, beside its layer's factors"
    if name in saved:
        alone = name in changes.rest or name in changes.tied.names
        return (
            Action.SAVED,
            f"{assignment.reason}: {'whole' if alone else 'unchanged, but its module is saved'}",
        )
    if module in holdings.rows and assignment.tensor.leaf == "weight":
        count = len(holdings.rows[module][0])
        return Action.SAVED, f"{count} of {assignment.tensor.spec.rows} rows changed: as trainable tokens"
    if name in changes.rest:
        return Action.SAVED, f"{assignment.reason}: with {_home(name, holdings)}"
    if holdings.rows and name in changes.tied.names:
        return Action.SAVED, "tied to the embedding, which is saved"
    return Action.UNCHANGED, "base and tuned hold the same values"


def _asked(facts: FactorFacts) -> str:
    return "its energy" if facts.noise is None else "what stands above the storage noise"


def _drowned(noise: NoiseFloor) -> tuple[Action, str]:
    """A delta of which nothing stands above the floor: rounding, or an update that rounding hides."""
    if noise.rank == 0:
        return Action.UNCHANGED, "base and tuned differ by the rounding of their storage only"
    return Action.DROPPED, f"nothing stands above the storage noise floor; {noise.note}"


def _home(name: str, holdings: Holdings) -> str:
    """The saved module that holds a parameter under another of its names."""
    parent = name.rpartition(".")[0]
    return next((module for module in holdings.saved if module.startswith(f"{parent}.")), parent)
