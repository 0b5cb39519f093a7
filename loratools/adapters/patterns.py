"""PEFT's patterns for module names: regular expressions from a file, matched only where that ends soon.

Python's matcher tries every way to match before it says no, which a hostile pattern can make endless. So a
repeated group is refused, and what is left has few enough ways to be counted beforehand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from loratools.errors import LoratoolsError

LONGEST = 1000
"""Characters of a pattern at most."""

MOST_WAYS = 10**7
"""Ways of matching one name at most: some tenths of a second."""

_MANY = 1 << 17
"""Patterns that are remembered: an adapter may have one for each of thousands of modules."""

_TAIL = re.compile(r"(\\\w)?(\w*)$", re.DOTALL)
"""Letters at the end, and an escape before them that may take some of them: `\\x41`."""

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[:=!]|\(\?<[=!]|.", re.DOTALL)
_FLAGS = re.compile(r"\(\?[aiLmsux-]+[:)]|\(\?P|\(\?(?:[>(#]|<[^=!])")


def checked(pattern: str) -> re.Pattern[str]:
    """The pattern as PEFT matches it: `(.*\\.)?(pattern)$`.

    Raises:
        ValueError: it is no regular expression, or one that could take too long; says which.
    """
    if len(pattern) > LONGEST:
        raise ValueError(f"{len(pattern)} characters, above {LONGEST}")
    try:
        compiled = re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if _FLAGS.search(pattern):
        raise ValueError("flags, names and references are not taken")
    if _ways(pattern, 1) is None:
        raise ValueError("a repeated group can take forever")
    return compiled


def matches(pattern: str, name: str) -> bool:
    """Whether PEFT applies a pattern that was `checked` to a module of this name.

    Raises:
        LoratoolsError: matching it could take too long.
    """
    ways = _ways(pattern, len(name))
    if ways is None or ways > MOST_WAYS:
        raise LoratoolsError(
            f"the pattern {pattern!r} could take too long to match",
            tensor=name,
            hint="write it in adapter_config.json with fewer repetitions, or as the modules' full names",
        )
    return name.endswith(_tail(pattern)) and _compiled(pattern).match(name) is not None


@lru_cache(maxsize=_MANY)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


@lru_cache(maxsize=_MANY)
def _tail(pattern: str) -> str:
    """What every name that the pattern means ends in: most are ruled out by it, at a tenth of the price."""
    escape, letters = _TAIL.search(pattern).groups()  # type: ignore[union-attr]
    return "" if escape or "|" in pattern else letters


@dataclass
class _Group:
    """The ways of the branches so far, those of the current one, and its repetitions."""

    before: float = 0.0
    current: float = 1.0
    repeated: int = 0

    @property
    def ways(self) -> float:
        return self.before + self.current

    def end_branch(self) -> None:
        self.before, self.current, self.repeated = self.ways, 1.0, 0

    def repeat(self, length: int) -> None:
        """The j-th repetition in a row: together they cut a name in at most length^j / j! ways."""
        self.repeated += 1
        self.current *= (length + self.repeated) / self.repeated


@lru_cache(maxsize=_MANY)
def _ways(pattern: str, length: int) -> float | None:
    """A bound on the ways to match a name of so many characters; None where a group is repeated."""
    groups, last = [_Group()], ""
    for token in _TOKEN.findall(pattern):
        if token.startswith("("):
            groups.append(_Group())
        elif token == ")" and len(groups) > 1:
            inner = groups.pop()
            groups[-1].current *= inner.ways
        elif token == "|":
            groups[-1].end_branch()
        elif token in ("*", "+", "{"):
            if last == ")":
                return None
            groups[-1].repeat(length)
        elif token == "?" and last not in ("*", "+", "?", "}"):
            groups[-1].current *= 2
        last = token
    return groups[0].ways * (length + 1)  # of the part before the pattern
