"""What `verify` is asked to compare: a base, its fine-tune, adapters of the one that are to be the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from loratools import sample
from loratools.adapters.contents import VALUES, Contents
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.claims import regular_file
from loratools.checkpoints.files import real
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.merge_inputs import open_inputs
from loratools.operations.references import Reference
from loratools.operations.verification.distances import Distances, plan_distances
from loratools.operations.verification.outputs import TextOptions, kind_of, require_transformers
from loratools.operations.verification.subjects import Subject, kinds_of

__all__ = ["Comparison", "VerifyOptions", "comparison_of"]


@dataclass(frozen=True)
class VerifyOptions:
    """What `verify` was asked for, beside its references."""

    text: Path | None
    window: int | None
    batch: int | None
    min_agreement: float | None

    @classmethod
    def parse(
        cls, *, text: Reference | None, window: int | None, batch: int | None, min_agreement: float | None
    ) -> VerifyOptions:
        """
        Raises:
            UsageError: a number that makes no sense.
            LoratoolsError: the text is no file.
        """
        if min_agreement is not None and not (math.isfinite(min_agreement) and 0 <= min_agreement <= 1):
            raise UsageError(f"an agreement of {min_agreement:g} is none: it lies between 0 and 1")
        for option, value in (("--window", window), ("--batch", batch)):
            if value is not None and value < 1:
                raise UsageError(f"{option} {value} is less than 1")
        path = None if text is None else Path(text)
        if path is not None:
            regular_file(path)
        return cls(path, window, batch, min_agreement)

    @property
    def about_outputs(self) -> bool:
        return any(one is not None for one in (self.text, self.window, self.batch, self.min_agreement))


@dataclass(frozen=True)
class Comparison:
    """What is compared: `distances`, or why it cannot be, and the text for outputs, if there is one."""

    label: str
    base: Checkpoint
    tuned: Checkpoint
    adapters: tuple[Subject, ...]
    distances: Distances | None
    unfit: LoratoolsError | None
    text: TextOptions | None
    notes: tuple[str, ...] = ()


def comparison_of(
    subjects: Sequence[Subject], options: VerifyOptions, contents: Contents = VALUES
) -> Comparison | None:
    """Two checkpoints and adapters are to be compared; anything else is looked at one by one.

    Raises:
        UsageError: a weight, or an option about outputs, where nothing is compared.
        LoratoolsError: outputs are asked for and cannot be measured.
    """
    checkpoints, adapters = kinds_of(subjects)
    if len(checkpoints) != 2 or not adapters or len(checkpoints) + len(adapters) < len(subjects):
        _refuse_what_compares(subjects, options)
        return None
    base, tuned = (subject.opened for subject in checkpoints)
    assert base is not None and tuned is not None
    weighted = next((subject for subject in checkpoints if subject.weight is not None), None)
    if weighted is not None:
        raise UsageError(
            "a weight stands on a checkpoint", file=weighted.written, hint="weights are for adapters"
        )
    text, notes = _text(base, tuned, options)
    distances, unfit = None, None
    try:
        inputs = open_inputs(checkpoints[0].reference, [subject.written for subject in adapters], None)
        distances = plan_distances(inputs, tuned, contents)
    except UsageError:
        raise
    except LoratoolsError as error:
        unfit = error
    label = ", ".join(subject.written for subject in adapters)
    return Comparison(label, base, tuned, tuple(adapters), distances, unfit, text, notes)


def _refuse_what_compares(subjects: Sequence[Subject], options: VerifyOptions) -> None:
    """Options and weights that mean something for a base, its fine-tune and adapters only."""
    if any(subject.opened is None for subject in subjects):
        return  # what is broken may be what is missing
    hint = "name a base, its fine-tune and the adapters: verify BASE TUNED ADAPTER"
    if options.about_outputs:
        raise UsageError("outputs are compared, and nothing is there to compare", hint=hint)
    weighted = next((subject for subject in subjects if subject.weight is not None), None)
    if weighted is not None:
        raise UsageError("a weight means nothing here", file=weighted.written, hint=hint)


def _text(
    base: Checkpoint, tuned: Checkpoint, options: VerifyOptions
) -> tuple[TextOptions | None, tuple[str, ...]]:
    """The text that was named; for the sample its own, where that can be measured."""
    if options.text is not None:
        require_transformers()
        kind_of(tuned)
        return TextOptions(options.text, options.window, options.batch), ()
    if real(base.root) != real(sample.path("base")):
        if options.about_outputs:
            raise UsageError("outputs are measured on a text", hint="name one with --text FILE")
        return None, ()
    if find_spec("transformers") is None:
        if options.about_outputs:
            require_transformers()
        return None, (
            "outputs were not measured: pip install 'loratools[transformers]' does that on the sample",
        )
    return TextOptions(sample.HELDOUT, options.window, options.batch), ()
