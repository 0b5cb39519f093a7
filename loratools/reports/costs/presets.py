"""Public architectures by name, `--preset llama-2-7b`: configs that come with the package, with sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from loratools.errors import UsageError
from loratools.reports.costs.architecture import Architecture
from loratools.reports.costs.config import architecture_of
from loratools.reports.costs.rows import PresetRow

__all__ = ["LIST", "Preset", "architecture", "names", "preset", "preset_rows"]

LIST = "list"
"""The word that asks for the table of all instead of one."""


@dataclass(frozen=True)
class Preset:
    """A preset as its file has it. `parameters` are what the config has to come to, and a test holds it to
    that; `targets` are the patterns that the paper adapts, empty for a model that is not in it."""

    name: str
    title: str
    source: str
    parameters: int
    dtype: str
    config: Mapping[str, Any]
    targets: tuple[str, ...] = ()
    note: str | None = None


@cache
def _all() -> dict[str, Preset]:
    held: dict[str, dict[str, Any]] = json.loads(
        files(__package__).joinpath("presets.json").read_text(encoding="utf-8")
    )
    return {
        name: Preset(name=name, **{**entry, "targets": tuple(entry.get("targets", ()))})
        for name, entry in held.items()
    }


def names() -> tuple[str, ...]:
    """The presets' names, in the order in which the table lists them."""
    return tuple(_all())


def preset(name: str) -> Preset:
    """The preset of that name, whatever its case.

    Raises:
        UsageError: there is none; the hint has the one that was perhaps meant.
    """
    found = _all().get(name.lower())
    if found is not None:
        return found
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), names(), n=1)
    hint = f"did you mean {close[0]}?" if close else "--preset list shows them all"
    raise UsageError(f"there is no preset {name!r}", hint=hint)


def architecture(chosen: Preset) -> Architecture:
    """The model that a preset's config describes."""
    made = architecture_of(chosen.config, name=chosen.name, source=chosen.source)
    notes = (*made.notes, chosen.note) if chosen.note else made.notes
    return replace(made, dtype=chosen.dtype, notes=notes)


def preset_rows() -> tuple[PresetRow, ...]:
    """The table of `--preset list`."""
    rows = []
    for chosen in _all().values():
        model = architecture(chosen)
        rows.append(
            PresetRow(
                preset=chosen.name,
                title=chosen.title,
                parameters=model.parameters,
                layers=model.layers,
                hidden=model.hidden,
                vocabulary=model.vocabulary,
                source=chosen.source,
            )
        )
    return tuple(rows)
