"""Words that belong to later versions: refused by name, in one line, and shown in no help page."""

from __future__ import annotations

from collections.abc import Iterable

from loratools.errors import UsageError

VERBS = frozenset({"convert"})

_EVERYWHERE = frozenset(
    {"--device", "--cluster", "--plot", "--html"},
)

OPTIONS: dict[str, frozenset[str]] = {
    "extract": _EVERYWHERE
    | {"--budget", "--budget-parameters", "--vocab", "--dora", "--refine", "--steps", "--for", "--format"},
    "merge": _EVERYWHERE | {"--expert-layout"},
    "unmerge": _EVERYWHERE,
    "analyze": _EVERYWHERE - {"--plot"},
    "report": _EVERYWHERE - {"--plot"},
    "verify": _EVERYWHERE | {"--for", "--seed"},
    "inspect": _EVERYWHERE,
    "resize": _EVERYWHERE | {"--resume", "--to", "--base", "--for", "--format"},
    "combine": _EVERYWHERE | {"--resume", "--for", "--format"},
    "demo": _EVERYWHERE,
}


def later_verb(verb: str, present: Iterable[str]) -> UsageError:
    """The refusal of a verb that a later version will have; `present` are those of this one."""
    return UsageError(f"{verb} comes in a later version", hint=f"this one has {', '.join(present)}")


def no_verb(word: str, present: Iterable[str]) -> UsageError:
    """The refusal of a word that is no verb, with the verb that was perhaps meant."""
    from difflib import get_close_matches

    close = get_close_matches(word, present, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(present)}"
    return UsageError(f"there is no verb {word!r}", hint=hint)


def later_option(verb: str, option: str) -> UsageError | None:
    """The refusal of an option that a later version will have; None for a word that means nothing at all."""
    if option not in OPTIONS.get(verb, ()):
        return None
    return UsageError(
        f"{option} comes in a later version", hint=f"'loratools {verb} --help' lists what this one has"
    )
