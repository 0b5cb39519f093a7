"""Variations of documents: of bytes, of JSON trees and of pickles, each a function of a seed alone."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

__all__ = ["varied"]

_NUMBERS = (
    *(0, 1, -1, 2, 7, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63, 2**64, -(2**63)),
    *(10**30, 10**400, 0.5, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf")),
)
_TEXTS = (
    *("", "a", "0", "8", "true", "../x", "/etc/passwd", "a/../b", "..\\x", ".", "..", "\0", "\x1b[2J", "\n"),
    *(
        "\u202e",
        "\ud800",
        "\U0001f600",
        "[bold]x[/bold]",
        "%s{0}",
        "nan",
        "auto",
        "LORA",
        "F32",
        "BF16",
        "F4",
    ),
    *("weight", "model", "lm_head", "(a+)+$", ".*.*.*", "a.b.c", "base_model.model.", "lora_A", "0" * 64),
    *("a" * 300, "\xe9" * 50, "model.safetensors", "float32", "interval", "copied", "whole", "BF16"),
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    {"": {}},
    [0],
    ["a"],
    {"a": 1},
    *_NUMBERS,
    *_TEXTS,
)
_OPCODES = bytes(ord(code) for code in "c(}]JKMGXUhjqrtaesuRbQN).0PIF") + b"\x80\x85\x86\x87\x88\x89\x8a"
_GLOBALS = (
    *("torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_tensor_v3", "collections\nOrderedDict"),
    *("torch\nFloatStorage", "torch\nfloat32", "torch\nSize", "torch._tensor\n_rebuild_from_type_v2"),
    *("torch._utils\n_rebuild_parameter", "os\nsystem", "torch.storage\nUntypedStorage", "torch\ndevice"),
)


def varied(document: bytes, kind: str, rng: random.Random) -> bytes:
    """One variation of a document: a few changes that fit its kind; now and then of its bare bytes."""
    change = _CHANGES.get(kind, _bytes) if rng.random() < 0.85 else _bytes
    return change(document, rng)


def _bytes(document: bytes, rng: random.Random) -> bytes:
    data = bytearray(document)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(7)
        if how == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif how == 1 and data:
            data[at % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif how == 2:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif how == 3:
            del data[at : at + rng.randrange(1, 17)]
        elif how == 4:
            number = rng.choice(_NUMBERS)
            if isinstance(number, int):
                data[at : at + 8] = struct.pack("<Q", number % 2**64)
        elif how == 5:
            other = rng.randrange(len(data) + 1)
            data[at:at] = data[other : other + rng.randrange(1, 65)]
        else:
            data[at:at] = rng.choice(_TEXTS).encode("utf-8", "surrogatepass")
    return bytes(data)


def _tree(document: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(document)
    except (ValueError, RecursionError):
        return _bytes(document, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        value = _changed(value, rng)
    told = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.05 and ":" in told:  # a key twice
        at = told.index(":")
        told = told[:at] + ": 0, " + told[told.index('"') : at] + told[at:]
    return told.encode("utf-8", "surrogatepass")


def _changed(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """The tree with one node changed, chosen by going down at random."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8 and depth < 50:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        how = rng.randrange(10)
        if how == 0:
            copy = dict(value) if isinstance(value, dict) else list(value)
            del copy[key]
            return copy
        if how == 1 and isinstance(value, dict):
            return {(_text(name, rng) if name == key else name): one for name, one in value.items()}
        if how == 2:
            added = rng.choice(_VALUES)
            return {**value, rng.choice(_TEXTS): added} if isinstance(value, dict) else [*value, added]
        if how == 3 and isinstance(value, list):
            return value * rng.choice((2, 3, 40))
        changed = _changed(value[key], rng, depth + 1)
        copy = dict(value) if isinstance(value, dict) else list(value)
        copy[key] = changed
        return copy
    if isinstance(value, str) and rng.random() < 0.4:
        return _text(value, rng)
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice(
            (value + 1, value - 1, -value, value * 2, value**2 % 10**6, float(value % 10**9), str(value))
        )
    return rng.choice((*_VALUES, [value], {"a": value}))


def _text(value: str, rng: random.Random) -> str:
    at = rng.randrange(len(value) + 1)
    return rng.choice(
        (value[:at] + rng.choice(_TEXTS) + value[at:], value[:at], value[at:], value * 2, rng.choice(_TEXTS))
    )


def _pickle(document: bytes, rng: random.Random) -> bytes:
    data = bytearray(document)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at = rng.randrange(2, max(3, len(data)))
        how = rng.randrange(6)
        if how == 0:
            data[at:at] = bytes([rng.choice(_OPCODES)])
        elif how == 1:
            data[at : at + 1] = bytes([rng.choice(_OPCODES)])
        elif how == 2:
            data[at:at] = b"c" + rng.choice(_GLOBALS).encode() + b"\n"
        elif how == 3:
            number = rng.choice(_NUMBERS)
            size = number if isinstance(number, int) else 3
            told = size.to_bytes((size.bit_length() + 8) // 8, "little", signed=True)[:255]
            data[at:at] = b"\x8a" + bytes([len(told)]) + told
        elif how == 4:
            data[at:at] = rng.choice(
                (b"q\0", b"h\0", b"q\1", b"h\1", b"(", b"\x85", b"t", b"R", b"N", b")R", b"s")
            )
        else:
            data = bytearray(_bytes(bytes(data), rng))
    return bytes(data)


_CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {"json": _tree, "pickle": _pickle}
