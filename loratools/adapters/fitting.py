"""Whether updates fit a tensor, and each other: orientation, shapes, and the order of several adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loratools.adapters.contents import VALUES, Contents
from loratools.adapters.dora import Dora
from loratools.adapters.layers import Layer, Layers
from loratools.adapters.lowrank import LowRank
from loratools.adapters.replace import Replace, Rows
from loratools.adapters.update import Update
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError


@dataclass(frozen=True)
class Owned:
    """An update, the place of its adapter in the order given, and the weight that the user gave to it."""

    adapter: int
    update: Update
    weight: float = 1.0


@dataclass(frozen=True)
class Fitted:
    """Updates that were found to fit, oriented; `conv1d` tells that the weight is stored (in, out)."""

    updates: tuple[Update, ...]
    conv1d: bool


def fit_updates(memory_name: str, spec: TensorSpec, owned: Sequence[Owned], layers: Layers) -> Fitted:
    """The updates of one tensor, in order, each oriented as the tensor is stored.

    Args:
        memory_name: the parameter's name in memory.
        spec: the tensor that they start from.
        owned: the updates of all adapters, in order.
        layers: the model's.

    Raises:
        LoratoolsError: the tensor is not floating, an update does not fit it, or two adapters cannot both be
            applied to it.
    """
    if not spec.floating:
        raise LoratoolsError(
            f"a tensor of {spec.dtype} cannot be changed",
            file=spec.file,
            tensor=spec.name,
            hint="use an unquantised base",
        )
    refuse_conflicts(memory_name, owned)
    shape = spec.shape
    updates: list[Update] = []
    conv1d = False
    for place, one in enumerate(owned):
        update = one.update.weighted(one.weight)
        if isinstance(update, Replace) and layers.of(memory_name, spec).layer in _RESIZABLE:
            update = update.may_resize()
        if isinstance(update, (LowRank, Dora)) and not _is_oriented(update):
            stored_in_out = _stored_in_out(memory_name, spec, shape, update, layers)
            update = update.oriented(stored_in_out)
            conv1d |= stored_in_out
        if isinstance(update, Dora) and any(_adds(other, one) for other in owned[:place]):
            update = update.after_others()
        shape = update.shape(shape)
        updates.append(update)
    return Fitted(tuple(updates), conv1d)


def is_base_itself(update: Update, spec: TensorSpec, contents: Contents = VALUES) -> bool | None:
    """Whether the update puts the base's own values in the place of its parameter; None if unknown.

    PEFT saves the whole embedding beside the factors of one that it targets, changed or not.
    """
    if not (isinstance(update, Replace) and update.shared):
        return False
    return contents.same(update.value.spec, spec)


_RESIZABLE = (Layer.EMBEDDING, Layer.HEAD)
"""Layers with one row a token (or a label): a replacement may have more or fewer of them."""


def refuse_conflicts(memory_name: str, owned: Sequence[Owned]) -> None:
    """Raises LoratoolsError where one adapter's update would undo another's.

    Adapters are applied in order: one may add to what another replaced, but not replace what another changed.
    Token rows of two adapters may stand side by side if no token is in both.
    """
    for place, one in enumerate(owned):
        if not isinstance(one.update, (Replace, Rows)):
            continue
        for other in owned[:place]:
            if other.adapter == one.adapter or _apart(other.update, one.update):
                continue
            both = isinstance(other.update, (Replace, Rows))
            raise LoratoolsError(
                f"two adapters replace {memory_name}"
                if both
                else f"an adapter replaces {memory_name}, which an adapter before it changes",
                tensor=one.update.sources[0],
                hint="merge one of them only" if both else "name the adapter that replaces it first",
            )


def _apart(one: Update, other: Update) -> bool:
    return isinstance(one, Rows) and isinstance(other, Rows) and not set(one.indices) & set(other.indices)


def _adds(other: Owned, one: Owned) -> bool:
    return other.adapter != one.adapter and other.update.kind not in ("replace", "rows")


def _is_oriented(update: LowRank | Dora) -> bool:
    return (update.direction if isinstance(update, Dora) else update).transposed is not None


def _stored_in_out(
    memory_name: str,
    spec: TensorSpec,
    shape: tuple[int, ...],
    update: LowRank | Dora,
    layers: Layers,
) -> bool:
    """Whether the weight is stored (in, out): by its shape, by the architecture where it is square.

    The config's `fan_in_fan_out` is not asked: PEFT corrects it by the layer's type, in memory only.
    """
    low_rank = update.direction if isinstance(update, Dora) else update
    out, into = low_rank.B.shape[0], low_rank.A.shape[1]
    if out == into:
        return layers.transposed(memory_name, spec)
    return shape == (into, out)
