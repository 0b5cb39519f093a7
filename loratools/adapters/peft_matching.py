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
    ends = {end for other in others for end in _ends(other)}
    if any(name in ends for name in names):
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
    patterns = _Patterns(values)
    return common, {patterns.of(name): value for name, value in special.items()}


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


def _ends(module: str) -> list[str]:
    """What a name means the module by: the module's own name, and what follows each of its dots."""
    parts = module.split(".")
    return [".".join(parts[first:]) for first in range(len(parts))]


class _Patterns:
    """Names as patterns, among all names of a dict: which mean themselves alone.

    A name is a pattern in which each dot stands for any character, so that it means the names with an end of
    its length that differs from it at its dots only. Such ends are counted once for each length and place of
    dots, of which there are few: trying every name on every other took minutes for thousands.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._ends: dict[int, list[str]] = {}
        for name in names:
            for end in _ends(name):
                self._ends.setdefault(len(end), []).append(end)
        self._counts: dict[tuple[int, tuple[int, ...]], Counter[str]] = {}

    def of(self, name: str) -> str:
        """The name itself, if as a pattern it means no other module, else anchored and escaped."""
        return name if _plain(name) and self._meant(name) == 1 else f"^{re.escape(name)}"

    def _meant(self, name: str) -> int:
        dots = tuple(at for at, letter in enumerate(name) if letter == ".")
        key = len(name), dots
        if key not in self._counts:
            self._counts[key] = Counter(_blanked(end, dots) for end in self._ends[len(name)])
        return self._counts[key][_blanked(name, dots)]


def _blanked(text: str, places: tuple[int, ...]) -> str:
    letters = list(text)
    for at in places:
        letters[at] = "."
    return "".join(letters)


def _plain(name: str) -> bool:
    return re.fullmatch(r"[\w.]+", name) is not None
