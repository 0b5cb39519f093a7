"""`--rank 4 8`: every way to write a list of ranks, and every way to get it wrong."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from loratools.cli import options
from loratools.cli.ranks import RankedVerb, gathered, ranks_of, ranks_option
from loratools.errors import UsageError


@click.command("analyze", cls=RankedVerb)
@click.argument("references", nargs=-1)
@ranks_option("Ranks.")
@click.option("--seed", type=int, default=0)
@options.talks
@click.pass_obj
def verb(
    invocation: options.Invocation, references: tuple[str, ...], ranks: tuple[int, ...], seed: int
) -> None:
    click.echo(repr((references, ranks, seed, invocation.as_json)))


LINES: dict[str, tuple[str, tuple[tuple[str, ...], tuple[int, ...], int, bool]]] = {
    "none": ("", ((), (), 0, False)),
    "no rank": ("a b --json", (("a", "b"), (), 0, True)),
    "one": ("--rank 4", ((), (4,), 0, False)),
    "a list": ("--rank 4 8", ((), (4, 8), 0, False)),
    "a long list": ("--rank 1 2 4 8 16", ((), (1, 2, 4, 8, 16), 0, False)),
    "equal ranks": ("--rank 8 8", ((), (8, 8), 0, False)),
    "falling ranks": ("--rank 64 8", ((), (64, 8), 0, False)),
    "commas": ("--rank 4,8", ((), (4, 8), 0, False)),
    "commas and a list": ("--rank 4,8 16", ((), (4, 8, 16), 0, False)),
    "equals": ("--rank=4", ((), (4,), 0, False)),
    "equals and commas": ("--rank=4,8", ((), (4, 8), 0, False)),
    "equals and a list": ("--rank=4 8", ((), (4, 8), 0, False)),
    "repeated": ("--rank 4 --rank 8", ((), (4, 8), 0, False)),
    "repeated lists": ("--rank 4 8 --rank=16,32 --rank 64", ((), (4, 8, 16, 32, 64), 0, False)),
    "a reference after": ("--rank 4 8 ref", (("ref",), (4, 8), 0, False)),
    "a reference before": ("ref --rank 4 8 --json", (("ref",), (4, 8), 0, True)),
    "references around": ("a --rank 4 8 b c", (("a", "b", "c"), (4, 8), 0, False)),
    "an option after": ("--rank 4 8 --seed 3", ((), (4, 8), 3, False)),
    "the value of another option": ("--seed 3 --rank 4", ((), (4,), 3, False)),
    "an integer behind another option": ("--rank 4 --seed 3 8", (("8",), (4,), 3, False)),
    "an integer reference before": ("8 --rank 4", (("8",), (4,), 0, False)),
    "an integer reference as a path": ("--rank 4 ./8", (("./8",), (4,), 0, False)),
    "an integer after a reference": ("--rank 4 ref 8", (("ref", "8"), (4,), 0, False)),
    "a separator": ("--rank 4 8 -- 16 --rank", (("16", "--rank"), (4, 8), 0, False)),
    "all behind a separator": ("-- --rank 4", (("--rank", "4"), (), 0, False)),
    "a weighted adapter": ("--rank 4 ref=8", (("ref=8",), (4,), 0, False)),
    "a short flag": ("--rank 4 -v 8", (("8",), (4,), 0, False)),
    "leading zeros": ("--rank 08", ((), (8,), 0, False)),
}


@pytest.mark.parametrize(("line", "read"), LINES.values(), ids=LINES)
def test_a_line_is_read(line: str, read: object) -> None:
    result = CliRunner().invoke(verb, line.split())
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{read!r}\n"


WRONG = {
    "nothing": ("--rank", "names no rank"),
    "an option": ("--rank --json", "names no rank"),
    "a separator": ("--rank -- 8", "names no rank"),
    "an empty word": ("--rank=", "names no rank"),
    "another --rank": ("--rank --rank 4", "names no rank"),
    "zero": ("--rank 0", "0 is less than 1"),
    "zero among others": ("--rank 4 0 8", "0 is less than 1"),
    "negative": ("--rank -4", "-4 is less than 1"),
    "negative later": ("--rank 4 -8", "-8 is less than 1"),
    "negative with equals": ("--rank=-4", "-4 is less than 1"),
    "a word": ("--rank many", "'many' is none"),
    "a reference": ("--rank ./adapter 4", "'./adapter' is none"),
    "a fraction": ("--rank 4.5", "'4.5' is none"),
    "a sign": ("--rank +4", "'+4' is none"),
    "other digits": ("--rank ٤", "is none"),
    "two commas": ("--rank 4,,8", "'4,,8' is none"),
    "a comma at the end": ("--rank 4,", "'4,' is none"),
    "too long": (f"--rank {'9' * 5000}", "larger than any matrix"),
}


@pytest.mark.parametrize(("line", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_list_is_refused(line: str, says: str) -> None:
    result = CliRunner().invoke(verb, line.split())
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
    assert says in str(result.exception)
    assert "such as --rank 4 8" in str(result.exception)
    assert len(str(result.exception)) < 300


@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6)
)
def test_however_it_is_written_it_is_the_same_list(ranks: list[int], commas: list[bool]) -> None:
    words = ["--rank", str(ranks[0])]
    for rank, comma in zip(ranks[1:], commas, strict=False):
        words[-1:] = [f"{words[-1]},{rank}"] if comma else [words[-1], str(rank)]
    (word,) = gathered(words)
    assert ranks_of(word.removeprefix("--rank=")) == tuple(ranks)


@given(st.lists(st.sampled_from(["a", "--json", "4", "--", "./8", "--seed=3"])))
def test_a_line_without_the_flag_is_left_alone(words: list[str]) -> None:
    assert gathered(words) == words
