"""PEFT's rules for what a name in adapter_config.json means, and names that mean just the wanted modules.

`target_modules`: a listed name means the module of that name and every module that ends in a dot and it; a
text is a regular expression for the whole name. `rank_pattern`, `alpha_pattern`: the first pattern, in the
dict's order, with `(.*\\.)?(pattern)$`. `modules_to_save`: every module whose name *ends* in the listed
name, dot or no dot (`norm` means `layers.0.input_layernorm` too), and no module is targeted that has the
listed name as a part of its own. (PEFT 0.21:
`check_target_module_exists`, `get_pattern_key`, `_set_trainable`.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

__all__ = [
    "ROOT",
    "full_target_names",
    "kept_from",
    "patterns_of",
    "rank_patterns",
    "saved_with",
    "target_names",
]

Number = TypeVar("Number", int, float)

ROOT = "base_model.model."
"""What stands before a module's name in PEFT's keys."""


def target_names(wanted: Collection[str], modules: Collection[str]) -> list[str] | str:
    """`target_modules` that mean the wanted modules among all modules, and no others.

    Short names (`q_proj`) where every module of that name is wanted, full names elsewhere, and a regular
    expression where even a full name is the end of another's.
    """
    others = set(modules) - set(wanted)
    short = {name.rpartition(".")[2] for name in others}
    return _listed({_shortest(name, short) for name in wanted}, wanted, others)


def full_target_names(wanted: Collection[str], modules: Collection[str] = ()) -> list[str] | str:
    """The same by full names alone, where not all modules of the model are known."""
    return _listed(set(wanted), wanted, set(modules) - set(wanted))


def _listed(names: Collection[str], wanted: Collection[str], others: Collection[str]) -> list[str] | str:
    if any(_ends_in(other, name) for name in names for other in others):
        return "|".join(re.escape(name) for name in sorted(wanted))
    return sorted(names)


def rank_patterns(ranks: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """The rank of most modules, and a pattern for each of the others that means it alone."""
    return patterns_of(ranks) if ranks else (1, {})


def patterns_of(values: Mapping[str, Number]) -> tuple[Number, dict[str, Number]]:
    """The value of most modules (the least of several), and a pattern for each of the others.

    Raises:
        ValueError: there is none.
    """
    common = max(sorted(Counter(values.values()).items()), key=lambda item: item[1])[0]
    special = {name: value for name, value in sorted(values.items()) if value != common}
    return common, {_pattern(name, values): value for name, value in special.items()}


def saved_with(name: str, modules: Iterable[str]) -> set[str]:
    """The modules that PEFT takes a name in `modules_to_save` for: all of them have to be in the file."""
    return {module for module in modules if module.endswith(name)} | {name}


def kept_from(name: str, targeted: Iterable[str]) -> set[str]:
    """The targeted modules that get no LoRA from PEFT because of a name in `modules_to_save`.

    All of them for a name that would be a pattern of its own, since PEFT takes it as it is.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        return set(targeted)
    rule = re.compile(rf"(^|.*\.){name}($|\..*)")
    return {module for module in targeted if rule.match(module)}


def _shortest(name: str, taken: Collection[str]) -> str:
    last = name.rpartition(".")[2]
    return name if last in taken else last


def _ends_in(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _pattern(name: str, ranks: Iterable[str]) -> str:
    """The name itself, if as a pattern it means no other module, else anchored and escaped."""
    rule = re.compile(rf"(.*\.)?({name})$") if _plain(name) else None
    alone = rule is not None and [other for other in ranks if rule.match(other)] == [name]
    return name if alone else f"^{re.escape(name)}"


def _plain(name: str) -> bool:
    return re.fullmatch(r"[\w.]+", name) is not None
