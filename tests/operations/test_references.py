"""References sorted by what they are, on the bundled sample."""

from __future__ import annotations

import os

import pytest

from loratools.errors import LoratoolsError, UsageError
from loratools.operations.references import sort_references

BASE, TUNED = "loratools-sample/base", "loratools-sample/tuned"
ONE, TWO = "loratools-sample/lora-r4", "loratools-sample/lora-r8"


@pytest.mark.parametrize(
    ("references", "checkpoint", "adapters"),
    [
        ([BASE, ONE], BASE, (ONE,)),
        ([ONE, BASE], BASE, (ONE,)),
        ([TWO, BASE, ONE], BASE, (TWO, ONE)),
        ([ONE, TWO], None, (ONE, TWO)),
        ([BASE, f"{ONE}=0.5", TWO], BASE, (f"{ONE}=0.5", TWO)),
    ],
)
def test_kinds_are_told_from_headers(
    references: list[str], checkpoint: str | None, adapters: tuple[str, ...]
) -> None:
    found = sort_references(references)
    assert (found.checkpoint and found.checkpoint.written) == checkpoint
    assert tuple(map(os.fspath, found.adapters)) == adapters


@pytest.mark.parametrize(
    ("references", "says"),
    [
        ([BASE, TUNED, ONE], "two checkpoints were given, loratools-sample/base and loratools-sample/tuned"),
        ([BASE], "no adapter was given"),
        ([], "no adapter was given"),
        ([f"{BASE}=2", ONE], "a weight stands on a checkpoint"),
    ],
)
def test_what_cannot_mean_anything_is_wrong_usage(references: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        sort_references(references)


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(LoratoolsError, match=r"no such file or folder \(not/here/at-all\)"):
        sort_references([BASE, "not/here/at-all"])
