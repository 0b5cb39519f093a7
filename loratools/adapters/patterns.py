"""PEFT's patterns for module names, `rank_pattern` and `alpha_pattern`: which of them a module takes.

PEFT asks one after the other, `(.*\\.)?(pattern)$`. Most are names: those are looked up, so that an adapter
with a pattern for each of ten thousand modules is read in a moment; regular expressions are asked in turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from loratools.patterns import LONGEST, Clock, Pattern

__all__ = ["MOST_EXPRESSIONS", "PatternTable"]

MOST_EXPRESSIONS = 1000
"""Patterns that are more than names, at most."""

_AROUND = r"(.*\.)?({})$"
_NAME = re.compile(r"\^?(?:[\w.-]|\\[.-])+")


class PatternTable:
    """Patterns in the order in which they count."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._patterns: list[str] = []
        self._names: dict[str, int] = {}
        self._loose: dict[int, dict[int, list[int]]] = {}
        self._expressions: list[int] = []
        self._made: dict[int, Pattern] = {}
        self._clock = Clock()
        for pattern in patterns:
            self.add(pattern)

    def add(self, pattern: str) -> None:
        """One more, after the others.

        Raises:
            ValueError: it is no regular expression, or could take too long, or is one too many; says which.
        """
        place = len(self._patterns)
        self._patterns.append(pattern)
        dots = re.sub(r"\\.", "", pattern).count(".")
        if len(pattern) > LONGEST or not _NAME.fullmatch(pattern) or (dots and pattern.startswith("^")):
            if len(self._expressions) == MOST_EXPRESSIONS:
                raise ValueError(f"more than {MOST_EXPRESSIONS:,} patterns that are no names")
            self._expressions.append(place)
            self._pattern(place)
            return
        name = pattern.replace("\\", "")
        self._names.setdefault(name, place)
        if dots:
            self._loose.setdefault(len(name), {}).setdefault(name.count("."), []).append(place)

    def first(self, module: str) -> str | None:
        """The first pattern that PEFT applies to a module of this name.

        Raises:
            LoratoolsError: matching one could take too long.
        """
        if not self._patterns:
            return None
        ends = list(_ends(module))
        best = min(
            (self._names[name] for name in (f"^{module}", *ends) if name in self._names),
            default=len(self._patterns),
        )
        for place in sorted({*self._expressions, *self._alike(ends)}):
            if place < best and self._pattern(place).match(module):
                best = place
                break
        return self._patterns[best] if best < len(self._patterns) else None

    def _alike(self, ends: Iterable[str]) -> Iterator[int]:
        """Names whose dots could stand for other characters: as long as an end of the module's, with more
        dots."""
        for end in ends:
            for dots, places in self._loose.get(len(end), {}).items():
                if dots > end.count("."):
                    yield from places

    def _pattern(self, place: int) -> Pattern:
        if place not in self._made:
            self._made[place] = Pattern(self._patterns[place], _AROUND, self._clock)
        return self._made[place]


def _ends(module: str) -> Iterator[str]:
    """The name, and what stands after each of its dots."""
    yield module
    at = module.find(".")
    while at >= 0:
        yield module[at + 1 :]
        at = module.find(".", at + 1)
