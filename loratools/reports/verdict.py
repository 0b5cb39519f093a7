"""What `verify` found, in a sentence or two of plain words."""

from __future__ import annotations

from collections.abc import Sequence

from loratools.reports import words
from loratools.reports.verification import Check, Distance, OutputKind, Outputs, Verified

__all__ = ["verdict"]


def verdict(
    references: Sequence[Verified],
    checks: Sequence[Check],
    distance: Distance | None,
    outputs: Outputs | None,
) -> str:
    """The first thing that is wrong, or how far everything is known to be right; then the comparison."""
    compared = None if distance is None else _compared(checks, distance, outputs)
    about_files = [check for check in checks if check.ok is False and check.check not in _OF_COMPARISONS]
    if about_files:
        return _wrong(about_files)
    return compared or _right(references, checks)


_OF_COMPARISONS = ("weights", "outputs", "agreement")


def _wrong(wrong: Sequence[Check]) -> str:
    """What is wrong first, where, and how much else is."""
    first = wrong[0]
    where = ", ".join(part for part in (first.file, first.tensor) if part)
    told = f"Wrong: {first.reference}: {first.detail}" + (f" ({where})" if where else "")
    more = len(wrong) - 1
    return told + (f"; and {more} more {'finding' if more == 1 else 'findings'}" if more else "")


def _right(references: Sequence[Verified], checks: Sequence[Check]) -> str:
    names = _names([one.reference for one in references])
    unknown = {check.reference for check in checks if check.check == "hashes" and check.ok is None}
    if not unknown:
        return f"Whole, and as written: {names}, to the last hash"
    if len(unknown) == len(references):
        return (
            f"Nothing wrong with {names}: all can be read, and every value is finite. "
            "Without a provenance there are no hashes to hold them against"
        )
    return f"Nothing wrong with {names}; {_names(sorted(unknown))} without hashes to be held against"


def _names(names: Sequence[str]) -> str:
    return f"{len(names)} references" if len(names) > 3 else ", ".join(names)


def _compared(checks: Sequence[Check], distance: Distance, outputs: Outputs | None) -> str:
    """How near base + adapter comes to tuned: by what the model says, where that was measured."""
    row = next(check for check in reversed(checks) if check.check in ("weights", "outputs"))
    label = row.reference
    in_weights = (
        "base and tuned have the same weights"
        if distance.remaining is None
        else f"in weights {words.share(distance.remaining)} of the distance is left"
    )
    how = f"{label} brings base nearer to tuned" if row.ok else f"{label} is worse than no adapter"
    said = [in_weights] if outputs is None else [_in_outputs(outputs), in_weights]
    few = next((check for check in checks if check.check == "agreement" and check.ok is False), None)
    short = f". Too little: {few.detail}" if few is not None else ""
    return f"{how}: {'; '.join(said)}{short}"


def _in_outputs(outputs: Outputs) -> str:
    base, adapted, _ = outputs.models
    if outputs.kind is OutputKind.HIDDEN:
        return (
            f"its hidden states are {words.number(adapted.distance, 3)} off by 1 - cosine, "
            f"{words.number(base.distance, 3)} without it"
        )
    return (
        f"it agrees with tuned on {words.share(adapted.agreement)} of the next tokens, "
        f"{words.share(base.agreement)} without it"
    )
