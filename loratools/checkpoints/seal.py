"""The seal of a provenance: the hash of the very bytes that carry it, its own digits taken as zeros.

A provenance holds the hashes of everything else that was written, so it is the one thing that nothing else
vouches for. What carries it is `loratools.json`, or the first bytes of a safetensors file, to the end of its
header. A seal tells damage, not forgery: whoever changes the file on purpose can seal it again.
"""

from __future__ import annotations

from loratools.checkpoints.hashing import root_of

KEY = "seal"

BLANK = "0" * 64
"""What stands in the seal's place while the seal is computed."""


def sealed(data: bytes) -> bytes:
    """`data`, which holds a blank seal, with its seal in the place of it."""
    return _with(data, BLANK, root_of(data))


def holds(data: bytes, seal: str) -> bool:
    """Whether `data` is what it was when it was sealed; `seal` is the one that was read from it."""
    return root_of(_with(data, seal, BLANK)) == seal


_BESIDE = f'\n  "{KEY}": "%s"'
_IN_HEADER = f'\\"{KEY}\\":\\"%s\\"'
"""How a seal stands in a file of its own, and in a header, whose JSON holds the record as a string. The first
cannot stand inside of a string, which has no line breaks; the second could, as part of a tensor's odd name:
it is then replaced there too, on writing as on reading."""


def _with(data: bytes, old: str, new: str) -> bytes:
    """`data` with another seal. A header comes after its length, which is no brace: a multiple of 8."""
    form = _BESIDE if data.startswith(b"{") else _IN_HEADER
    return data.replace((form % old).encode(), (form % new).encode())
