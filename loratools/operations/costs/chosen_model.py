"""Which model a report is about: a checkpoint's, a config's, a preset's, or the base that adapters name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import has_name, is_folder
from loratools.checkpoints.jsonfile import read_json
from loratools.checkpoints.reference import SAMPLE, open_checkpoint, resolve_base, split_weight
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.bare import everything
from loratools.operations.costs.measured import measured
from loratools.operations.references import Reference, as_list
from loratools.reports.costs import presets
from loratools.reports.costs.architecture import Architecture
from loratools.reports.costs.config import architecture_of

__all__ = ["model_of", "open_references"]


def open_references(references: Sequence[Reference] | Reference, *, alone: bool) -> list[Checkpoint]:
    """What was named; the sample where nothing at all was."""
    named = as_list(references)
    if not named and alone:
        named = [reference for reference in everything() if not reference.endswith("/tuned")]
    return [open_checkpoint(split_weight(os.fspath(reference))[0]) for reference in named]


def model_of(
    opened: Sequence[Checkpoint], preset: str | None, config: Reference | None
) -> tuple[Architecture | None, list[Checkpoint], tuple[str, ...]]:
    """The model that all is compared with, what else was named, and warnings.

    It is the preset's or config's, the first checkpoint named, or the base that the adapters name, if it is
    here; None if it is not.
    """
    if preset is not None and config is not None:
        raise UsageError("a preset and a config are two models", hint="give one of the two")
    checkpoints = [one for one in opened if one.kind is Kind.CHECKPOINT]
    if preset is not None or config is not None:
        if checkpoints:
            raise UsageError(
                "a checkpoint beside a preset or config is a second model",
                file=checkpoints[0].reference,
                hint="name adapters only, or leave the preset out",
            )
        made = presets.architecture(presets.preset(preset)) if preset else _of_config(config or "")
        return made, list(opened), ()
    if checkpoints:
        base, *tuned = checkpoints
        made = measured(base)
        for one in tuned:
            _require_same(base, one)
        return made, [one for one in opened if one is not base], ()
    found, note = _named_base(opened)
    return found, list(opened), note


def _of_config(config: Reference) -> Architecture:
    """The model that a config.json describes; a folder stands for the one in it."""
    path = Path(config)
    with disk_errors(path, "open"):
        path = path / "config.json" if is_folder(path) else path
    name = path.parent.absolute().name if path.name == "config.json" else path.stem
    return architecture_of(read_json(path), name=name, source=str(path), file=path)


def _require_same(base: Checkpoint, tuned: Checkpoint) -> None:
    """Further checkpoints are fine-tunes of the first: of about the same tensors."""
    shared = sum(1 for name, spec in tuned.items() if name in base and base[name].shape == spec.shape)
    if shared * 2 < len(base):
        raise UsageError(
            f"{tuned.reference} is no fine-tune of {base.reference}: they share {shared} tensors",
            hint="name one model, its fine-tunes and its adapters",
        )


def _named_base(adapters: Sequence[Checkpoint]) -> tuple[Architecture | None, tuple[str, ...]]:
    """The base that the adapters' configs name, where it lies here; it is never downloaded for its size."""
    if not adapters:
        raise UsageError("nothing to report on", hint="name a checkpoint, an adapter, --preset or --config")
    for adapter in adapters:
        try:
            name = resolve_base(adapter)
            if not has_name(name) and not name.startswith(SAMPLE):
                continue
            return measured(open_checkpoint(name)), ()
        except LoratoolsError:
            continue
    return None, (
        "the base is not here, so that there is nothing to compare with; name it, a --preset or a --config",
    )
