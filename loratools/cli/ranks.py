"""`--rank 4 8`: a list of ranks in one option, as analyze and report take it.

Click gives an option a fixed number of words. Here the words of a line are rewritten before Click reads them,
so that `--rank 4 8`, `--rank 4,8`, `--rank=4,8` and `--rank 4 --rank 8` all mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from loratools.cli.options import Decorator, Verb
from loratools.errors import UsageError

FLAG = "--rank"

_INTEGERS = re.compile(r"-?[0-9]+(,-?[0-9]+)*")
"""A word that is taken after the flag: one integer, or several with commas. A negative one is taken and then
refused: it is no option and no reference either."""

_HINT = "give integers from 1 on, such as --rank 4 8; a reference stands before --rank or is written ./8"


class RankedVerb(Verb):
    """A verb whose `--rank` takes all the integers that follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, gathered(args))


def ranks_option(help: str) -> Decorator[Any]:
    """`--rank N...` for a `RankedVerb`: the parameter `ranks`, all in their order, empty for none."""
    return click.option(
        FLAG, "ranks", type=_Ranks(), multiple=True, metavar="N...", callback=_in_a_row, help=help
    )


def gathered(words: Sequence[str]) -> list[str]:
    """The words of a line with each `--rank` and the integers after it as one word: `--rank=4,8`.

    The first word after the flag is its value, whatever it is, unless it is an option. What stands behind a
    bare `--` is left alone.
    """
    end = words.index("--") if "--" in words else len(words)
    made: list[str] = []
    waiting = list(words[:end])
    while waiting:
        word = waiting.pop(0)
        if word != FLAG and not word.startswith(f"{FLAG}="):
            made.append(word)
            continue
        values = [word.removeprefix(FLAG).removeprefix("=")] if "=" in word else []
        if not values and waiting and not waiting[0].startswith("-"):
            values.append(waiting.pop(0))  # whatever it is: what is no integer will be refused
        while waiting and _is_integers(waiting[0]) and all(map(_is_integers, values)):
            values.append(waiting.pop(0))
        made.append(f"{FLAG}={','.join(values)}")
    return [*made, *words[end:]]


def _is_integers(word: str) -> bool:
    return _INTEGERS.fullmatch(word) is not None


class _Ranks(click.ParamType[tuple[int, ...]]):
    """Integers from 1 on, joined by commas."""

    name = "ranks"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else ranks_of(str(value))


def ranks_of(text: str) -> tuple[int, ...]:
    """The ranks in `4,8`.

    Raises:
        UsageError: there is none, or one is no integer or less than 1.
    """
    if not text:
        raise UsageError("--rank names no rank", hint=_HINT)
    if not _is_integers(text):
        raise UsageError(f"--rank takes integers, and {text!r} is none", hint=_HINT)
    ranks = []
    for word in text.split(","):
        if len(word) > _LONGEST:
            raise UsageError(f"--rank {word[:_LONGEST]}… is larger than any matrix", hint=_HINT)
        ranks.append(int(word))
    if min(ranks) < 1:
        raise UsageError(f"--rank {min(ranks)} is less than 1", hint=_HINT)
    return tuple(ranks)


_LONGEST = 12
"""Digits of a rank that is not absurd; Python refuses to read some thousands of them."""


def _in_a_row(
    ctx: click.Context, parameter: click.Parameter, value: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    return tuple(rank for ranks in value for rank in ranks)
