"""The command line as a process: signals from its first moment to its last, and the code that it exits with.

Nothing is imported here that takes time, so that an interruption finds a handler however early it comes.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType


class Terminated(BaseException):
    """SIGTERM came. Not an Exception, so that nothing but clean-up stops it on its way out."""


def main() -> None:
    """The entry point: runs the command line of this process and exits with its code."""
    try:
        signal.signal(signal.SIGTERM, _terminate)
        code = _run()
    except KeyboardInterrupt:
        code = _say("interrupted", 130)
    except Terminated:
        code = _say("terminated", 143)
    _ignore_signals()
    sys.exit(code)


def _run() -> int:
    import click

    from loratools.cli.app import application

    try:
        code = application.main(prog_name="loratools", standalone_mode=False)
    except click.Abort:  # what click makes of an interruption outside of a verb
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        _ignore_signals()  # all is cleaned up, and what is said now is said whole
        error.show()
        return error.exit_code
    return code if isinstance(code, int) else 0


def _say(what: str, code: int) -> int:
    _ignore_signals()
    print(f"Error: {what}; an unfinished output is never published", file=sys.stderr)
    return code


def _ignore_signals() -> None:
    """For the time that Python takes to end, which would let a late one end the process with its own code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: clean-up is under way
    raise Terminated
