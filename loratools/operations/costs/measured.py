"""A real checkpoint as an `Architecture`: every parameter counted from its headers, exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from loratools.adapters.layers import Layer, Layers
from loratools.adapters.names import NameMap
from loratools.adapters.ties import find_ties
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.foreign import require_computable
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError
from loratools.operations.analysis.places import place_of
from loratools.operations.inspect import dtype_of
from loratools.reports import words
from loratools.reports.costs.architecture import Architecture, Parts, Role
from loratools.reports.costs.config import architecture_of

__all__ = ["measured"]

_ROLES = {
    Layer.EMBEDDING: Role.EMBEDDING,
    Layer.HEAD: Role.HEAD,
    Layer.ROUTER: Role.ROUTER,
    Layer.NORM: Role.NORM,
    Layer.BIAS: Role.BIAS,
    Layer.CONV: Role.OTHER,
    Layer.OTHER: Role.OTHER,
}
"""What is left (linear layers, Conv1D, stacked experts) is a matrix, or a head where no block has it."""


@dataclass(frozen=True, slots=True)
class _Measures:
    """What headers do not tell, or not surely, and a config does."""

    layers: int
    hidden: int
    described: Architecture | None
    notes: tuple[str, ...]


def measured(checkpoint: Checkpoint) -> Architecture:
    """The model in a checkpoint.

    Parameters are counted from the headers, a tied pair that the file holds twice once; how many layers and
    heads there are is taken from config.json, and without one from the names.

    Raises:
        LoratoolsError: the weights are quantised, so that their sizes are not the model's; or neither config
            nor names tell of any layers.
    """
    require_computable(checkpoint)
    names = NameMap.of(checkpoint)
    layers = Layers(checkpoint.config)
    ties = find_ties(checkpoint, names, layers=layers)
    twice = {spec.name for tie in ties for spec in list(tie.stored.values())[1:]}
    slices = _slices_known(checkpoint)
    parts = tuple(
        part
        for name, spec in checkpoint.items()
        if name not in twice
        for part in _part(names.memory(name), spec, checkpoint, layers, slices)
    )
    told = _measures(checkpoint, parts)
    described = told.described
    return Architecture(
        name=checkpoint.reference,
        source="its headers" if described is None else "its headers and config.json",
        model_type=described.model_type if described else None,
        layers=told.layers,
        hidden=told.hidden,
        parts=parts,
        heads=described.heads if described else None,
        key_value_heads=described.key_value_heads if described else None,
        key_value_width=described.key_value_width if described else None,
        feed_forward=described.feed_forward if described else None,
        vocabulary=described.vocabulary if described else None,
        positions=described.positions if described else None,
        experts=described.experts if described else None,
        prefixed_layers=described.prefixed_layers if described else None,
        tied=bool(ties),
        norm_biases=any(part.role is Role.NORM_BIAS for part in parts),
        dtype=dtype_of(checkpoint),
        stored_bytes=checkpoint.bytes,
        notes=told.notes,
    )


def _part(
    name: str,
    spec: TensorSpec,
    checkpoint: Checkpoint,
    layers: Layers,
    slices: Mapping[str, tuple[tuple[str, int], ...]],
) -> list[Parts]:
    """A tensor as part of the model; none for a buffer, which is no parameter."""
    layer = layers.of(name, spec).layer
    module, _, leaf = name.rpartition(".")
    if layer is Layer.BUFFER:
        return []
    if layer is Layer.EXPERTS:
        return [Parts(f"{name}.*", Role.MATRIX, spec.shape[1:], (range(spec.shape[0]),))]
    if layer is Layer.BIAS:
        beside = checkpoint.tensors.get(spec.name.removesuffix("bias") + "weight")
        of_a_norm = beside is not None and len(beside.shape) == 1
        return [Parts(module, Role.NORM_BIAS if of_a_norm else Role.BIAS, spec.shape)]
    if layer in _ROLES:
        return [Parts(module if leaf == "weight" else name, _ROLES[layer], spec.shape)]
    role = Role.MATRIX if place_of(module).layer is not None else Role.HEAD
    shape = spec.shape[::-1] if layer is Layer.CONV1D else spec.shape
    return [Parts(module, role, shape, slices=slices.get(words.family(module), ()))]


def _slices_known(checkpoint: Checkpoint) -> dict[str, tuple[tuple[str, int], ...]]:
    """The fused matrices of the model's family and what they hold, if its config tells."""
    described = _described(checkpoint)
    return {part.module: part.slices for part in described.parts if part.slices} if described else {}


def _described(checkpoint: Checkpoint) -> Architecture | None:
    """The architecture that config.json describes; None without one, or with one that is not known."""
    try:
        return architecture_of(checkpoint.config, name=checkpoint.reference, source="config.json")
    except LoratoolsError:
        return None


def _measures(checkpoint: Checkpoint, parts: tuple[Parts, ...]) -> _Measures:
    described = _described(checkpoint)
    if described is not None:
        return _Measures(described.layers, described.hidden, described, ())
    blocks = {
        (part.module.partition(f".{layer}.")[0], layer)
        for part in parts
        if part.role is Role.MATRIX and (layer := place_of(part.module).layer) is not None
    }
    widths = Counter(part.shape[-1] for part in parts if part.role is Role.NORM and part.in_a_block)
    widths = widths or Counter(part.shape[-1] for part in parts if part.role is Role.EMBEDDING)
    if not blocks or not widths:
        raise LoratoolsError(
            "neither a config nor the tensors' names tell of layers",
            file=checkpoint.root,
            hint="put its config.json beside it",
        )
    note = "no config.json tells its layers and width: both are told by the tensors"
    return _Measures(len(blocks), widths.most_common(1)[0][0], None, (note,))
