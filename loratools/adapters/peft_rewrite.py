"""adapter_config.json of an adapter that was made of others: their fields, with the new ranks and alphas.

What only steered a training (an initialisation, its data, the class that was trained on another process) is
left out; what says which modules are meant, and what is saved beside the factors, is kept.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loratools.adapters.peft_matching import full_target_names, patterns_of
from loratools.errors import LoratoolsError

__all__ = [
    "Setting",
    "combined_fields",
    "config_text",
    "kept_fields",
    "rewritten_config",
    "targeting",
    "without_targeting",
]

_TARGETING = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")

_KEPT: Mapping[str, Any] = {
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "revision": None,
    "task_type": None,
    "use_dora": False,
}
"""Fields that are always written, and what they are where the input does not say."""

_KEPT_IF_SAID = ("lora_bias", "ensure_weight_tying", "trainable_token_indices", *_TARGETING)
"""Newer fields, and those that are mostly empty: written only where they say something."""


@dataclass(frozen=True)
class Setting:
    """Rank and alpha of a module; its scaling is their ratio."""

    rank: int
    alpha: float


def kept_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an adapter's config that stay true when its factors change."""
    said = {name: config[name] for name in _KEPT_IF_SAID if config.get(name) not in (None, False)}
    return {name: config.get(name, default) for name, default in _KEPT.items()} | said


def rewritten_config(fields: Mapping[str, Any], settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The config: `fields`, and ranks and alphas as PEFT reads them.

    The rank that most modules have is `r`, the alpha that most have `lora_alpha`; every other module has a
    pattern of its own. Scaling is alpha / rank everywhere: `use_rslora` is false.
    """
    rank, rank_pattern = patterns_of({name: setting.rank for name, setting in settings.items()})
    alpha, alpha_pattern = patterns_of({name: setting.alpha for name, setting in settings.items()})
    return {
        **fields,
        "alpha_pattern": {name: _plain(value) for name, value in alpha_pattern.items()},
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": _plain(alpha),
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": rank_pattern,
        "use_rslora": False,
    }


def config_text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def targeting(modules: Collection[str], left_out: Collection[str] = ()) -> dict[str, Any]:
    """Fields that mean just these modules, by their full names."""
    return {"target_modules": full_target_names(modules, {*modules, *left_out})}


def without_targeting(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in _TARGETING}


def combined_fields(
    configs: Sequence[Mapping[str, Any]], modules: Collection[str], rows: Mapping[str, list[int]]
) -> dict[str, Any]:
    """The fields of an adapter that holds what several hold.

    Args:
        configs: of the adapters, in their order.
        modules: those that get factors.
        rows: the rows of embeddings that are replaced, by module.

    Raises:
        LoratoolsError: they say different things of tied weights, where only one can hold.
    """
    each = [kept_fields(config) for config in configs]
    fields = without_targeting(each[0])
    for name in ("base_model_name_or_path", "revision", "task_type", "auto_mapping"):
        fields[name] = next((one[name] for one in each if one[name] is not None), None)
    fields["fan_in_fan_out"] = any(one["fan_in_fan_out"] for one in each)
    fields["bias"] = max((one["bias"] for one in each), key=("none", "lora_only", "all").index)
    saved = sorted({name for one in each for name in one["modules_to_save"] or ()})
    fields["modules_to_save"] = saved or None
    fields |= _ties(each) | _targets(each, modules)
    if any(one.get("lora_bias") for one in each):
        fields["lora_bias"] = True
    stated = [one["trainable_token_indices"] for one in each if "trainable_token_indices" in one]
    if stated:
        agreed = all(one == stated[0] for one in stated)
        fields["trainable_token_indices"] = stated[0] if agreed else dict(rows)
    return fields


def _ties(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`ensure_weight_tying` where those agree that have something to tie."""
    said = {bool(one.get("ensure_weight_tying")) for one in each}
    if len(said) > 1:
        raise LoratoolsError(
            "some of the adapters were trained with ensure_weight_tying and some without",
            hint="merge them one after the other instead",
        )
    return {"ensure_weight_tying": True} if said == {True} else {}


def _targets(each: Sequence[Mapping[str, Any]], modules: Collection[str]) -> dict[str, Any]:
    """What means the modules of all: the lists together, or the patterns as alternatives; full names where
    an adapter narrows its choice down by other fields."""
    stated = [one.get("target_modules") for one in each]
    narrowed = any(one.get(name) for one in each for name in _TARGETING[1:])
    if not narrowed and all(isinstance(one, (list, tuple)) for one in stated):
        return {"target_modules": sorted({name for one in stated for name in one or ()})}
    if not narrowed and all(isinstance(one, str) and one != "all-linear" for one in stated):
        patterns = list(dict.fromkeys(map(str, stated)))
        joined = patterns[0] if len(patterns) == 1 else "|".join(f"({pattern})" for pattern in patterns)
        return {"target_modules": joined}
    return targeting(modules)


def _plain(value: float) -> float | int:
    """A whole number as one: `16`, not `16.0`."""
    return int(value) if float(value).is_integer() else value
