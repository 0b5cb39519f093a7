"""References: what a user names on the command line, and how it becomes an open checkpoint or adapter."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loratools.checkpoints import hub
from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import has_name, is_folder
from loratools.checkpoints.folder import ADAPTER_CONFIG, INDEX_SUFFIX, Located, locate_file, locate_in_folder
from loratools.checkpoints.foreign import refuse_framework
from loratools.checkpoints.formats import kind_and_format
from loratools.checkpoints.index import open_shards
from loratools.checkpoints.jsonfile import read_json
from loratools.checkpoints.modelconfig import check_config
from loratools.checkpoints.weightfile import open_weights
from loratools.errors import LoratoolsError, UsageError

SAMPLE = "loratools-sample/"
"""What the names of the bundled sample's members begin with; `loratools-sample/base` is its base."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


def open_checkpoint(reference: str | os.PathLike[str]) -> Checkpoint:
    """Opens a checkpoint or an adapter from its headers; weights are not read, and torch is not imported.

    Args:
        reference: a folder, a weight file, a name of the bundled sample (`loratools-sample/base`) or a hub id
            `org/name[@revision]`. A path that exists wins.

    Raises:
        LoratoolsError: there is no such thing, or it breaks a rule of its format, or it is of a kind that
            cannot be read (framework shards, old pickles, GGUF). Quantised weights open: see
            `foreign.require_computable`.
    """
    text = os.fspath(reference)
    path = Path(text)
    if _is_there(path):
        return _open(text, _locate(path), None)
    if (member := _sample_member(text)) is not None:
        return _open(text, _locate(member), None)
    if text.startswith(SAMPLE):
        raise _no_member(text)
    if hub.is_hub_id(text):
        snapshot = hub.fetch(text)
        return _open(text, _locate(snapshot.folder), snapshot.revision)
    raise LoratoolsError(
        "no such file or folder", file=text, hint="a hub id is written org/name or org/name@revision"
    )


def split_weight(reference: str) -> tuple[str, float | None]:
    """`adapter=0.8` -> (`adapter`, 0.8); a string that exists as a path has no weight.

    Raises:
        UsageError: the weight is not finite.
    """
    name, sign, number = reference.rpartition("=")
    if not sign or not name or _is_there(reference) or not _NUMBER.fullmatch(number):
        return reference, None
    weight = float(number)
    if not math.isfinite(weight):
        raise UsageError(f"the weight {number} is not finite", file=name)
    return name, weight


def resolve_base(adapter: Checkpoint) -> str:
    """The reference of the base that an adapter's config names.

    A path is looked up from the current folder, then from the adapter's; what is no path there is taken as
    a name of the bundled sample or a hub id, at the revision that the config names, if it does.

    Raises:
        LoratoolsError: the config names no base, or one that is not here and cannot be a hub id.
    """
    name = adapter.config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise LoratoolsError(
            "the adapter's config names no base", file=adapter.root, hint="name the base before the adapter"
        )
    for path in (Path(name), adapter.folder / name):
        if _is_there(path):
            return str(path)
    if _sample_member(name) is not None:
        return name
    if hub.is_hub_id(name):
        revision = adapter.config.get("revision")
        return f"{name}@{revision}" if isinstance(revision, str) and revision and "@" not in name else name
    raise LoratoolsError(
        f"the base that the adapter names, {name}, is not here",
        file=adapter.root,
        hint="name the base before the adapter",
    )


def _is_there(path: str | os.PathLike[str]) -> bool:
    with disk_errors(path, "open"):
        return has_name(path)


def _sample_member(text: str) -> Path | None:
    if not text.startswith(SAMPLE):
        return None
    from loratools import sample

    member = text.removeprefix(SAMPLE)
    return sample.path(member) if member in sample.names() else None


def _no_member(text: str) -> LoratoolsError:
    from loratools import sample

    return LoratoolsError(
        "no such path, and the bundled sample has no such member",
        file=text,
        hint=f"it has {', '.join(sample.names())}",
    )


def _locate(path: Path) -> Located:
    with disk_errors(path, "open"):
        folder = is_folder(path)
    if folder:
        return locate_in_folder(path)
    refuse_framework(path, [path.name])
    return locate_file(path)


def _open(reference: str, located: Located, revision: str | None) -> Checkpoint:
    """Reads the headers and the config of what was located, and tells what it is."""
    sharded = located.weights.name.endswith(INDEX_SUFFIX)
    weights = open_shards(located.weights) if sharded else open_weights(located.weights)
    if not weights.tensors:
        raise LoratoolsError("no tensors in it", file=located.weights)
    config: Mapping[str, Any] = {} if located.config is None else read_json(located.config)
    is_adapter_config = located.config is not None and located.config.name == ADAPTER_CONFIG
    kind, form = kind_and_format(weights.tensors, weights.container, config if is_adapter_config else None)
    if kind is Kind.ADAPTER and not is_adapter_config:
        config = {}  # a config.json beside a bare adapter file is its neighbour's
    elif located.config is not None and not is_adapter_config:
        config = check_config(config, located.config)
    return Checkpoint(
        reference=reference,
        root=located.root,
        kind=kind,
        format=form,
        tensors=weights.tensors,
        shards=weights.files,
        config=config,
        metadata=weights.metadata,
        revision=revision,
        warnings=(*located.warnings, *weights.warnings),
        marks=weights.marks,
    )
