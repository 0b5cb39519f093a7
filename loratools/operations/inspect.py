"""`inspect`: what is in checkpoints and adapters, from their headers alone, without torch or numpy."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import loratools
from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.foreign import quantisation
from loratools.checkpoints.formats import format_named
from loratools.checkpoints.gguf import is_gguf, read_gguf
from loratools.checkpoints.reference import open_checkpoint, split_weight
from loratools.checkpoints.scalars import read_scalar
from loratools.checkpoints.spec import FLOATING, ITEM_BYTES
from loratools.errors import UsageError
from loratools.reports.report import InspectedItem, Report

_ALPHA_KEYS = {"peft": "lora_alpha", "gguf": "adapter.lora.alpha"}
"""Where an adapter's config keeps its alpha, by format."""

_SCALAR_ALPHAS = ("kohya", "diffusers", "loralib")
"""Formats that keep a module's alpha beside its factors."""


def inspect(references: Sequence[str | os.PathLike[str]]) -> Report:
    """Says what each reference is: kind, format, dtype, sizes; of an adapter also rank, alpha and targets.

    Quantised weights and GGUF files, which no other verb takes, are listed with a warning.

    Args:
        references: folders, weight files, names of the sample, hub ids; an inline weight is passed over.

    Returns:
        A report with one of `items` for each reference, in their order, and `details["contents"]`: tensors by
        dtype, architectures, files, the base that an adapter names.

    Raises:
        UsageError: no reference was given.
        LoratoolsError: one of them cannot be opened.
    """
    started = time.perf_counter()
    if not references:
        raise UsageError("nothing to inspect", hint="name a checkpoint or an adapter")
    opened = [_open(os.fspath(reference)) for reference in references]
    items = tuple(_item(checkpoint) for checkpoint in opened)
    return Report(
        command="inspect",
        version=loratools.__version__,
        output=None,
        coverage=None,
        warnings=tuple(f"{item.reference}: {warning}" for item in items for warning in item.warnings),
        seconds=time.perf_counter() - started,
        peak_bytes=None,
        items=items,
        details={"contents": [_contents(checkpoint) for checkpoint in opened]},
    )


def _open(reference: str) -> Checkpoint:
    name, _ = split_weight(reference)
    return read_gguf(Path(name)) if is_gguf(Path(name)) else open_checkpoint(name)


def _item(checkpoint: Checkpoint) -> InspectedItem:
    adapter = checkpoint.kind is Kind.ADAPTER
    ranks = _ranks(checkpoint) if adapter else {}
    return InspectedItem(
        reference=checkpoint.reference,
        kind=checkpoint.kind.value,
        format=checkpoint.format,
        dtype=dtype_of(checkpoint),
        tensors=len(checkpoint),
        parameters=checkpoint.parameters,
        bytes=checkpoint.bytes,
        rank=_one_or_all(ranks.values()) or (_integer(checkpoint.config.get("r")) if adapter else None),
        alpha=_one_or_all(_alphas(checkpoint)) if adapter else None,
        targets=sorted({_target(module, checkpoint.format) for module in ranks}),
        warnings=[*checkpoint.warnings, *_warnings(checkpoint, ranks)],
    )


def dtype_of(checkpoint: Checkpoint) -> str | None:
    """The dtype of the weights, or `mixed: ` and theirs by falling bytes; integer buffers do not count."""
    held: Counter[str] = Counter()
    for spec in checkpoint.tensors.values():
        held[spec.dtype] += spec.bytes
    weights = [dtype for dtype in held if dtype in FLOATING or dtype not in ITEM_BYTES]
    ordered = sorted(weights or held, key=lambda dtype: (-held[dtype], dtype))
    return ordered[0] if len(ordered) == 1 else "mixed: " + ", ".join(ordered)


def _ranks(checkpoint: Checkpoint) -> dict[str, int]:
    """The rank of each module: the leading axis of its down-projection.

    For stacked experts (PEFT's `target_parameters`) that axis is experts times rank, and the config's r is
    taken where it divides it.
    """
    known = format_named(checkpoint.format)
    ranks = {}
    for name in checkpoint:
        ending = next((key for key in known.rank_keys if name.endswith(key)), None) if known else None
        if ending is not None and checkpoint[name].shape:
            ranks[name.removesuffix(ending)] = checkpoint[name].shape[0]
    r = _integer(checkpoint.config.get("r"))
    if r and checkpoint.config.get("target_parameters"):
        ranks = {module: r if rank % r == 0 else rank for module, rank in ranks.items()}
    return ranks


def _alphas(checkpoint: Checkpoint) -> list[float]:
    """The alphas: the config's and its patterns', or those that stand beside the factors as scalars."""
    declared = checkpoint.config.get(_ALPHA_KEYS.get(checkpoint.format, ""))
    pattern = checkpoint.config.get("alpha_pattern")
    of_modules = pattern.values() if isinstance(pattern, dict) else ()
    alphas = [float(value) for value in (declared, *of_modules) if _finite(value)]
    if checkpoint.format in _SCALAR_ALPHAS:
        scalars = [spec for name, spec in checkpoint.items() if name.endswith(".alpha")]
        alphas += [value for spec in scalars if (value := read_scalar(spec)) is not None]
    return alphas


def _target(module: str, form: str) -> str:
    """What a module is called inside its layer: the last part of its name that is no number, and the rest.

    `model.layers.0.self_attn.q_proj` -> `q_proj`; `attn1.to_out.0` -> `to_out.0`; kohya's
    `lora_unet_blocks_0_attn1_to_q` -> `attn1_to_q`.
    """
    if form == "kohya":
        return re.split(r"_\d+_", module)[-1]
    parts = module.removesuffix(".weight").split(".")
    last = max((at for at, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[last:])


def _warnings(checkpoint: Checkpoint, ranks: Mapping[str, int]) -> Iterable[str]:
    if checkpoint.format == "gguf":
        yield "GGUF can be inspected only; no other verb takes it"
    elif (found := quantisation(checkpoint)) is not None:
        what, tensor = found
        yield f"{what}{f' ({tensor})' if tensor else ''}: no other verb takes them"
    known = format_named(checkpoint.format)
    if known is not None and known.unmergeable:
        yield f"it cannot be merged: {known.unmergeable}"
    if checkpoint.kind is Kind.ADAPTER and checkpoint.format == "peft":
        yield from _config_warnings(checkpoint, ranks)


def _config_warnings(checkpoint: Checkpoint, ranks: Mapping[str, int]) -> Iterable[str]:
    if not checkpoint.config:
        yield "no adapter_config.json beside it: alpha, and so its scaling, is unknown"
        return
    r = _integer(checkpoint.config.get("r"))
    declared = checkpoint.config.get("rank_pattern")
    allowed = [r, *(declared.values() if isinstance(declared, dict) else ())]
    odd = sorted(rank for rank in set(ranks.values()) if rank not in allowed)
    if r and odd:
        yield f"modules of rank {', '.join(map(str, odd))}, where the config says {r}"


def _contents(checkpoint: Checkpoint) -> dict[str, Any]:
    dtypes = Counter(spec.dtype for spec in checkpoint.tensors.values())
    return {
        "reference": checkpoint.reference,
        "dtypes": dict(sorted(dtypes.items())),
        "architectures": checkpoint.config.get("architectures"),
        "base": checkpoint.config.get("base_model_name_or_path"),
        "files": [path.name for path in checkpoint.shards],
        "revision": checkpoint.revision,
    }


def _finite(value: Any) -> bool:
    """Whether it is a number that a float can hold."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    )


def _integer(value: Any) -> int | None:
    return value if type(value) is int else None


def _one_or_all(values: Iterable[Any]) -> Any:
    """None for no value, the value if all are the same, else each once in rising order."""
    distinct = sorted(set(values))
    return distinct if len(distinct) > 1 else next(iter(distinct), None)
