"""The provenance of a rewritten checkpoint: hashes of what was read and written, and a row a changed tensor.

Where the output is one file the record stands in its header, before the data, though it is known only after
it: a header is laid out with the record in its widest form, and the true one is padded to that width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from loratools.adapters.update import Update
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.provenance import (
    HEADER_KEY,
    InputRecord,
    Provenance,
    config_root,
    fingerprint_of,
)
from loratools.checkpoints.spec import TensorSpec
from loratools.checkpoints.unchanged import changed
from loratools.operations.rewrite_layout import Outgoing
from loratools.operations.streaming import Source, TensorFigures

_WIDEST_ROOT = "0" * 64
_WIDEST_FLOAT = -1.7976931348623157e308
_WIDEST_COUNT = 2**63
_FEW = 3
"""Updates of one kind in a row that are named one by one."""


def input_name(checkpoint: Checkpoint) -> str:
    """What provenance and warnings call an input: its hub id, else the last part of its path."""
    if checkpoint.revision is not None:
        return checkpoint.reference
    return Path(os.path.abspath(checkpoint.root)).name  # noqa: PTH100 (a link's own name is meant)


def input_record(role: str, checkpoint: Checkpoint, roots: Mapping[str, str]) -> InputRecord:
    """The record of an input, all of whose tensors have been hashed."""
    fingerprint = fingerprint_of(checkpoint.tensors.values(), roots)
    return InputRecord(
        role,
        input_name(checkpoint),
        checkpoint.format,
        fingerprint,
        dict(sorted(roots.items())),
        config_root(checkpoint),
    )


def hash_tensors(checkpoint: Checkpoint) -> dict[str, str]:
    """The root of every tensor, by reading all of it: for adapters, which are small."""
    return {name: tensor_root(checkpoint[name]) for name in checkpoint}


def require_same(checkpoint: Checkpoint, known: Mapping[str, str]) -> None:
    """Reads all of it again: what was hashed before it was used must have been what was used.

    Raises:
        LoratoolsError: a tensor does not have the root it is known by.
    """
    for name, root in hash_tensors(checkpoint).items():
        if known[name] != root:
            raise changed(checkpoint[name].file, name)


def changed_rows(
    tensors: Iterable[Outgoing], figures: Mapping[str, TensorFigures]
) -> tuple[dict[str, Any], ...]:
    """A row for each tensor that updates went to: what it was made from, how, and how much it changed."""
    return tuple(
        {
            "name": tensor.name,
            "source": None if tensor.source is None else tensor.source.name,
            "source_dtype": None if tensor.source is None else tensor.source.dtype,
            "dtype": tensor.dtype,
            "kind": kinds(tensor.updates),
            "scaling": scaling(tensor.updates),
            "norm": figures[tensor.name].norm,
            "changed": figures[tensor.name].changed,
            "rounding_error": figures[tensor.name].rounding_error,
        }
        for tensor in sorted(tensors, key=lambda tensor: tensor.name)
        if tensor.updates or tensor.source is None or tensor.source.name != tensor.name
    )


def kinds(updates: Iterable[Update]) -> str:
    """The kinds of a tensor's updates, in their order: `lora`, `lora+rows`; `copy` where there are none.

    A thousand adapters are `1000 lora`.
    """
    told: list[str] = []
    for kind, run in groupby(update.kind for update in updates):
        count = len(list(run))
        told += [kind] * count if count <= _FEW else [f"{count} {kind}"]
    return "+".join(told) or "copy"


def scaling(updates: Iterable[Update]) -> float | None:
    """The scaling of the one update that has one; None where several or none do."""
    found = [update.scaling for update in updates if update.scaling is not None]
    return found[0] if len(found) == 1 else None


def widest(tensors: Iterable[Outgoing]) -> dict[str, TensorFigures]:
    """Figures that take as many characters as any can."""
    return {
        tensor.name: TensorFigures(
            tensor.name, _WIDEST_ROOT, _WIDEST_ROOT, _WIDEST_COUNT, _WIDEST_FLOAT, _WIDEST_FLOAT
        )
        for tensor in tensors
    }


def widest_roots(checkpoint: Checkpoint) -> dict[str, str]:
    return dict.fromkeys(checkpoint, _WIDEST_ROOT)


def padded_header(record: Provenance, room: int) -> dict[str, str]:
    """The record as header metadata that takes `room` bytes: padded with spaces, which JSON ignores.

    Raises ValueError (a bug, not a user's error) where it needs more.
    """
    text = record.to_header()[HEADER_KEY]
    missing = room - header_room(record)
    if missing < 0:
        raise ValueError(f"the provenance needs {-missing} bytes more than were left for it")
    return {HEADER_KEY: text + " " * missing}


def header_room(record: Provenance) -> int:
    """Bytes that the record takes as a string in a header's JSON."""
    return len(json.dumps(record.to_header()[HEADER_KEY], ensure_ascii=False).encode())


def tensor_root(spec: TensorSpec) -> str:
    """The root of a tensor, by reading all of it."""
    with Source(spec) as source:
        return source.root()
