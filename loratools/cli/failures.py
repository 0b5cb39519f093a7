"""From an exception to one line on stderr, an exit code and, with --json, an object on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

import click

from loratools.cli.process import Terminated
from loratools.errors import LoratoolsError, UsageError, advice


class Late(BaseException):
    """An interruption that came when the output had been published: no failure."""

    @classmethod
    def of(cls, output: str | os.PathLike[str]) -> Late:
        return cls(f"interrupted when {output} was already published: it is whole")


class Failure(click.ClickException):
    """A failed command as click shows it: `error` in one line, after a traceback if there is one to show."""

    def __init__(
        self, error: LoratoolsError, *, command: str | None, as_json: bool, trace: str | None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.exit_code = error.exit_code  # type: ignore[misc]  # click declares it by class
        self.command = command
        self.as_json = as_json
        self.trace = trace

    def show(self, file: IO[Any] | None = None) -> None:
        if self.as_json:
            import json

            with suppress(OSError):  # stdout itself may be what failed
                click.echo(json.dumps(self.to_json(), indent=2))
        if self.trace is not None:
            click.echo(self.trace, err=True, nl=False)
        click.echo(f"Error: {self.error}", err=True)
        abandon_stdout()

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints of a failure."""
        error = self.error
        return {
            "schema": 1,
            "command": self.command,
            "ok": False,
            "error": {
                "message": error.message,
                "file": error.file,
                "tensor": error.tensor,
                "hint": error.hint,
            },
        }


def failure(
    error: BaseException, *, command: str | None, as_json: bool, verbose: bool, verbs: list[str]
) -> Failure:
    """What to show of `error`; with a traceback if it is nobody's fault but ours and `verbose`."""
    for kind, translate in _TRANSLATIONS:
        if isinstance(error, kind):
            known = translate(error, command if command in verbs else None)
            return Failure(known, command=command, as_json=as_json, trace=None)
    return Failure(
        _unexpected(error), command=command, as_json=as_json, trace=_traceback(error) if verbose else None
    )


def abandon_stdout() -> None:
    """Sends what a reader that went away, or a full disk, did not take to nowhere, lest it fail again."""
    try:
        sys.stdout.flush()
        return
    except OSError:
        pass
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # stdout is no file: a test, or a library's stream
        return


def _as_it_is(error: BaseException, command: str | None) -> LoratoolsError:
    assert isinstance(error, LoratoolsError)
    return error


def _usage(error: BaseException, command: str | None) -> LoratoolsError:
    """Click's own complaints, brought into one line, with the help page to look at."""
    assert isinstance(error, click.ClickException)
    message = " ".join(error.format_message().split()).rstrip(".").replace(". Did you", ", did you")
    page = f"loratools {command} --help" if command else "loratools --help"
    return UsageError(message[:1].lower() + message[1:], hint=f"see '{page}'")


def _system(error: BaseException, command: str | None) -> LoratoolsError:
    assert isinstance(error, OSError)
    return LoratoolsError(error.strerror or str(error), file=error.filename, hint=advice(error))


def _memory(error: BaseException, command: str | None) -> LoratoolsError:
    hints = ("use fewer --workers, or a machine with more memory", advice(error))
    return LoratoolsError("out of memory", hint="; ".join(filter(None, hints)))


_NEVER = "an unfinished output is never published"


def _interrupted(error: BaseException, command: str | None) -> LoratoolsError:
    return LoratoolsError(f"interrupted; {_NEVER}", hint=advice(error), exit_code=130)


def _terminated(error: BaseException, command: str | None) -> LoratoolsError:
    return LoratoolsError(f"terminated; {_NEVER}", hint=advice(error), exit_code=143)


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _unexpected(error: BaseException) -> LoratoolsError:
    told = " ".join(str(error).split()) or "no message"
    return LoratoolsError(
        f"unexpected {type(error).__name__}: {told}",
        hint="run it again with -v for the traceback, and please report it",
    )


_TRANSLATIONS: tuple[
    tuple[type[BaseException], Callable[[BaseException, str | None], LoratoolsError]], ...
] = (
    (LoratoolsError, _as_it_is),
    (click.ClickException, _usage),
    (KeyboardInterrupt, _interrupted),
    (click.Abort, _interrupted),
    (Terminated, _terminated),
    (MemoryError, _memory),
    (OSError, _system),
)
