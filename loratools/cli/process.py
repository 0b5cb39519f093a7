"""The command line as a process: signals from its first moment to its last, and the code that it exits with.

Nothing is imported here that takes time, so that an interruption finds a handler however early it comes.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from types import FrameType


class Terminated(BaseException):
    """SIGTERM came. Not an Exception, so that nothing but clean-up stops it on its way out."""


def main() -> None:
    """The entry point: runs the command line of this process and exits with its code."""
    _open_streams()
    gc.set_threshold(*_SELDOM)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as jobs have it; more take 40 ms to begin with
    try:
        signal.signal(signal.SIGTERM, _stop)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored
            signal.signal(signal.SIGINT, _stop)
        code = _run()
    except KeyboardInterrupt:
        code = _say("interrupted", 130)
    except Terminated:
        code = _say("terminated", 143)
    _ignore_signals()
    gc.freeze()  # what is left is not looked through for cycles: torch's share alone takes 0.3 s
    sys.exit(code)


def _open_streams() -> None:
    """Streams that were closed when the process began (`>&-`) are None to Python, and to nobody else."""
    sys.stdout = sys.stdout or io.StringIO()
    sys.stderr = sys.stderr or io.StringIO()


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


def _stop(number: int, frame: FrameType | None) -> None:
    """Raises what the signal means: at once, or where torch is being imported, as soon as that is over."""
    if _imports_torch(frame):
        import threading

        retry = threading.Timer(_RETRY_SECONDS, os.kill, (os.getpid(), number))
        retry.daemon = True
        retry.start()
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: clean-up is under way
    raise Terminated


def _imports_torch(frame: FrameType | None) -> bool:
    """Whether torch is being imported: an exception that its C++ code meets there aborts the process."""
    of_torch = False
    while frame is not None:
        of_torch = of_torch or str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"
        if of_torch and frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False


_SELDOM = (100_000, 20, 100)
"""How many new objects it takes until Python looks for cycles among them, and how often among older ones: a
plan is hundreds of thousands of small objects that stay, and looking through them again and again took a
fifth of its time."""
_IMPORT = "<frozen importlib._bootstrap>"
_RETRY_SECONDS = 0.02
