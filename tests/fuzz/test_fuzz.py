"""A short round of the campaign, the same each time: every reader, its findings, a hundred variations."""

from __future__ import annotations

import random

import pytest

from loratools.errors import LoratoolsError
from tests.fuzz.findings import FINDINGS
from tests.fuzz.oracle import judge
from tests.fuzz.readers import READERS, Reader
from tests.fuzz.variations import varied

COSTLY = ("undo record", "config.json, merge", "config.json, report", "adapter keys")
ROUNDS = dict.fromkeys(COSTLY, 40)
MOST = 150

BY_NAME = {reader.name: reader for reader in READERS}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_short_round(reader: Reader) -> None:
    rng = random.Random(0)
    for document in reader.seeds:
        assert judge(reader, document) is None
    for _ in range(ROUNDS.get(reader.name, MOST)):
        document = rng.choice(reader.seeds)
        for _ in range(rng.choice((1, 1, 2, 3))):
            document = varied(document, reader.kind, rng)[:6000]
        finding = judge(reader, document)
        assert finding is None or finding.slow, finding


@pytest.mark.parametrize(("name", "what", "document"), FINDINGS, ids=[f"{n}: {w}" for n, w, _ in FINDINGS])
def test_what_was_found_is_answered_or_refused(name: str, what: str, document: bytes) -> None:
    finding = judge(BY_NAME[name], document)
    assert finding is None, finding


def test_the_oracle_sees_what_it_is_there_for() -> None:
    def fails(error: Exception) -> Reader:
        def read(document: bytes) -> None:
            raise error

        return Reader("broken", "bytes", (b"",), read)

    for error in (KeyError("x"), RecursionError(), MemoryError(), AssertionError("no")):
        found = judge(fails(error), b"")
        assert found is not None and found.what.startswith(type(error).__name__)
    assert judge(fails(LoratoolsError("a line", file="x")), b"") is None


def test_most_variations_of_a_seed_get_past_its_envelope() -> None:
    """Else the campaign tries nothing but first checks: a share of them has to be answered, too."""
    rng, answered = random.Random(0), 0
    reader = BY_NAME["adapter keys"]
    for _ in range(60):
        try:
            reader.read(varied(reader.seeds[0], reader.kind, rng))
            answered += 1
        except LoratoolsError:
            continue
    assert answered > 3
