"""A text as models are given it: windows of tokens, read and tokenised piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import reading
from loratools.errors import LoratoolsError

if TYPE_CHECKING:
    import torch

__all__ = ["batches", "documents", "lines", "windows"]

PIECE_CHARACTERS = 2**20
"""A longer document is cut at a line's end, so that memory does not follow the text."""

IGNORED = -100
"""What stands for no token among targets, as in torch's `cross_entropy`."""

Item = TypeVar("Item")


def documents(text: Path) -> Iterator[str]:
    """The documents of a text file: what form feeds separate; most have one.

    Raises:
        LoratoolsError: the file cannot be read, or is not UTF-8.
    """
    held: list[str] = []
    size = 0
    for line in _read_lines(text):
        *ended, rest = line.split("\f")
        for part in ended:
            yield "".join([*held, part])
            held, size = [], 0
        held.append(rest)
        size += len(rest)
        if size >= PIECE_CHARACTERS:
            yield "".join(held)
            held, size = [], 0
    if size:
        yield "".join(held)


def lines(text: Path) -> Iterator[str]:
    """The lines of a text file that are not blank. Raises as `documents` does."""
    return (line.strip() for line in _read_lines(text) if line.strip())


def windows(texts: Iterable[str], tokenizer: Any, length: int) -> Iterator[tuple[list[int], list[int]]]:
    """(tokens, their successors), `length` at a time: every token but the first is predicted once, from those
    before it in its window. Documents follow one another, each with the end that the tokenizer knows."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    held: list[int] = []
    for one in texts:
        held += tokenizer(one, add_special_tokens=False)["input_ids"] + end
        while len(held) > length:
            yield held[:length], held[1 : length + 1]
            del held[:length]
    if len(held) > 1:
        yield held[:-1], held[1:]


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items, so many at a time."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    """Rows of different lengths as one (rows, longest) tensor."""
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


def _read_lines(text: Path) -> Iterator[str]:
    with disk_errors(text, "read"):
        try:
            with TextIOWrapper(reading(text), encoding="utf-8", newline="") as file:
                while line := file.readline(PIECE_CHARACTERS):
                    yield line
        except UnicodeDecodeError as error:
            raise LoratoolsError("a text that is not UTF-8", file=text, hint="convert it first") from error
