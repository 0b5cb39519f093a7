"""Words of options become members of their Enums at an operation's door, and nowhere else."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from loratools.errors import UsageError

Choice = TypeVar("Choice", bound=Enum)


def choice(choices: type[Choice], text: str, option: str) -> Choice:
    """The member of `choices` that `text` names.

    Raises:
        UsageError: none does; the hint lists those that would.
    """
    try:
        return choices(text)
    except ValueError:
        known = ", ".join(str(member.value) for member in choices)
        raise UsageError(f"{option} {text!r} is unknown", hint=f"it is one of {known}") from None
