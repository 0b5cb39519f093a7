"""The skinny factors of an adapter, module by module: what can be analysed of it without a base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loratools.adapters.binding import Adapter
from loratools.adapters.dora import Dora
from loratools.adapters.lowrank import LowRank
from loratools.adapters.peft import read_adapter
from loratools.adapters.update import Update
from loratools.adapters.values import finite_float64
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import TensorSpec
from loratools.engine.coverage import Action, CoverageRow
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.analysis.places import module_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

__all__ = ["NO_FACTORS", "SkinnyAdapter", "SkinnyModule", "adapter_labels", "open_skinny", "refuse_above"]

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""By how much of itself storing a number may move it, by the dtype that it is stored in."""

NO_FACTORS = {
    "replace": "held in full: it has no factors",
    "rows": "rows of an embedding: they have no factors",
    "bias": "a bias: it has no factors",
}
"""What else an adapter holds, by the kind of the update, and why it is not analysed."""


@dataclass(frozen=True)
class SkinnyModule:
    """One module's pair of factors, unread.

    `A` is (r, n), `B` (m, r); of an embedding n is the vocabulary. What they add to the module is
    `scaling · B A`; with `dora` that is its direction before the columns are scaled.
    """

    name: str
    A: TensorSpec
    B: TensorSpec
    scaling: float
    dora: bool

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the product."""
        return self.B.shape[0], self.A.shape[1]

    @property
    def bytes(self) -> int:
        return self.A.bytes + self.B.bytes

    def read(self) -> tuple[Matrix, Matrix]:
        """lora_A and lora_B in float64, read anew and not kept.

        Raises:
            LoratoolsError: a file cannot be read, or values are not finite.
        """
        return _read(self.A), _read(self.B)


def _read(spec: TensorSpec) -> Matrix:
    with TensorReader(spec) as reader:
        return finite_float64(reader.read(0, spec.rows))


@dataclass(frozen=True)
class SkinnyAdapter:
    """An adapter's pairs by module, and why each of its other tensors is none.

    `reference` is what the user named, `base_name` what its config calls its base.
    """

    reference: str
    base_name: str | None
    modules: Mapping[str, SkinnyModule]
    others: Mapping[str, str]
    specs: Mapping[str, TensorSpec]
    warnings: tuple[str, ...]

    @property
    def rank(self) -> int:
        """The largest of its modules' ranks."""
        return max(module.rank for module in self.modules.values())

    def coverage(
        self, label: str, action: Action, used: str, idle: Mapping[str, str]
    ) -> Iterator[CoverageRow]:
        """A row for each tensor of the file.

        Args:
            label: what coverage calls the adapter.
            action, used: what was done with the factors.
            idle: modules whose factors were not used, with the reason.
        """
        owners = {spec.name: one.name for one in self.modules.values() for spec in (one.A, one.B)}
        for key, spec in sorted(self.specs.items()):
            reason = self.others.get(key) or idle.get(owners.get(key, ""))
            fate = action if reason is None else Action.DROPPED
            yield CoverageRow(label, key, fate, reason or used, spec.bytes)


def open_skinny(opened: Checkpoint) -> SkinnyAdapter:
    """The factors of an opened adapter, from its headers.

    Raises:
        LoratoolsError: it is of a kind or format whose factors cannot be read, is broken, or has none.
    """
    if opened.format != "peft":
        raise LoratoolsError(
            f"an adapter of the format {opened.format} has no factors that can be read here",
            file=opened.root,
            hint="name a LoRA adapter as PEFT saves it",
        )
    adapter = read_adapter(opened)
    modules = dict(_modules(adapter))
    if not modules:
        raise LoratoolsError(
            "the adapter has no low-rank factors to analyse", file=opened.root, hint="name another adapter"
        )
    dora = sum(module.dora for module in modules.values())
    note = f"{opened.reference}: DoRA in {dora} modules: their factors are analysed, without the magnitudes"
    return SkinnyAdapter(
        reference=opened.reference,
        base_name=adapter.base_name,
        modules=modules,
        others=dict(adapter.ignored) | dict(_others(adapter)),
        specs=adapter.sources,
        warnings=(*(f"{opened.reference}: {line}" for line in adapter.warnings), *([note] if dora else [])),
    )


def refuse_above(ranks: Iterable[int], adapter: SkinnyAdapter) -> None:
    """Raises UsageError where one of the ranks is above the adapter's own."""
    for rank in ranks:
        if rank > adapter.rank:
            raise UsageError(
                f"rank {rank} is above the adapter's own, {adapter.rank}",
                file=adapter.reference,
                hint=f"ask for {adapter.rank} or less",
            )


def adapter_labels(count: int) -> list[str]:
    """What coverage calls the adapters: `adapter`, or `adapter 1`, `adapter 2`, ..."""
    return ["adapter"] if count == 1 else [f"adapter {place}" for place in range(1, count + 1)]


def _modules(adapter: Adapter) -> Iterator[tuple[str, SkinnyModule]]:
    for parameter, updates in adapter.updates.items():
        for update in updates:
            low_rank = _low_rank(update)
            if low_rank is not None:
                name = module_of(parameter)
                dora = low_rank is not update
                yield name, SkinnyModule(name, low_rank.A.spec, low_rank.B.spec, low_rank.scaling, dora)


def _others(adapter: Adapter) -> Iterator[tuple[str, str]]:
    for updates in adapter.updates.values():
        for update in updates:
            if isinstance(update, Dora):
                yield update.magnitude.key, "DoRA's magnitudes: no part of the factors"
            elif _low_rank(update) is None:
                yield from ((key, NO_FACTORS[update.kind]) for key in update.sources)


def _low_rank(update: Update) -> LowRank | None:
    """The pair in an update, if it has one."""
    direction = update.direction if isinstance(update, Dora) else update
    return direction if isinstance(direction, LowRank) else None
