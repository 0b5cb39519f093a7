"""What the verbs share: the options that mean the same everywhere, and what they were set to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from loratools.cli.later import later_option
from loratools.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]


class Invocation:
    """The shared options of one command line, as they are parsed (no dataclass: help pages start faster)."""

    output: str | None = None
    force: bool = False
    workers: int | None = None
    max_memory: str | None = None
    resume: bool = False
    dry_run: bool = False
    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    plot: str | None = None

    def __init__(self) -> None:
        self.began = time.perf_counter()
        """Before the libraries of a verb are imported, which can take longer than its work."""

    def target(self) -> str | None:
        """The output, which has to be named where references are and something is written."""
        if self.output is None and not self.dry_run:
            raise UsageError("no output was named", hint="say where to write it, with -o OUT")
        return self.output


class Verb(click.Command):
    """A command that knows which of its options a later version brings."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ensure_object(Invocation)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise later_option(self.name or "", error.option_name) or error from None


class Rank(click.IntRange):
    """A rank: an integer from 1 on, or the word `auto`."""

    name = "rank"

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto":
            return value
        return super().convert(value, param, ctx)


def _shared(
    *declarations: str, help: str, type: click.ParamType[Any] | None = None, metavar: str | None = None
) -> Decorator[Function]:
    """An option whose value goes to the `Invocation` field of its name; a flag where no type is given."""
    return click.option(
        *declarations,
        type=type,
        is_flag=type is None,
        default=None if type is not None else False,
        metavar=metavar,
        expose_value=False,
        callback=_remember,
        help=help,
    )


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    setattr(ctx.ensure_object(Invocation), str(parameter.name), value)


_OUTPUT: tuple[Decorator[Any], ...] = (
    _shared(
        "-o",
        "--output",
        type=click.Path(),
        metavar="OUT",
        help="Where to write; may not exist yet.",
    ),
    _shared("--force", help="Replace what stands at OUT, whole, once the new one is complete."),
)
_DRAW: tuple[Decorator[Any], ...] = (
    _shared(
        "--plot",
        type=click.Path(),
        metavar="FILE",
        help="Draw it too, into a .png, .svg or .pdf (extra [plot]).",
    ),
    _shared("--force", help="Replace the picture that stands at --plot's FILE."),
)
_WORKERS: Decorator[Any] = _shared(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Jobs side by side (default: one a processor)."
)
_MAX_MEMORY: Decorator[Any] = _shared(
    "--max-memory",
    type=click.STRING,
    metavar="SIZE",
    help="Hold at most SIZE, such as 1.5GB, with fewer jobs at once (default: what the machine has).",
)
_RESUME: Decorator[Any] = _shared(
    "--resume",
    help="Go on where a killed run of this command stopped, and keep what is done for the next.",
)
_PLAN: Decorator[Any] = _shared(
    "--dry-run", help="Print the plan, with every tensor's fate, and write nothing; -o may be left out."
)
_RUN: tuple[Decorator[Any], ...] = (_WORKERS, _MAX_MEMORY, _RESUME, _PLAN)
_RUN_THROUGH: tuple[Decorator[Any], ...] = (_WORKERS, _MAX_MEMORY, _PLAN)
_READ: tuple[Decorator[Any], ...] = (
    _WORKERS,
    _MAX_MEMORY,
    _shared("--dry-run", help="Print the plan, with every tensor's fate, and go no further."),
)
_REMOVE: tuple[Decorator[Any], ...] = (
    _shared("--dry-run", help="Say what would be removed, and remove nothing."),
)
_TALK: tuple[Decorator[Any], ...] = (
    _shared("--quiet", help="Print nothing but warnings and errors."),
    _shared("-v", "--verbose", help="Print every row, and the traceback of an unexpected error."),
    _shared("--json", "as_json", help="Print one JSON object on stdout, and nothing else."),
)


def writes(function: Function) -> Function:
    """-o/--output and --force."""
    return _all(_OUTPUT, function)


def runs(function: Function) -> Function:
    """--workers, --max-memory, --resume and --dry-run."""
    return _all(_RUN, function)


def runs_through(function: Function) -> Function:
    """--workers, --max-memory and --dry-run, for a verb that writes so little that nobody resumes it."""
    return _all(_RUN_THROUGH, function)


def reads(function: Function) -> Function:
    """--workers, --max-memory and --dry-run, for a verb that writes no model."""
    return _all(_READ, function)


def removes(function: Function) -> Function:
    """--dry-run, for a verb that only removes."""
    return _all(_REMOVE, function)


def draws(function: Function) -> Function:
    """--plot, and --force for what stands there."""
    return _all(_DRAW, function)


def talks(function: Function) -> Function:
    """--quiet, -v/--verbose and --json."""
    return _all(_TALK, function)


def _all(options: tuple[Decorator[Any], ...], function: Function) -> Function:
    for option in reversed(options):
        function = option(function)
    return function
