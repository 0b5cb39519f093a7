"""The one class of errors that a user can cause: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import os

LONGEST = 1000
"""Characters of a message, tensor or hint that are shown: what a file says of itself may have millions."""


class LoratoolsError(Exception):
    """A failure that the user can understand and mend.

    Shown on stderr as one line, `Error: message (file, tensor); hint`, and in `--json` as the keys
    `message`, `file`, `tensor` and `hint`. Raised by every layer; a traceback shown to a user is a bug.

    Args:
        message: what is wrong, without a final stop.
        file: the file or folder it was found in.
        tensor: the tensor it was found in.
        hint: what the user can do about it.
        exit_code: 1 for a failure or a refusal, 2 for wrong usage.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | os.PathLike[str] | None = None,
        tensor: str | None = None,
        hint: str | None = None,
        exit_code: int = 1,
    ) -> None:
        self.message = shortened(message)
        self.file = None if file is None else os.fspath(file)
        self.tensor = None if tensor is None else shortened(tensor)
        self.hint = None if hint is None else shortened(hint)
        self.exit_code = exit_code
        super().__init__(str(self))

    def __str__(self) -> str:
        where = ", ".join(printable(part) for part in (self.file, self.tensor) if part)
        line = printable(self.message) + (f" ({where})" if where else "")
        return line + (f"; {printable(self.hint)}" if self.hint else "")


class UsageError(LoratoolsError):
    """Wrong usage: the words on the command line cannot mean anything. Exit code 2."""

    def __init__(
        self,
        message: str,
        *,
        file: str | os.PathLike[str] | None = None,
        tensor: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, file=file, tensor=tensor, hint=hint, exit_code=2)


class UnsupportedError(LoratoolsError):
    """Nothing is wrong with what was given, but this version cannot do it: a format or a variant by name."""


def printable(text: str) -> str:
    """`text` with control characters escaped: a hostile name breaks neither the line nor the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, longest: int = LONGEST) -> str:
    """`text`, or as much of it as a reader has patience for, and how much there was."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"


def advise(error: BaseException, hint: str) -> BaseException:
    """The error with one more hint: of a LoratoolsError in its line, of any other for who shows it."""
    if isinstance(error, LoratoolsError):
        hints = f"{error.hint}; {hint}" if error.hint else hint
        return LoratoolsError(
            error.message, file=error.file, tensor=error.tensor, hint=hints, exit_code=error.exit_code
        )
    error.__dict__[_ADVICE] = hint
    return error


def advice(error: BaseException) -> str | None:
    """The hint that an error which is no LoratoolsError was given on its way."""
    found: str | None = error.__dict__.get(_ADVICE)
    return found


_ADVICE = "loratools_advice"
