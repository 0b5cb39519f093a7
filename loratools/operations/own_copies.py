"""The base's own embedding, as PEFT saves it beside the factors of one that it targets: no replacement.

A merge sees that it is what the base has already. In the merged checkpoint it is not any more, so that an
unmerge has to find out what it was: from the merge's record, else from the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial

from loratools.adapters.bind import Tied, bind
from loratools.adapters.binding import Adapter, Binding, BoundTensor
from loratools.adapters.contents import VALUES, Contents
from loratools.adapters.names import NameMap
from loratools.adapters.replace import Replace
from loratools.adapters.ties import find_ties
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.operations.merge_inputs import MergeInputs
from loratools.operations.subtract import fits_as_source, may_have_been

_WHY = "the base's own copy beside the factors"


OnlyAdded = Callable[[int, str], bool | None]


@dataclass(frozen=True)
class _Copy:
    """A tensor held in full beside factors of the same parameter, by the adapter's place and that name."""

    adapter: int
    name: str
    update: Replace


def without_own_copies(
    inputs: MergeInputs, only_added: OnlyAdded, *, allow_unmatched: bool, contents: Contents = VALUES
) -> tuple[MergeInputs, list[str]]:
    """The inputs of an unmerge, without the replacements that a merge found to be what the base had.

    Where no record tells, a copy counts as the base's if the merged tensor is what adding to the copy gives;
    the second result says so, since the base may have been another. Where values are not read, it is taken
    for the base's, and the second result says that they will tell.

    Args:
        inputs: the merged checkpoint and the adapters.
        only_added: whether merging the adapter of this place did no more than add to the tensor of this name;
            None where that is not on record.
        allow_unmatched: as `bind` has it.
        contents: as `bind` has it.

    Raises:
        LoratoolsError: as `bind`; a file cannot be read.
    """
    copies = list(_copies(inputs))
    if not copies:
        return inputs, []
    stripped = _without(inputs, copies)
    binding = bind(
        [(one.adapter, one.weight) for one in stripped.adapters],
        inputs.checkpoint,
        tied=Tied.TIE,
        allow_unmatched=allow_unmatched,
        contents=contents,
    )
    found, notes = [], []
    for copy in copies:
        bound = _bound(copy.name, inputs.checkpoint, binding)
        if bound is None or bound.source is None:
            continue
        recorded = only_added(copy.adapter, bound.name)
        if recorded is None:
            asked = (copy.update.value.spec, bound.source, bound.updates)
            told = contents.tell(partial(may_have_been, *asked))
            if told is False or not fits_as_source(*asked):
                continue
            adapter = inputs.adapters[copy.adapter].name
            how = "is taken" if told else "will be taken, if its values allow it,"
            notes.append(f"{bound.name} {how} to have been what {adapter} holds beside its factors")
            found.append(copy)
        elif recorded:
            found.append(copy)
    return _without(inputs, found), notes


def copies_pending(inputs: MergeInputs, contents: Contents) -> dict[tuple[str, str], str]:
    """The (adapter, key) that a dry run takes for the base's own copy, with the reason: values will tell."""
    if contents.reads:
        return {}
    return {
        (one.adapter.name, key): f"the values, which a dry run does not read, tell whether it is {_WHY}"
        for one in inputs.adapters
        for key, why in one.adapter.ignored.items()
        if why == _WHY
    }


def _copies(inputs: MergeInputs) -> Iterator[_Copy]:
    for place, one in enumerate(inputs.adapters):
        for name, updates in one.adapter.updates.items():
            alone = all(isinstance(update, Replace) for update in updates)
            for update in updates:
                if not alone and isinstance(update, Replace) and update.shared:
                    yield _Copy(place, name, update)


def _bound(name: str, checkpoint: Checkpoint, binding: Binding) -> BoundTensor | None:
    """What was bound to the tensor of a name in memory, or to one that it is tied to."""
    names = NameMap.of(checkpoint)
    core = names.core(name)
    ties = (tie.members for tie in find_ties(checkpoint, names, [core]))
    tied = next((members for members in ties if core in members), ())
    stored = [disk for one in (core, *tied) if (disk := names.disk(one)) is not None]
    return next((binding.tensors[disk] for disk in stored if disk in binding.tensors), None)


def _without(inputs: MergeInputs, copies: Collection[_Copy]) -> MergeInputs:
    adapters = [
        replace(one, adapter=_stripped(one.adapter, [copy for copy in copies if copy.adapter == place]))
        for place, one in enumerate(inputs.adapters)
    ]
    return replace(inputs, adapters=tuple(adapters))


def _stripped(adapter: Adapter, copies: Collection[_Copy]) -> Adapter:
    """The adapter without these, which then are among the keys that mean nothing."""
    gone = {copy.update.value.key for copy in copies}
    updates = {
        name: tuple(one for one in held if not (isinstance(one, Replace) and one.value.key in gone))
        for name, held in adapter.updates.items()
    }
    ignored = {**adapter.ignored, **dict.fromkeys(sorted(gone), _WHY)}
    return replace(adapter, updates=updates, ignored=ignored)
