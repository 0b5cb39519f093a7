"""What several adapters hold beside their factors: what of it one adapter can hold, and what not."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from loratools.adapters.peft_keys import Key, Part, written_key
from loratools.adapters.peft_matching import kept_from
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError
from loratools.operations.arithmetic.factored import Carried, FactoredAdapter

__all__ = ["Shared", "shared_tensors", "token_rows"]


@dataclass(frozen=True)
class Shared:
    """A tensor that is no factor, by the key it will have: who holds it (place and tensor), and why.

    `doubt` is what the user should know of it, if anything.
    """

    key: str
    holders: tuple[tuple[int, TensorSpec], ...]
    why: str
    doubt: str | None = None


def shared_tensors(
    adapters: Sequence[FactoredAdapter], weights: Sequence[float], factored: Collection[str]
) -> tuple[Shared, ...]:
    """What goes along beside the factors, in the order of keys.

    A tensor held in full takes the base's place. What is added to the base is then its difference from it,
    times the weight: that is the tensor itself where the weights of its holders are each 1 (as `merge` has
    it), or add up to 1, and all hold the same values. Whether they do, only the data tell.

    Args:
        adapters, weights: in their order.
        factored: the modules that get factors.

    Raises:
        LoratoolsError: weights, shapes or rows of embeddings that cannot be brought together, or a module
            that one adapter holds in full and another has factors for.
    """
    found: dict[str, list[tuple[int, Carried]]] = {}
    for place, adapter in enumerate(adapters):
        for key, one in adapter.carried.items():
            found.setdefault(_key(key, one, factored), []).append((place, one))
        _refuse_hidden(adapter, factored)
    return tuple(_shared(key, held, weights, factored) for key, held in sorted(found.items()))


def token_rows(adapters: Sequence[FactoredAdapter]) -> dict[str, list[int]]:
    """The rows of embeddings that are replaced, by module."""
    return {
        one.module: list(one.rows)
        for adapter in adapters
        for one in adapter.carried.values()
        if one.rows is not None
    }


def _shared(
    key: str,
    held: Sequence[tuple[int, Carried]],
    weights: Sequence[float],
    factored: Collection[str],
) -> Shared:
    (_, first), *others = held
    for _, other in others:
        if (other.spec.shape, other.rows) != (first.spec.shape, first.rows):
            what = "other rows" if other.rows != first.rows else "another shape"
            raise _refused(other, f"another adapter holds it with {what}")
    if not (first.beside or first.foundation) and first.module in factored:
        raise _refused(first, f"one adapter holds it in full, and another has factors for {first.module}")
    holders = tuple((place, one.spec) for place, one in held)
    own = [weights[place] for place, _ in held]
    told = ", ".join(f"{weight:g}" for weight in own)
    if all(weight == 1.0 for weight in own) or math.isclose(sum(own), 1.0, abs_tol=1e-12):
        return Shared(key, holders, first.why)
    if all(one.foundation for _, one in held):
        doubt = f"{first.module}: the weight {told} does not scale the embedding that lies under the factors"
        return Shared(key, holders, first.why, f"{doubt}, which is right if it is the base's own")
    raise _refused(first, f"it is {first.why}, which cannot be given the weight {told}")


def _key(key: str, carried: Carried, factored: Collection[str]) -> str:
    """Where a foundation lies depends on whether its module gets factors from any of the adapters."""
    if not carried.foundation:
        return key
    part = Part.BASE if carried.module in factored else Part.PARAMETER
    return written_key(Key("", carried.module, part))


def _refuse_hidden(adapter: FactoredAdapter, factored: Collection[str]) -> None:
    """PEFT gives no LoRA to a module that a name in `modules_to_save` stands in."""
    for name in adapter.config.modules_to_save:
        hidden = sorted(kept_from(name, factored))
        if hidden:
            raise LoratoolsError(
                f"{adapter.name} saves {name} in full, so that PEFT would load no factors of {hidden[0]}",
                file=adapter.opened.root,
                hint="merge the adapters one after the other instead",
            )


def _refused(carried: Carried, why: str) -> LoratoolsError:
    return LoratoolsError(
        f"the adapters cannot be combined: {why}",
        file=carried.spec.file,
        tensor=carried.spec.name,
        hint="merge the adapters one after the other instead",
    )
