"""The pickle inside a torch zip, read as data: tensors become descriptions; nothing is imported or called.

A pickle is a program. This machine knows the opcodes that `torch.load(weights_only=True)` knows, and a table
of names in place of an import: what stands in it is turned into inert records, anything else is refused by
name. It is narrower than torch's own `weights_only` loader (no real classes, no attributes set, no torch),
needs no particular release of torch, and tells which record of the file a tensor looks into, which not every
release of torch does.
"""

from __future__ import annotations

import struct
from typing import Any

from loratools.checkpoints.torchrecords import (
    Builder,
    Inert,
    PickleError,
    StorageRef,
    StorageType,
    expect,
    plain_key,
    record_of,
)


def unpickle(data: bytes) -> Any:
    """The value that a torch pickle describes: dicts, lists, numbers, strings, and the records above.

    Raises:
        PickleError: the pickle is broken or needs a name that is not in the table.
    """
    try:
        return _Machine(data).run()
    except (
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        struct.error,
        RecursionError,
        OverflowError,
    ) as error:
        raise PickleError("its pickle is broken") from error


MOST_STEPS = 4_000_000
"""Opcodes at most: a state dict of 100,000 tensors takes 3 million, and none makes more than 100 bytes."""

_MARK = object()


class _Machine:
    """Runs a pickle of protocol 2: a stack, a memo and one method for each opcode."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        steps = {code: getattr(self, name) for code, name in _OPCODES.items()}
        constants = _CONSTANTS
        for _ in range(MOST_STEPS):
            code = self._data[self._at]
            self._at += 1
            if code in steps:
                steps[code]()
            elif code in constants:
                self._stack.append(constants[code])
            elif code == ord("."):
                return self._stack.pop()
            else:
                raise PickleError(f"its pickle uses the opcode {bytes([code])!r}, which no torch file needs")
        raise PickleError(f"its pickle has more than {MOST_STEPS:,} steps")

    def _take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise PickleError("its pickle ends early")
        self._at += size
        return piece

    def _line(self) -> str:
        end = self._data.index(b"\n", self._at)
        line = self._data[self._at : end].decode("ascii")
        self._at = end + 1
        return line

    def _number(self, format: str) -> Any:
        return struct.unpack(format, self._take(struct.calcsize(format)))[0]

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise PickleError("its pickle is broken")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _proto(self) -> None:
        if self._number("<B") != 2:
            raise PickleError("its pickle is not of protocol 2, the one that torch writes")

    def _global(self) -> None:
        module, name = self._line(), self._line()
        self._stack.append(record_of(f"{module}.{name}"))

    def _mark(self) -> None:
        self._stack.append(_MARK)

    def _empty_dict(self) -> None:
        self._stack.append({})

    def _empty_list(self) -> None:
        self._stack.append([])

    def _binint(self) -> None:
        self._stack.append(self._number("<i"))

    def _binint1(self) -> None:
        self._stack.append(self._number("<B"))

    def _binint2(self) -> None:
        self._stack.append(self._number("<H"))

    def _long1(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def _binfloat(self) -> None:
        self._stack.append(self._number(">d"))

    def _binunicode(self) -> None:
        self._stack.append(self._take(self._number("<I")).decode("utf-8"))

    def _short_binstring(self) -> None:
        self._stack.append(self._take(self._number("<B")).decode("latin-1"))

    def _binget(self) -> None:
        self._stack.append(self._memo[self._number("<B")])

    def _long_binget(self) -> None:
        self._stack.append(self._memo[self._number("<I")])

    def _binput(self) -> None:
        self._memo[self._number("<B")] = self._stack[-1]

    def _long_binput(self) -> None:
        self._memo[self._number("<I")] = self._stack[-1]

    def _tuple(self) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _last(self, count: int) -> None:
        if len(self._stack) < count:
            raise PickleError("its pickle is broken")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _tuple1(self) -> None:
        self._last(1)

    def _tuple2(self) -> None:
        self._last(2)

    def _tuple3(self) -> None:
        self._last(3)

    def _append(self) -> None:
        item = self._stack.pop()
        expect(self._stack[-1], list).append(item)

    def _appends(self) -> None:
        items = self._since_mark()
        expect(self._stack[-1], list).extend(items)

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        """Adds keys and values, in turn, to the dictionary on top; a key that is there already is refused."""
        found = self._stack[-1]
        if isinstance(found, Inert):
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            if plain_key(key) in expect(found, dict):
                raise PickleError(f"the key {key!r} stands twice")
            found[key] = value

    def _reduce(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._stack.append(expect(function, Builder).make(args))

    def _build(self) -> None:
        """An object's attributes (`_metadata` of a state dict): dropped. A tensor's are refused."""
        self._stack.pop()
        if not isinstance(self._stack[-1], (dict, Inert)):
            raise PickleError("it changes a tensor after it was made")

    def _binpersid(self) -> None:
        """A storage: ("storage", type, key, device, elements)."""
        word, storage, key, _, elements = expect(self._stack.pop(), tuple)
        if word != "storage" or not isinstance(key, str) or type(elements) is not int or elements < 0:
            raise PickleError("it names a storage in an unknown way")
        self._stack.append(StorageRef(key, expect(storage, StorageType).dtype, elements))


_CONSTANTS: dict[int, Any] = {ord("N"): None, 0x88: True, 0x89: False, ord(")"): ()}

_OPCODES: dict[int, str] = {
    0x80: "_proto", ord("c"): "_global", ord("("): "_mark", ord("}"): "_empty_dict", ord("]"): "_empty_list",
    ord("J"): "_binint", ord("K"): "_binint1", ord("M"): "_binint2", 0x8A: "_long1", ord("G"): "_binfloat",
    ord("X"): "_binunicode", ord("U"): "_short_binstring", ord("h"): "_binget", ord("j"): "_long_binget",
    ord("q"): "_binput", ord("r"): "_long_binput", ord("t"): "_tuple", 0x85: "_tuple1", 0x86: "_tuple2",
    0x87: "_tuple3", ord("a"): "_append", ord("e"): "_appends", ord("s"): "_setitem", ord("u"): "_setitems",
    ord("R"): "_reduce", ord("b"): "_build", ord("Q"): "_binpersid",
}  # fmt: skip
"""Opcodes by their byte; the names are pickletools'."""
