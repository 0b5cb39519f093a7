"""`Fields`: a config.json read field by field; what is missing or means nothing is refused by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from loratools.errors import LoratoolsError

LARGEST = 10**9
"""No measure of a model is larger: what is, was not meant."""

MOST = 10_000
"""Layers of a model, or experts of a layer, at most."""


class Fields:
    """The fields of one config. Each is asked for by all the names that it goes by."""

    def __init__(self, config: Mapping[str, Any], file: str | os.PathLike[str] | None = None) -> None:
        self.config = config
        self.file = file

    def integer(self, *names: str, default: int | None = None) -> int:
        """A positive integer; `default` where the config has none of the names, or null.

        Raises:
            LoratoolsError: there is none and no default, or it is no positive integer.
        """
        value = self.maybe_integer(*names)
        if value is None and default is None:
            raise LoratoolsError(f"the config has no {' or '.join(names)}", file=self.file)
        return value if value is not None else int(default or 0)

    def repeated(self, *names: str, default: int | None = None) -> int:
        """How often something is repeated, layers or experts: an integer, and none that takes forever.

        Raises:
            LoratoolsError: as `integer`, or more than a model can have.
        """
        value = self.integer(*names, default=default)
        if value > MOST:
            raise LoratoolsError(f"the config's {names[0]} is absurd: {value:,}", file=self.file)
        return value

    def numbers(self, name: str) -> frozenset[int]:
        """A list of integers; empty where the config has none.

        Raises:
            LoratoolsError: it is something else.
        """
        value = self.config.get(name) or ()
        if not isinstance(value, (list, tuple)) or not all(type(item) is int for item in value):
            raise LoratoolsError(f"the config's {name} is no list of numbers", file=self.file)
        return frozenset(value)

    def maybe_integer(self, *names: str) -> int | None:
        for name in names:
            value = self.config.get(name)
            if value is None:
                continue
            if type(value) is not int or not 0 <= value <= LARGEST:
                raise LoratoolsError(
                    f"the config's {name} is no count of anything: {str(value)[:40]!r}", file=self.file
                )
            return value
        return None

    def flag(self, *names: str, default: bool = False) -> bool:
        value = next((self.config[name] for name in names if self.config.get(name) is not None), default)
        if not isinstance(value, bool):
            raise LoratoolsError(f"the config's {names[0]} is neither true nor false", file=self.file)
        return value

    def text(self, name: str, default: str = "") -> str:
        value = self.config.get(name)
        return value if isinstance(value, str) else default

    def heads(self, hidden: int, *names: str) -> tuple[int, int]:
        """The number of heads, and the width of one where nothing else is said.

        Raises:
            LoratoolsError: the heads do not divide the hidden size, and no `head_dim` is given.
        """
        heads = self.integer(*names)
        if not heads or (hidden % heads and self.maybe_integer("head_dim") is None):
            raise LoratoolsError(
                f"the config's hidden size {hidden} is not divided by its {heads} heads", file=self.file
            )
        return heads, self.maybe_integer("head_dim") or hidden // heads
