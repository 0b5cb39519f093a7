"""What a verb works on and where it writes: the references of the line, or the bundled sample without any."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from loratools.cli.failures import Late
from loratools.cli.options import Invocation
from loratools.cli.process import Terminated
from loratools.errors import UsageError
from loratools.operations.bare import ADAPTER, BASE, OTHER_ADAPTER, TUNED, Target, bare_run
from loratools.operations.references import Reference, SortedReferences, sort_references


@contextmanager
def destination(verb: str, invocation: Invocation, *, bare: bool) -> Iterator[Target]:
    """Where `verb` writes: `-o`, or a bare run's place in the current folder.

    An interruption inside of the `with` that comes after the output was published becomes `Late`.
    """
    found: AbstractContextManager[Target]
    if bare and invocation.output is None:
        found = bare_run(verb, force=invocation.force, dry_run=invocation.dry_run)
    else:
        named = invocation.target()
        found = nullcontext(Target(None if named is None else Path(named), invocation.force))
    with found as target, _published_is_done(target):
        yield target


@contextmanager
def _published_is_done(target: Target) -> Iterator[None]:
    before = target.identity()
    try:
        yield
    except (KeyboardInterrupt, Terminated) as error:
        if target.path is None or target.identity() in (None, before):
            raise
        raise Late.of(target.path) from error


def pair(references: Sequence[str]) -> tuple[str, str]:
    """Base and tuned."""
    if not references:
        return BASE, TUNED
    if len(references) == 1 and references[0].isdecimal():
        raise UsageError(
            f"{references[0]} is no checkpoint; extract takes one --rank",
            hint="run it once for each rank, or see --energy",
        )
    if len(references) != 2:
        raise UsageError(
            f"extract takes two checkpoints, a base and its fine-tune, and got {len(references)}",
            hint="see 'loratools extract --help'",
        )
    return references[0], references[1]


def one_adapter(references: Sequence[str]) -> str:
    """The adapter to resize."""
    if len(references) > 1:
        raise UsageError(
            f"resize takes one adapter, and got {len(references)}", hint="see 'loratools resize --help'"
        )
    return references[0] if references else ADAPTER


def several_adapters(references: Sequence[str]) -> tuple[str, ...]:
    """The adapters to combine."""
    return tuple(references) or (ADAPTER, OTHER_ADAPTER)


def base_and_adapters(references: Sequence[str]) -> SortedReferences:
    """The base, None where the one adapter's config is to name it, and the adapters."""
    return sort_references(references or (BASE, ADAPTER))


@contextmanager
def merged_and_adapters(
    references: Sequence[str], weights: Sequence[float]
) -> Iterator[tuple[Reference, tuple[Reference, ...]]]:
    """The merged checkpoint and the adapters named; without references the sample's, merged first."""
    if references:
        if len(references) == 1:
            yield references[0], ()
            return
        sources = sort_references(references)
        if sources.checkpoint is None:
            raise UsageError("no merged checkpoint was given", hint="name it beside its adapters")
        yield sources.checkpoint, sources.adapters
        return
    from loratools.operations.merge import merge

    with tempfile.TemporaryDirectory(prefix="loratools-") as folder:
        merged = Path(folder) / "merged"
        merge(BASE, [ADAPTER], merged, weights=list(weights) or None, undo=True)
        yield str(merged), ()
