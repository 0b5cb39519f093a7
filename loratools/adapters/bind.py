"""`bind`: settles, before any work, which updates of which adapters go to which tensor on disk.

Names, orientation, shapes, ties, weights and the order of several adapters are all decided here, and what
cannot be applied right is refused here by name. Headers tell all of it but whether tied tensors, and saved
embeddings, are equal: of those few `Contents` tells, which a dry run does not let read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

from loratools.adapters.bias import Bias
from loratools.adapters.binding import Adapter, Binding, BoundTensor
from loratools.adapters.contents import VALUES, Contents
from loratools.adapters.fitting import Owned, fit_updates, is_base_itself, refuse_conflicts
from loratools.adapters.layers import Layers
from loratools.adapters.names import HEADS, NameMap
from loratools.adapters.replace import Replace
from loratools.adapters.tied import Given, Sides, Tie, Tied, sides_as_trained, sides_together
from loratools.adapters.ties import find_ties
from loratools.adapters.update import Update
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError, UsageError

__all__ = ["Tied", "bind"]


def bind(
    adapters: Sequence[tuple[Adapter, float]],
    checkpoint: Checkpoint,
    *,
    tied: Tied = Tied.AUTO,
    allow_unmatched: bool = False,
    contents: Contents = VALUES,
) -> Binding:
    """Binds adapters, in the order in which they are to be applied, to the tensors of a checkpoint.

    Args:
        adapters: (adapter, the user's weight of it).
        checkpoint: the base.
        tied: what becomes of tied tensors that an adapter touches.
        allow_unmatched: goes on without the adapter keys that find no tensor.
        contents: reads values where they alone tell; where it may not, the result says what is pending.

    Raises:
        LoratoolsError: a key finds no tensor, or more than one; shapes do not fit; two adapters replace one
            tensor; a weight other than 1 on what cannot be scaled; a tie that the policy cannot keep.
        UsageError: a weight is not finite, or there is no adapter.
    """
    if not adapters:
        raise UsageError("there is no adapter to bind")
    for adapter, weight in adapters:
        if not math.isfinite(weight):
            raise UsageError(f"the weight {weight} of {adapter.name} is not finite")
    names = NameMap.of(checkpoint)
    seen: set[int] = set()
    given = []
    for adapter, weight in adapters:
        given.append(_Placed(adapter, weight, _by_core(adapter, names, again=id(adapter) in seen)))
        seen.add(id(adapter))
    binder = _Binder(checkpoint, names, tied, given, contents)
    binder.bind_ties()
    binder.bind_others()
    binder.refuse_unmatched(allow=allow_unmatched)
    return binder.binding()


@dataclass(frozen=True)
class _Placed:
    """An adapter, its weight, and its updates by core name."""

    adapter: Adapter
    weight: float
    updates: Mapping[str, tuple[Update, ...]]


def _by_core(adapter: Adapter, names: NameMap, *, again: bool) -> dict[str, tuple[Update, ...]]:
    """Its updates by core name, as objects of their own where it was given before, with another weight."""
    found: dict[str, tuple[Update, ...]] = {}
    for name, updates in adapter.updates.items():
        core = names.core(name)
        if core in found:
            raise LoratoolsError(f"{adapter.name} has {core} with and without a prefix", tensor=name)
        found[core] = tuple(map(copy, updates)) if again else updates
    return found


@dataclass
class _Binder:
    """Collects what is bound."""

    checkpoint: Checkpoint
    names: NameMap
    policy: Tied
    given: Sequence[_Placed]
    contents: Contents
    tensors: dict[str, BoundTensor] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    conv1d: list[str] = field(default_factory=list)
    unmatched: list[tuple[str, str]] = field(default_factory=list)
    idle: dict[tuple[str, str], str] = field(default_factory=dict)
    pending: dict[tuple[str, str], str] = field(default_factory=dict)
    pending_tensors: dict[str, str] = field(default_factory=dict)
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    untied: bool = False
    layers: Layers = field(init=False)
    adapter_of: dict[int, int] = field(init=False)
    """The place of the adapter that an update, by identity, is from."""

    def __post_init__(self) -> None:
        self.layers = Layers(self.checkpoint.config)
        self.adapter_of = {
            id(update): place
            for place, one in enumerate(self.given)
            for held in one.updates.values()
            for update in held
        }

    def bind_ties(self) -> None:
        """Tied tensors that an adapter touches, by the policy."""
        touched = {name for one in self.given for name in one.updates}
        untouched = []
        for tie in find_ties(self.checkpoint, self.names, sorted(touched), layers=self.layers):
            if touched.isdisjoint(tie.members):
                untouched.append(tie)
            elif tie.holds(self.contents) is not False:
                self._bind_tie(tie)
            else:
                self.warnings.append(f"{_label(tie)} are tied by the config but differ: taken as untied")
        for tie in untouched:
            if self.untied and tie.holds(self.contents) is not False:
                self._write_apart(tie, {})

    def bind_others(self) -> None:
        """All that is in no tie."""
        for core in sorted({core for one in self.given for core in one.updates} - self.done):
            owned = self._owned(update for one in self.given for update in one.updates.get(core, ()))
            disk = self.names.disk(core)
            if disk is not None:
                self._add(disk, self.checkpoint[disk], owned)
            elif self._is_new(core, owned):
                self._add_new(core, owned)
            elif (void := self._is_void(core, owned)) is not False:
                self._set_idle(owned, "is zero, and the base has no such bias")
                if void is None:
                    self._set_pending(owned, f"{_WILL_TELL} whether it is zero: the base has no such bias")
            else:
                self._refuse_missing(core, owned)
                self.unmatched += [key for one in owned for key in self._keys(one)]

    def refuse_unmatched(self, *, allow: bool) -> None:
        """Raises LoratoolsError where keys found no tensor, unless that is allowed and some did."""
        if not self.unmatched or (allow and self.tensors):
            return
        shown = ", ".join(key for _, key in self.unmatched[:3])
        more = f" and {len(self.unmatched) - 3} more" if len(self.unmatched) > 3 else ""
        raise LoratoolsError(
            f"{len(self.unmatched)} adapter keys find no tensor in the base: {shown}{more}",
            file=self.checkpoint.root,
            hint="is this the base that the adapter was trained on? --allow-unmatched goes on without them"
            if self.tensors
            else "this is not the base that the adapter was trained on",
        )

    def binding(self) -> Binding:
        return Binding(
            tensors=dict(sorted(self.tensors.items())),
            unmatched=tuple(self.unmatched),
            idle=dict(sorted(self.idle.items())),
            pending=dict(sorted(self.pending.items())),
            pending_tensors=dict(sorted(self.pending_tensors.items())),
            tie_word_embeddings=False if self.untied else None,
            decisions=(*self.decisions, *_orientation(self.conv1d, [one.adapter for one in self.given])),
            warnings=tuple(self.warnings),
        )

    def _bind_tie(self, tie: Tie) -> None:
        holds = tie.holds(self.contents)
        if self.policy is Tied.REFUSE and holds:
            raise LoratoolsError(
                f"the adapter changes what is tied in the base ({_label(tie)})",
                tensor=tie.spec.name,
                hint="choose what becomes of the tie: --tied auto, tie or untie",
            )
        self.done.update(tie.members)
        given = [Given(self._acting(tie, one), one.adapter.keeps_ties) for one in self.given]
        decide = sides_together if self.policy is Tied.TIE else sides_as_trained
        sides = decide(tie, given, self.contents)
        self._set_idle(self._owned(sides.repeated), f"says what another of {_label(tie)} says")
        if holds is None or sides.unknown or self._is_pending(tie):
            self._bind_unknown_tie(tie, sides)
            return
        if sides.equal and self.policy is not Tied.UNTIE:
            self.decisions.append(f"{_label(tie)} are tied and stay so")
            for name, spec in tie.stored.items():
                self._add(spec.name, spec, self._owned(sides.updates[name]))
            return
        if len(tie.members) > 2:
            raise LoratoolsError(
                f"{_label(tie)} are one tensor, and written apart the model would compute otherwise",
                tensor=tie.spec.name,
                hint="choose --tied tie",
            )
        why = "as --tied untie says" if self.policy is Tied.UNTIE else "as the adapter was trained"
        self.decisions.append(f"{_label(tie)} are tied in the base and are written apart, {why}")
        self.untied = True
        self._write_apart(tie, sides.updates)

    def _is_pending(self, tie: Tie) -> bool:
        keys = (key for one in self._touching(tie) for key in self._keys(one))
        return any(key in self.pending for key in keys)

    def _touching(self, tie: Tie) -> list[Owned]:
        """All that an adapter does to a member."""
        return self._owned(u for one in self.given for name in tie.members for u in one.updates.get(name, ()))

    def _bind_unknown_tie(self, tie: Tie, sides: Sides) -> None:
        """A tie of which values would tell what becomes of it: taken for what writes the more."""
        why = f"{_WILL_TELL} whether {_label(tie)} are, and stay, one tensor"
        self.decisions.append(f"{_label(tie)} are tied by the config: {why}")
        self._set_pending(self._touching(tie), why)
        if len(tie.members) > 2 or (sides.equal and self.policy is not Tied.UNTIE):
            for name, spec in tie.stored.items():
                self._add(spec.name, spec, self._owned(sides.updates[name]))
        else:
            self._write_apart(tie, sides.updates)
        disk = [self.names.disk(name) or self.names.new(name) for name in tie.members]
        self.pending_tensors.update((name, why) for name in disk)

    def _acting(self, tie: Tie, one: _Placed) -> dict[str, tuple[Update, ...]]:
        """What an adapter does to the members: to save the base's own values on one side unties nothing."""
        updates = {name: one.updates[name] for name in tie.members if name in one.updates}
        whole = [update for held in updates.values() for update in held if isinstance(update, Replace)]
        told = [(update, self.contents.same(update.value.spec, tie.spec)) for update in whole]
        idle = [update for update, same in told if (update.shared if same is None else same)]
        self._set_idle(self._owned(idle), _OWN)
        unknown = self._owned(update for update, same in told if same is None)
        self._set_pending(unknown, f"{_WILL_TELL} whether it {_OWN}")
        return {
            name: tuple(update for update in held if update not in idle) for name, held in updates.items()
        }

    def _write_apart(self, tie: Tie, updates: Mapping[str, tuple[Update, ...]]) -> None:
        """Each member as a tensor of its own; one that is not on disk starts from what it was tied to."""
        for name in tie.members:
            spec = tie.stored.get(name)
            disk = self.names.new(name) if spec is None else spec.name
            self._add(disk, spec or tie.spec, self._owned(updates.get(name, ())))

    def _add(self, disk: str, spec: TensorSpec, owned: Sequence[Owned]) -> None:
        """A tensor that starts from `spec`; nothing, if it is on disk and nothing is done to it."""
        acting: list[Owned] = []
        idle: list[Owned] = []
        for one in owned:
            same = is_base_itself(one.update, spec, self.contents)
            if same is None:
                why = f"{_WILL_TELL} whether {{}} {_OWN}"
                self._set_pending([one], why.format("it"))
                self.pending_tensors[disk] = why.format(one.update.sources[0])
            (acting if same is False else idle).append(one)
        self._set_idle(idle, _OWN)
        if not acting and disk in self.checkpoint:
            return
        memory = self.names.memory(disk)
        fitted = fit_updates(memory, spec, acting, self.layers)
        if fitted.conv1d:
            self.conv1d.append(memory)
        self.tensors[disk] = BoundTensor(disk, spec, fitted.updates)

    def _add_new(self, core: str, owned: Sequence[Owned]) -> None:
        refuse_conflicts(core, owned)
        name = self.names.new(core)
        self.tensors[name] = BoundTensor(name, None, tuple(one.update.weighted(one.weight) for one in owned))
        self.decisions.append(f"{core} is added: the base has no such head")

    def _is_new(self, core: str, owned: Sequence[Owned]) -> bool:
        """Whether it is part of a head that an adapter saved in full: a module beside the bare model."""
        module = core.rpartition(".")[0]
        saved = self.given[owned[0].adapter].adapter.new_modules
        return (
            module.split(".")[0] in HEADS
            and isinstance(owned[0].update, Replace)
            and module in map(self.names.core, saved)
        )

    def _is_void(self, core: str, owned: Sequence[Owned]) -> bool | None:
        """Whether it is a bias of zeros for a layer without one: in PEFT lora_bias holds for all targets."""
        weight = self.names.disk(f"{core.rpartition('.')[0]}.weight")
        biases = [one.update for one in owned if isinstance(one.update, Bias)]
        if weight is None or len(biases) < len(owned):
            return False
        return self.contents.tell(lambda: all(bias.norm() == 0.0 for bias in biases))

    def _refuse_missing(self, core: str, owned: Sequence[Owned]) -> None:
        """Raises LoratoolsError where the base lacks the tensor for a reason that can be told."""
        module, _, leaf = core.rpartition(".")
        first = owned[0].update
        if self.names.disk(f"{module}.in_proj_weight") is not None:
            raise LoratoolsError(
                f"{module} is a MultiheadAttention, which cannot be merged yet: its projections are one",
                tensor=first.sources[0],
                hint="merge it with PEFT's merge_and_unload",
            )
        if isinstance(first, Bias) and leaf == "bias" and self.names.disk(f"{module}.weight") is not None:
            raise LoratoolsError(
                f"{module} has no bias in the base, so that the adapter's lora_bias has nowhere to go",
                tensor=first.sources[0],
                hint="keep the adapter beside the base: such a layer cannot be merged",
            )

    def _owned(self, updates: Iterable[Update]) -> list[Owned]:
        """Updates with the places of the adapters that they are from, and these adapters' weights."""
        placed = [(self.adapter_of[id(update)], update) for update in updates]
        return [Owned(place, update, self.given[place].weight) for place, update in placed]

    def _keys(self, one: Owned) -> list[tuple[str, str]]:
        """(adapter, key) of what an update uses up."""
        return [(self.given[one.adapter].adapter.name, key) for key in one.update.sources]

    def _set_idle(self, owned: Iterable[Owned], why: str) -> None:
        self.idle.update({key: why for one in owned for key in self._keys(one)})

    def _set_pending(self, owned: Iterable[Owned], why: str) -> None:
        self.pending.update({key: why for one in owned for key in self._keys(one)})


_WILL_TELL = "the values, which a dry run does not read, tell"
_OWN = "holds the base's own values"


def _label(tie: Tie) -> str:
    return " and ".join(tie.members)


def _orientation(conv1d: Sequence[str], adapters: Sequence[Adapter]) -> list[str]:
    """What was decided on weights that are stored (in, out)."""
    if not conv1d:
        return []
    unsaid = [adapter.name for adapter in adapters if adapter.transposed_flag is False]
    aside = f" (though the config of {', '.join(unsaid)} says fan_in_fan_out: false)" if unsaid else ""
    return [f"{len(conv1d)} weights are stored (in, out), as {min(conv1d)}: the update is transposed{aside}"]
