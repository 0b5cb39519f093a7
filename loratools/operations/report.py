"""`report`: what each way to adapt a model takes and costs, beside its full fine-tune; from headers, a config
or a preset alone, without torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import loratools
from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.costs.adapters import adapter_row
from loratools.operations.costs.answer import memory, model_row, saving
from loratools.operations.costs.chosen_model import model_of, open_references
from loratools.operations.references import Reference
from loratools.reports.costs import paper, presets
from loratools.reports.costs.architecture import Architecture
from loratools.reports.costs.formulas import Count
from loratools.reports.costs.link import parse_link
from loratools.reports.costs.methods import method_rows
from loratools.reports.costs.rows import Method, MethodRow
from loratools.reports.costs.targets import Targets, choose
from loratools.reports.costs.yardstick import BYTES, Yardstick
from loratools.reports.report import Report

__all__ = ["DEFAULT_RANKS", "report"]

DEFAULT_RANKS = (8,)
"""Where no rank is asked for."""


def report(
    references: Sequence[Reference] | Reference = (),
    *,
    preset: str | None = None,
    config: Reference | None = None,
    ranks: Sequence[int] | None = None,
    targets: Sequence[str] = (),
    dtype: str | None = None,
    link: str | None = None,
) -> Report:
    """Sizes every method of adapting a model: parameters, bytes, ratios, latency, training memory.

    Args:
        references: a checkpoint, full fine-tunes of it, and adapters, in any order; without them, and without
            a preset or config, the bundled sample. Adapters may be of LoRA, prefix or prompt tuning (PEFT),
            or bottleneck adapters (AdapterHub).
        preset: a public architecture by name, instead of a checkpoint; `list` for the table of all.
        config: a config.json of transformers, or a folder with one, instead of a checkpoint.
        ranks: of LoRA, and widths of the bottlenecks beside it; 8 by default.
        targets: regular expressions, searched for in module names: the matrices that LoRA adapts. By default
            those of the paper for its models (query and value), else all linear layers of the blocks.
        dtype: what bytes are counted in: `float32`, `float16` or `bfloat16`; the model's own by default.
        link: the speed of a link, `1Gbit` or `10MB/s`, to tell how long each takes to move.

    Returns:
        A report whose `details` hold `saving` (the answer in short), `model`, `methods`, `memory` and, for a
        model of the paper, `paper`; or `presets`.

    Raises:
        UsageError: more than one model is named, a rank or pattern means nothing, or there is no such preset.
        LoratoolsError: a reference or config cannot be read, or describes no model that can be counted.
    """
    started = time.perf_counter()
    if preset == presets.LIST:
        return _told({"presets": presets.preset_rows()}, (), started)
    opened = open_references(references, alone=preset is None and config is None)
    model, others, notes = model_of(opened, preset, config)
    speed = None if link is None else parse_link(link)
    asked = tuple(dict.fromkeys(ranks or DEFAULT_RANKS))
    if model is None:
        yardstick = Yardstick(None, None, _dtype_of_bytes(dtype, None), speed)
        rows, refused = _own_rows(others, yardstick, None)
        return _told({"methods": rows}, (*notes, *refused), started)
    yardstick = _yardstick(model, dtype, speed)
    chosen = _targets(model, preset, targets)
    _check_ranks(asked, chosen)
    rows = _with_prints(
        model.name, tuple(method_rows(model, chosen, asked, yardstick)), known=preset is not None
    )
    own, refused = _own_rows(others, yardstick, model)
    figures = paper.figures_of(model.name) if preset is not None else ()
    held = memory(model, rows, own)
    details = {
        "saving": saving(model, chosen, yardstick, rows=rows, own=own, held=held, link=link, figures=figures),
        "model": model_row(model, chosen, yardstick),
        "methods": (*own, *rows),
        "memory": held,
        **({"paper": figures} if figures else {}),
    }
    return _told(details, (*notes, *refused), started)


def _told(details: dict[str, Any], warnings: Sequence[str], started: float) -> Report:
    return Report(
        command="report",
        version=loratools.__version__,
        output=None,
        coverage=None,
        warnings=tuple(warnings),
        seconds=time.perf_counter() - started,
        peak_bytes=None,
        details=details,
    )


def _dtype_of_bytes(asked: str | None, own: str | None) -> str:
    """What bytes are counted in: as asked, else as the model is stored, else float32."""
    if asked is not None:
        if asked not in BYTES:
            raise UsageError(f"bytes cannot be counted in {asked!r}", hint=f"use {', '.join(BYTES)}")
        return asked
    words = (own or "").replace(",", " ").split()
    return next((word for word in words if word in BYTES), "float32")


def _yardstick(model: Architecture, dtype: str | None, link: float | None) -> Yardstick:
    counted_in = _dtype_of_bytes(dtype, model.dtype)
    stored = model.stored_bytes if dtype is None else None
    size = stored if stored is not None else model.parameters * BYTES[counted_in]
    return Yardstick(model.parameters, size, counted_in, link)


def _targets(model: Architecture, preset: str | None, asked: Sequence[str]) -> Targets:
    if asked:
        return choose(model, asked, given=True)
    return choose(model, presets.preset(preset).targets if preset else (), given=False)


def _check_ranks(ranks: Sequence[int], targets: Targets) -> None:
    if min(ranks) < 1:
        raise UsageError(f"a rank of {min(ranks)} is less than 1", hint="give integers from 1 on")
    if max(ranks) > targets.largest_rank:
        raise UsageError(
            f"a rank of {max(ranks)} is above that of every matrix, which is {targets.largest_rank} at most",
            hint="give a smaller one",
        )


def _with_prints(name: str, rows: tuple[MethodRow, ...], *, known: bool) -> tuple[MethodRow, ...]:
    """The rows named by model and, if that is known to be a preset, with the paper's prints beside them."""
    prints = paper.printed_beside(name, rows) if known else [None] * len(rows)
    return tuple(replace(row, paper=text, model=name) for row, text in zip(rows, prints, strict=True))


def _own_rows(
    others: Sequence[Checkpoint], yardstick: Yardstick, model: Architecture | None
) -> tuple[tuple[MethodRow, ...], list[str]]:
    """The rows of the user's own adapters and fine-tunes, and why some have none."""
    rows, refused = [], []
    for one in others:
        if one.kind is Kind.CHECKPOINT:
            rows.append(_tuned_row(one, yardstick, model))
            continue
        try:
            rows.append(adapter_row(one, yardstick, model))
        except LoratoolsError as error:
            refused.append(str(error))
    if refused and not rows and yardstick.parameters is None:
        raise LoratoolsError(refused[0])
    return tuple(rows), refused


def _tuned_row(tuned: Checkpoint, yardstick: Yardstick, model: Architecture | None) -> MethodRow:
    count = Count("all parameters", f"{tuned.parameters:,}", tuned.parameters)
    name = None if model is None else model.name
    return yardstick.row(Method.FULL, count, size=tuned.bytes, reference=tuned.reference, model=name)
