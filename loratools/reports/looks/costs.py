"""`report` in a terminal: what it saves in the first lines, then the tables that this rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loratools.reports import words
from loratools.reports.columns import Column, Page, Sheet, table
from loratools.reports.costs.rows import (
    MemoryRow,
    Method,
    MethodRow,
    ModelRow,
    PaperFigure,
    PresetRow,
    Saving,
)
from loratools.reports.report import Report

__all__ = ["cost_pages", "method_name"]

FEW = 4
"""So many targets are named in the answer; more are counted."""


def cost_pages(report: Report, full: bool) -> Iterator[Page]:
    """The answer, the methods with their formulas and their costs, memory, and the paper's figures."""
    found = report.details
    if "presets" in found:
        yield table("", _PRESETS, found["presets"])
        return
    if "saving" in found:
        yield from _answer(found["saving"])
    for page in _tables(found, full):
        yield ""
        yield page


def _tables(found: Mapping[str, Any], full: bool) -> Iterator[Page]:
    methods: Sequence[MethodRow] = found["methods"]
    if "model" in found:
        yield _model(found["model"])
    yield table("What each method trains", _FORMULAS, methods)
    yield _costs(methods)
    if notes := [row for row in methods if row.note]:
        yield "\n".join(f"{_name(row)}: {row.note}" for row in notes)
    if memory := found.get("memory"):
        shown = memory if full else _least_and_most(memory)
        yield table("Training memory, without activations", _MEMORY, shown)
        yield _PRECISIONS
    if figures := found.get("paper"):
        yield from _paper(figures)


def _answer(saving: Saving) -> Iterator[str]:
    """What it saves, in at most five lines."""
    yield (
        f"{saving.model}: {saving.base_parameters:,} parameters; a full fine-tune is "
        f"{words.size(saving.base_bytes)} for every task"
    )
    what = saving.reference or f"LoRA at r = {saving.rank}"
    yield (
        f"{what} on {_targets(saving)}: {saving.parameters:,} parameters, {words.size(saving.bytes)}, "
        f"{_times(saving.ratio_parameters)} fewer"
    )
    moved = ""
    if saving.link is not None and saving.seconds is not None:
        moved = (
            f"; over {saving.link} each moves in {_duration(saving.seconds)} instead of "
            f"{_duration(saving.base_seconds)}"
        )
    yield f"{saving.per_checkpoint:,} fit where one checkpoint does{moved}"
    yield (
        f"training holds {words.size(saving.memory)} instead of {words.size(saving.memory_full)} in "
        f"{saving.precision} precision; merged, it is free at inference"
    )
    if saving.paper_figures is not None and saving.paper_follows is not None:
        yield (
            f"{saving.paper_follows} of the paper's {saving.paper_figures} figures on it follow from their "
            "formulas; the others are named below"
        )


def _targets(saving: Saving) -> str:
    """What the LoRA of the answer adapts, and whose choice that was where it is not the adapter's own."""
    if saving.targets_choice.startswith("all"):
        return saving.targets_choice
    short = [".".join(name.split(".")[-2:]) for name in saving.targets]
    named = ", ".join(short) if len(short) <= FEW else f"{len(short)} kinds of matrices"
    return named if saving.reference is not None else f"{named} {saving.targets_choice}"


def _model(model: ModelRow) -> str:
    told = [f"{model.layers} layers", f"{model.hidden:,} wide"]
    if model.heads is not None:
        shared = model.key_value_heads not in (None, model.heads)
        told.append(
            f"{model.heads} heads" + (f" over {model.key_value_heads} of keys and values" if shared else "")
        )
    if model.experts:
        told.append(f"{model.experts} experts a layer")
    if model.vocabulary:
        told.append(f"vocabulary {model.vocabulary:,}")
    if model.positions:
        told.append(f"context {model.positions:,}")
    lines = [
        f"{model.model}: {', '.join(told)}; bytes in {model.dtype}",
        f"  LoRA adapts {', '.join(model.targets)} ({model.targets_choice})",
        f"  source: {model.source}",
        *(f"  note: {note}" for note in model.notes),
    ]
    return "\n".join(lines)


def _costs(rows: Sequence[MethodRow]) -> Sheet:
    """Bytes and what they save, and the costs at inference; columns that would say nothing are left out."""
    columns = [
        Column[MethodRow]("method", _name, text=True),
        Column[MethodRow]("bytes", lambda row: words.size(row.bytes)),
        Column[MethodRow]("smaller", lambda row: _times(row.ratio_bytes)),
        Column[MethodRow]("fit in one", lambda row: _count(row.per_checkpoint)),
    ]
    if any(row.seconds_to_move is not None for row in rows):
        columns.append(Column[MethodRow]("to move", lambda row: _duration(row.seconds_to_move)))
    columns.append(Column[MethodRow]("merges", lambda row: "yes" if row.merges else "no"))
    columns.append(Column[MethodRow]("at inference", _inference, text=True))
    if any(row.paper for row in rows):
        columns.append(Column[MethodRow]("the paper prints", lambda row: row.paper or "", text=True))
    return table("What each takes, and costs", columns, rows)


def _inference(row: MethodRow) -> str:
    """What a token has to pass, or what is taken from the context."""
    if row.serial_layers:
        return f"{row.serial_layers} layers more in series"
    if row.context_positions:
        return f"{row.context_positions} positions of the context"
    return "nothing"


def _name(row: MethodRow) -> str:
    """The file that it was measured on, if there is one, and the method."""
    what = method_name(row)
    return f"{row.reference} ({what})" if row.reference is not None else what


def method_name(row: MethodRow) -> str:
    """The method and what tells it from others of its kind: `lora r = 8`."""
    told = [f"{label}{row.settings[key]}" for key, label in _LABELS if key in row.settings]
    if "l_p" in row.settings:
        told.append(f"{row.settings['l_p']} + {row.settings['l_i']}")
    return f"{row.method.value} {', '.join(told)}".rstrip()


_LABELS = (
    ("kind", ""),
    ("rank", "r = "),
    ("bottleneck", "r = "),
    ("tokens", "n = "),
    ("of", ""),
)
"""The settings that name a row, and how they are written."""


def _least_and_most(memory: Sequence[MemoryRow]) -> list[MemoryRow]:
    """The full fine-tune and the first LoRA at each precision."""
    chosen: dict[tuple[str, Method], MemoryRow] = {}
    for row in memory:
        chosen.setdefault((row.precision, row.method), row)
    return list(chosen.values())


def _paper(figures: Sequence[PaperFigure]) -> Iterator[Page]:
    yield table("The paper's figures (Hu et al. 2021) beside its formulas", _FIGURES, figures)
    missed = [row for row in figures if row.note]
    if missed:
        yield "\n".join(
            f"{row.printed} ({row.where}, {row.settings}): {row.note}" for row in dict.fromkeys(missed)
        )


def _value(row: PaperFigure) -> str:
    """The formula's value in its unit, with the digits that tell it from what is printed."""
    if row.value is None:
        return "-"
    shown = {
        "parameters": lambda value: f"{value:,.0f}",
        "bytes": lambda value: words.size(round(value)),
        "percent": lambda value: f"{value:.1f} %",
        "ratio": lambda value: f"{value:,.0f}x" if value >= 100 else f"{words.number(value)}x",
    }
    return shown[row.unit](row.value)


def _times(ratio: float | None) -> str:
    """How many times smaller: `9,251x`, `1.03x`."""
    if ratio is None:
        return "-"
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{words.number(ratio, 3)}x"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _duration(seconds: float | None) -> str:
    """`0.30 s`, `47 min`, `5.2 h`; a small time is told in milliseconds."""
    if seconds is None:
        return "-"
    for limit, unit, scale in ((1, "ms", 1e-3), (120, "s", 1), (7200, "min", 60)):
        if seconds < limit:
            return f"{words.number(seconds / scale, 3)} {unit}"
    return f"{words.number(seconds / 3600, 3)} h"


_FORMULAS: tuple[Column[MethodRow], ...] = (
    Column("method", _name, text=True),
    Column("parameters", lambda row: f"{row.parameters:,}"),
    Column("formula", lambda row: f"{row.formula} = {row.evaluation}", text=True),
)
_MEMORY: tuple[Column[MemoryRow], ...] = (
    Column("precision", lambda row: row.precision, text=True),
    Column(
        "method",
        lambda row: row.method.value + (f" r = {row.settings['rank']}" if "rank" in row.settings else ""),
        text=True,
    ),
    Column("weights", lambda row: words.size(row.weights)),
    Column("gradients", lambda row: words.size(row.gradients)),
    Column("moments", lambda row: words.size(row.moments)),
    Column("master", lambda row: words.size(row.master)),
    Column("total", lambda row: words.size(row.total)),
    Column("smaller", lambda row: _times(row.ratio_total)),
)
_FIGURES: tuple[Column[PaperFigure], ...] = (
    Column("printed", lambda row: row.printed),
    Column("formula gives", _value),
    Column("follows", lambda row: "yes" if row.follows else "NO"),
    Column("of", lambda row: f"{row.settings} ({row.where})", text=True),
    Column("formula", lambda row: row.formula, text=True),
)
_PRECISIONS = (
    "mixed: weights and gradients in 16 bits, moments and master weights in float32; 16-bit: all of it"
)
_PRESETS: tuple[Column[PresetRow], ...] = (
    Column("preset", lambda row: row.preset, text=True),
    Column("model", lambda row: row.title, text=True),
    Column("parameters", lambda row: f"{row.parameters:,}"),
    Column("layers", lambda row: str(row.layers)),
    Column("width", lambda row: f"{row.hidden:,}"),
    Column("vocabulary", lambda row: _count(row.vocabulary)),
    Column("source", lambda row: row.source, text=True),
)
