"""Regular expressions from a command line or a file, matched only where that ends soon.

Python's matcher tries every way to match before it says no, which a hostile pattern can make endless. So a
repeated group is refused, and what is left has few enough ways to be counted beforehand; what many names cost
together is bounded by the clock.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from loratools.errors import LoratoolsError, UsageError

__all__ = ["LONGEST", "MOST_SECONDS", "MOST_WAYS", "Clock", "Pattern", "patterns_of_option"]

LONGEST = 1000
"""Characters of a pattern at most."""

MOST_WAYS = 3 * 10**7
"""Ways of matching one name at most: some tenths of a second."""

MOST_SECONDS = 10.0
"""What patterns may take for all names together; a thousand modules take a thousandth of it."""

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[:=!]|\(\?<[=!]|\{\d+\}|\{\d*,\d*\}|.", re.DOTALL)
_IGNORE_CASE = "(?i)"
_FLAGS = re.compile(r"\(\?[aiLmsux-]+[:)]|\(\?P|\(\?(?:[>(#]|<[^=!])|(?<!\\)(?:\\\\)*\\[1-9]")


class Clock:
    """The time that matching took so far: of one pattern, or of several together."""

    def __init__(self) -> None:
        self.seconds = 0.0


@dataclass(frozen=True)
class Pattern:
    """A regular expression that ends soon, or is refused: when it is made, or for the name that is too much.

    Args:
        pattern: the expression.
        around: what it stands in where `{}` is: PEFT's rule for the patterns of its config, for one.
        clock: shared with the patterns whose time counts together.

    Raises:
        ValueError: it is no regular expression, or one that could take too long; says which.
    """

    pattern: str
    around: str = "{}"
    clock: Clock = field(default_factory=Clock, repr=False, compare=False)
    _compiled: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _ways: dict[int, float] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.pattern) > LONGEST:
            raise ValueError(f"{len(self.pattern):,} characters, above {LONGEST}")
        object.__setattr__(self, "_compiled", _compiled(self.around.replace("{}", self.pattern)))
        if _FLAGS.search(self._plain):
            raise ValueError("flags, names and references are not taken")
        if _ways(self._plain, 1) is None:
            raise ValueError("a repeated group can take forever")

    def search(self, name: str) -> bool:
        """Whether it is found anywhere in a name.

        Raises:
            LoratoolsError: looking for it could take too long, or for all names together did.
        """
        return self._timed(self._compiled.search, name)

    def match(self, name: str) -> bool:
        """Whether it is found where the name begins. Raises as `search` does."""
        return self._timed(self._compiled.match, name)

    def _timed(self, ask: Callable[[str], object], name: str) -> bool:
        length = len(name)
        if length not in self._ways:
            ways = _ways(self._plain, length)
            self._ways[length] = math.inf if ways is None else ways
        if self._ways[length] > MOST_WAYS or self.clock.seconds > MOST_SECONDS:
            raise LoratoolsError(
                f"the pattern {self.pattern!r} could take too long to match",
                tensor=name,
                hint="write it with fewer repetitions, or as the modules' full names",
            )
        started = time.perf_counter()
        found = ask(name) is not None
        self.clock.seconds += time.perf_counter() - started
        return found

    @property
    def _plain(self) -> str:
        return self.pattern.removeprefix(_IGNORE_CASE)


def patterns_of_option(words: Iterable[str], option: str) -> tuple[Pattern, ...]:
    """The patterns that an option names.

    Raises:
        UsageError: one text instead of a list, or a pattern that is none or could take too long.
    """
    if isinstance(words, str):
        raise UsageError(f"{option} takes a list of patterns, not one text", hint=f"[{words!r}]")
    made, clock = [], Clock()
    for word in words:
        try:
            made.append(Pattern(word, clock=clock))
        except ValueError as error:
            raise UsageError(
                f"{option} {word!r} is no regular expression that can be taken: {error}",
                hint="see Python's re",
            ) from error
    return tuple(made)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a set within a set, which may come to mean something else
            return re.compile(pattern)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise ValueError(str(error)) from error


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


def _ways(pattern: str, length: int) -> float | None:
    """A bound on the ways to match a name of so many characters; None where a group is repeated."""
    groups, last = [_Group()], ""
    groups[0].repeat(length)  # the place where it begins
    for token in _TOKEN.findall(pattern):
        if token.startswith("("):
            groups.append(_Group())
        elif token == ")" and len(groups) > 1:
            inner = groups.pop()
            groups[-1].current *= inner.ways
        elif token == "|":
            groups[-1].end_branch()
            if len(groups) == 1:
                groups[0].repeat(length)
        elif token in ("*", "+") or _counted(token):
            if last == ")":
                return None
            choices = _choices(token) if _counted(token) else length + 1
            if choices > length:
                groups[-1].repeat(length)
            else:
                groups[-1].current *= choices
        elif token == "?" and last not in ("*", "+", "?") and not _counted(last):
            groups[-1].current *= 2
        last = token
    return groups[0].ways


def _counted(token: str) -> bool:
    """Whether it is a repetition such as `{2,3}`, and not a brace that stands for itself."""
    return len(token) > 1 and token.startswith("{")


def _choices(token: str) -> float:
    """How many counts `{2,3}` allows."""
    least, comma, most = token[1:-1].partition(",")
    if not comma:
        return 1
    return int(most) - int(least or 0) + 1 if most else math.inf
