"""What a report says first, and of which model: the rows that are made from all the others."""

from __future__ import annotations

from collections.abc import Sequence

from loratools.reports.costs.architecture import Architecture
from loratools.reports.costs.memory import MIXED, memory_rows
from loratools.reports.costs.rows import MemoryRow, Method, MethodRow, ModelRow, PaperFigure, Saving
from loratools.reports.costs.targets import Targets
from loratools.reports.costs.yardstick import Yardstick

__all__ = ["memory", "model_row", "saving"]


def memory(model: Architecture, rows: Sequence[MethodRow], own: Sequence[MethodRow]) -> tuple[MemoryRow, ...]:
    """Of the full fine-tune and of every LoRA, each size once."""
    sizes = {row.parameters: row.settings for row in (*rows, *own) if row.method is Method.LORA}
    return tuple(memory_rows(model.parameters, [(settings, size) for size, settings in sizes.items()]))


def saving(
    model: Architecture,
    targets: Targets,
    yardstick: Yardstick,
    *,
    rows: Sequence[MethodRow],
    own: Sequence[MethodRow],
    held: Sequence[MemoryRow],
    link: str | None,
    figures: Sequence[PaperFigure],
) -> Saving:
    """The answer in short: the user's own adapter at the first rank asked for, or LoRA by the formula."""
    formula = next(row for row in rows if row.method is Method.LORA)
    mine = [row for row in own if row.method is Method.LORA]
    same = [row for row in mine if row.settings["rank"] == formula.settings["rank"]]
    row = next(iter((*same, *mine)), formula)
    assert row.ratio_parameters is not None and row.ratio_bytes is not None
    assert row.per_checkpoint is not None and yardstick.bytes is not None
    totals = {(one.method, one.trained): one.total for one in held if one.precision == MIXED.name}
    rank, names = row.settings["rank"], row.settings["targets"]
    return Saving(
        model=model.name,
        base_parameters=model.parameters,
        base_bytes=yardstick.bytes,
        reference=row.reference,
        rank=rank if isinstance(rank, int) else None,
        targets=names if isinstance(names, list) else [],
        targets_choice=targets.choice if row.reference is None else "its own",
        parameters=row.parameters,
        bytes=row.bytes,
        ratio_parameters=row.ratio_parameters,
        ratio_bytes=row.ratio_bytes,
        per_checkpoint=row.per_checkpoint,
        dtype=row.dtype,
        precision=MIXED.name,
        memory_full=totals[Method.FULL, model.parameters],
        memory=totals[Method.LORA, row.parameters],
        link=link,
        base_seconds=yardstick.seconds(yardstick.bytes),
        seconds=row.seconds_to_move,
        paper_follows=sum(figure.follows for figure in figures) if figures else None,
        paper_figures=len(figures) or None,
    )


def model_row(model: Architecture, targets: Targets, yardstick: Yardstick) -> ModelRow:
    assert yardstick.bytes is not None
    counted = (f"counted as {model.counted}",) if model.counted else ()
    return ModelRow(
        model=model.name,
        source=model.source,
        model_type=model.model_type,
        layers=model.layers,
        hidden=model.hidden,
        heads=model.heads,
        key_value_heads=model.key_value_heads,
        feed_forward=model.feed_forward,
        vocabulary=model.vocabulary,
        positions=model.positions,
        experts=model.experts,
        tied=model.tied,
        parameters=model.parameters,
        bytes=yardstick.bytes,
        dtype=yardstick.dtype,
        matrices=sum(part.count for part in model.matrices),
        targets=targets.names,
        targets_choice=targets.choice,
        notes=[*counted, *model.notes],
    )
