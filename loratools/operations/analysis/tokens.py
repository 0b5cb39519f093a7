"""The text of tokens, from the `tokenizer.json` that lies beside a checkpoint; no tokenizer is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import exists
from loratools.checkpoints.jsonfile import read_json
from loratools.errors import LoratoolsError

__all__ = ["read_texts", "texts_beside"]

_FILE = "tokenizer.json"
_BYTES = 200_000_000
"""Cap on the file: vocabularies of 262,144 tokens with their merges take 35 MB."""

_FALLBACK = re.compile(r"^<0x([0-9A-F]{2})>$")
"""A single byte, in vocabularies of SentencePiece."""


def texts_beside(folders: Iterable[Path]) -> tuple[dict[int, str], list[str]]:
    """The tokens' texts by index, from the first folder that has a tokenizer; {} where none has.

    The second is a warning where one is there but cannot be read.
    """
    for folder in folders:
        path = folder / _FILE
        with disk_errors(path, "open"):
            here = exists(path)
        if not here:
            continue
        try:
            return read_texts(path), []
        except LoratoolsError as error:
            return {}, [f"tokens are shown without their text: {path}: {error.message}"]
    return {}, []


def read_texts(path: Path) -> dict[int, str]:
    """The text of each token by its index, as a reader knows it: bytes decoded, spaces as spaces.

    Raises:
        LoratoolsError: the file cannot be read, or holds no vocabulary.
    """
    data = read_json(path, cap=_BYTES)
    model = data.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, Mapping):
        pairs = [(index, token) for token, index in vocabulary.items()]
    elif isinstance(vocabulary, list):  # Unigram: (token, score) in the order of indices
        pairs = [
            (index, entry[0]) for index, entry in enumerate(vocabulary) if isinstance(entry, list) and entry
        ]
    else:
        raise LoratoolsError("it holds no vocabulary", file=path)
    decode = _decoder(data)
    texts = {
        index: decode(token) for index, token in pairs if isinstance(index, int) and isinstance(token, str)
    }
    more = data.get("added_tokens")
    for added in more if isinstance(more, list) else ():
        if isinstance(added, Mapping) and isinstance(added.get("id"), int):
            texts[added["id"]] = str(added.get("content"))
    return texts


def _decoder(data: Mapping[str, Any]) -> Callable[[str], str]:
    """Told from the decoder, or from what splits text before the vocabulary is asked."""
    kinds = {kind for part in ("decoder", "pre_tokenizer") for kind in _kinds(data.get(part))}
    return _from_byte_symbols if "ByteLevel" in kinds else _from_pieces


def _kinds(part: Any) -> Iterable[str]:
    """The types of a part and of those nested in it."""
    if isinstance(part, Mapping):
        yield str(part.get("type"))
        for nested in part.values():
            yield from _kinds(nested)
    elif isinstance(part, list):
        for nested in part:
            yield from _kinds(nested)


def _byte_symbols() -> dict[str, int]:
    """GPT-2's symbols for bytes: printable ones stand for themselves, the others for those from U+0100 on
    (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    symbols = {chr(byte): byte for byte in printable}
    return symbols | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_SYMBOLS = _byte_symbols()


def _from_byte_symbols(token: str) -> str:
    if not all(symbol in _SYMBOLS for symbol in token):
        return token
    return _text(bytes(_SYMBOLS[symbol] for symbol in token))


def _from_pieces(token: str) -> str:
    byte = _FALLBACK.match(token)
    if byte is not None:
        return _text(bytes([int(byte[1], 16)]))
    return token.replace("\u2581", " ")


def _text(data: bytes) -> str:
    """UTF-8; bytes that are only part of a character as their escapes."""
    return data.decode("utf-8", errors="backslashreplace")
