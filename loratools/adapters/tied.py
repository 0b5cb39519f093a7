"""Tied tensors: one parameter under two names, such as an embedding and the output head.

An adapter can have been trained on one of the two sides only. Then the merged model has two tensors where the
base had one, and its config must say so. What each policy gives is CLI.md's `--tied`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from loratools.adapters.contents import VALUES, Contents
from loratools.adapters.lowrank import LowRank
from loratools.adapters.replace import Replace, Rows
from loratools.adapters.update import Update
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError


class Tied(str, Enum):
    """What becomes of a tied pair that an adapter touches."""

    AUTO = "auto"
    """As the adapter was trained: tied where both sides end equal, else written apart."""
    TIE = "tie"
    """Both sides change by all that is done to either, as PEFT's merge does."""
    UNTIE = "untie"
    """Always written apart."""
    REFUSE = "refuse"


@dataclass(frozen=True)
class Tie:
    """Core names of one parameter (`NameMap.core`); the first is the source's, mostly an embedding.

    `stored` are the specs of those that stand on disk: one at least.
    """

    members: tuple[str, ...]
    stored: Mapping[str, TensorSpec]

    @property
    def spec(self) -> TensorSpec:
        """The tensor that all members start from."""
        return next(self.stored[name] for name in self.members if name in self.stored)

    def holds(self, contents: Contents = VALUES) -> bool | None:
        """Whether those on disk are the same, byte for byte; transformers ties no others. None if unknown."""
        found = {contents.same(self.spec, spec) for spec in self.stored.values() if spec is not self.spec}
        return False if False in found else None if None in found else True


@dataclass(frozen=True)
class Sides:
    """What each member of a tie gets, in order, and the updates that said the same once more.

    `unknown`: only values tell whether updates are the same, and they were not read.
    """

    updates: Mapping[str, tuple[Update, ...]]
    repeated: tuple[Update, ...]
    unknown: bool = False

    @property
    def equal(self) -> bool:
        held = list(self.updates.values())
        return all(one == held[0] for one in held)


@dataclass(frozen=True)
class Given:
    """What one adapter does to the members of a tie. `keeps_ties`: it was trained with them tied."""

    updates: Mapping[str, tuple[Update, ...]]
    keeps_ties: bool = False


@dataclass
class _Comparison:
    """Compares updates, and remembers whether an answer had to be taken for `likely`."""

    contents: Contents
    unknown: bool = False

    def same(self, one: Update, other: Update, *, likely: bool) -> bool:
        found = same_update(one, other, self.contents)
        if found is None:
            self.unknown = True
            return likely
        return found


def sides_as_trained(tie: Tie, adapters: Sequence[Given], contents: Contents = VALUES) -> Sides:
    """Each member gets what its own forward pass had.

    In memory there is one parameter, and each module may have an adapter of its own. So a replacement of the
    parameter itself (`shared`) reaches all members, and token rows do too unless the head has rows of its own
    (PEFT ties them by itself); factors and saved modules belong to the one module, unless the adapter says
    the same of all members or was trained with them tied (`ensure_weight_tying`): then it is done once to
    each. PEFT 0.21's merge would add it twice. Where factors that were to stay one differ all the same (PEFT
    loses the tie of a 16-bit base in training), each side has its own.

    Raises:
        LoratoolsError: an adapter holds two different values of the one parameter.
    """
    comparison = _Comparison(contents)
    held: dict[str, list[Update]] = {name: [] for name in tie.members}
    repeated: list[Update] = []
    for given in adapters:
        own = {name: list(given.updates.get(name, ())) for name in tie.members}
        whole = [update for name in tie.members for update in own[name] if _is_shared(update)]
        for update in whole[1:]:
            if not comparison.same(whole[0], update, likely=True):
                raise _two_values(whole[0], update)
            repeated.append(update)
        for name in tie.members:
            held[name] += whole[:1]
            own[name] = [update for update in own[name] if not _is_shared(update)]
        repeated += _share_equal(tie, own, given.keeps_ties, comparison)
        for name in tie.members:
            held[name] += own[name]
    updates = {name: tuple(its) for name, its in held.items()}
    return Sides(updates, tuple(repeated), comparison.unknown)


def sides_together(tie: Tie, adapters: Sequence[Given], contents: Contents = VALUES) -> Sides:
    """All members get what is done to any of them; what is said twice, the same, is done once.

    Raises:
        LoratoolsError: an adapter holds two different tensors for the one parameter.
    """
    comparison = _Comparison(contents)
    held: list[Update] = []
    repeated: list[Update] = []
    for given in adapters:
        own: list[Update] = []
        for update in (update for name in tie.members for update in given.updates.get(name, ())):
            if any(comparison.same(one, update, likely=update.kind == "replace") for one in own):
                repeated.append(update)
                continue
            other = next((one for one in own if one.kind == update.kind == "replace"), None)
            if other is not None:
                raise _two_values(other, update)
            own.append(update)
        held += sorted(own, key=lambda update: update.kind != "replace")
    return Sides({name: tuple(held) for name in tie.members}, tuple(repeated), comparison.unknown)


def same_update(one: Update, other: Update, contents: Contents = VALUES) -> bool | None:
    """Whether two updates do the same to a tensor; None where only values tell, which are not read."""
    if isinstance(one, Replace) and isinstance(other, Replace):
        return contents.same(one.value.spec, other.value.spec)
    if isinstance(one, Rows) and isinstance(other, Rows):
        return one.indices == other.indices and contents.same(one.value.spec, other.value.spec)
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        if one.scaling != other.scaling or one.rank != other.rank:
            return False
        if one is other and not contents.reads:
            return True
        return contents.tell(lambda: _same_product(one, other))
    return False


def _is_shared(update: Update) -> bool:
    return isinstance(update, Replace) and update.shared


def _share_equal(
    tie: Tie, own: dict[str, list[Update]], keeps_ties: bool, comparison: _Comparison
) -> list[Update]:
    """Gives all members the same updates where all say the same, or one says what is meant for all.

    That are token rows of the source's, and anything of an adapter that keeps ties; but DoRA's magnitudes are
    each side's own, tied or not. A tied bias is a head's, kept once more beside it (BERT's decoder) and used
    in the head only, so that what is said of either is meant for both. Where values that are not read would
    tell, the sides are taken apart, which writes the more. Returns those that were said again.
    """
    speaking = [name for name in tie.members if own[name]]
    if not speaking:
        return []
    first = own[speaking[0]]
    rows_of_source = speaking == [tie.members[0]] and all(isinstance(update, Rows) for update in first)
    alike = [
        len(own[name]) == len(first)
        and all(comparison.same(*pair, likely=False) for pair in zip(first, own[name], strict=True))
        for name in speaking
    ]
    dora = any(update.kind == "dora" for name in speaking for update in own[name])
    keeps_ties = keeps_ties or all(name.endswith(".bias") for name in tie.members)
    if keeps_ties and not all(alike) and not dora:
        return []
    said_by_all = len(speaking) == len(tie.members) and all(alike)
    if not (said_by_all or rows_of_source or (keeps_ties and not dora)):
        return []
    repeated = [update for name in speaking[1:] for update in own[name]]
    own.update({name: list(first) for name in tie.members})
    return repeated


def _same_product(one: LowRank, other: LowRank) -> bool:
    import numpy as np

    pair = (other.A.array(), other.B.array())
    if bool(one.transposed) != bool(other.transposed):
        pair = (other.B.array().T, other.A.array().T)
    return all(
        np.array_equal(mine, its) for mine, its in zip((one.A.array(), one.B.array()), pair, strict=True)
    )


def _two_values(one: Update, other: Update) -> LoratoolsError:
    return LoratoolsError(
        f"{one.sources[0]} and {other.sources[0]} are tied in the base but differ in the adapter",
        tensor=other.sources[0],
        hint="choose --tied untie, or take the key out that is not meant",
    )
