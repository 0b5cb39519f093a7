"""What the names in a torch pickle stand for: inert records in place of the classes and functions of torch.

The table is the allow-list: a name that is not in it is refused. Compare `torch._weights_only_unpickler`,
whose list holds real classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from loratools.checkpoints.claims import MAX_DIMENSIONS

_Record = TypeVar("_Record")


_MOST_ARGUMENTS = 16
"""Twice what any function in the table takes."""


class PickleError(Exception):
    """The pickle is broken, or asks for more than plain data; the message is part of a sentence."""


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A stored record by its key: `item_bytes` times `elements` bytes of `dtype` (`uint8` if untyped)."""

    key: str
    dtype: str
    elements: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A view into a stored record; offset and strides in elements of `dtype`."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A tensor of a kind that has no plain bytes."""

    what: str


@dataclass(frozen=True, slots=True)
class Inert:
    """A harmless value that no one here asks for (a device, a set, bytes)."""


@dataclass(frozen=True, slots=True)
class _Dtype:
    name: str


@dataclass(frozen=True, slots=True)
class StorageType:
    dtype: str


@dataclass(frozen=True, slots=True)
class Builder:
    name: str
    build: Callable[[tuple[Any, ...]], Any]

    def make(self, args: Any) -> Any:
        """The record of some arguments: few, since one long tuple could be given a million times."""
        if len(expect(args, tuple)) > _MOST_ARGUMENTS:
            raise PickleError(f"its pickle gives {len(args):,} arguments to {self.name}")
        return self.build(args)


def expect(value: Any, kind: type[_Record]) -> _Record:
    """`value`, which must be of exactly this kind."""
    if type(value) is not kind:
        raise PickleError(f"its pickle has {type(value).__name__} where {kind.__name__} is needed")
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, tuple) and len(value) > MAX_DIMENSIONS:
        raise PickleError(f"a tensor has {len(value):,} axes, above {MAX_DIMENSIONS}")
    if not isinstance(value, tuple) or any(type(size) is not int or size < 0 for size in value):
        raise PickleError("a tensor's shape or strides are no sizes")
    return value


def _view(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str | None) -> TensorRef:
    storage = expect(storage, StorageRef)
    (offset,) = _sizes((offset,))
    shape, strides = _sizes(shape), _sizes(strides)
    if len(shape) != len(strides):
        raise PickleError("a tensor has not as many strides as axes")
    return TensorRef(storage, dtype or storage.dtype, offset, shape, strides)


def _tensor(args: tuple[Any, ...]) -> TensorRef | Unreadable:
    """`_rebuild_tensor(storage, offset, shape, strides)`; v2 adds requires_grad, hooks and lazy bits."""
    storage, offset, shape, strides, *rest = args
    if len(rest) > 2 and rest[2]:
        return Unreadable("a lazily conjugated or negated tensor")
    return _view(storage, offset, shape, strides, None)


def _tensor_with_dtype(args: tuple[Any, ...]) -> TensorRef | Unreadable:
    """`_rebuild_tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype[, lazy bits])`."""
    storage, offset, shape, strides, _, _, dtype, *rest = args
    if rest and rest[0]:
        return Unreadable("a lazily conjugated or negated tensor")
    return _view(storage, offset, shape, strides, expect(dtype, _Dtype).name)


def _parameter(args: tuple[Any, ...]) -> TensorRef | Unreadable:
    tensor = args[0]
    return tensor if isinstance(tensor, Unreadable) else expect(tensor, TensorRef)


def _from_type(args: tuple[Any, ...]) -> Any:
    """`_rebuild_from_type_v2(function, type, arguments, state)`: a tensor or parameter with attributes."""
    function, _, arguments, _ = args
    return expect(function, Builder).make(arguments)


def _mapping(args: tuple[Any, ...]) -> dict[Any, Any]:
    """`OrderedDict()`, or of a list of pairs: used up by it, lest one list make a million dictionaries."""
    found: dict[Any, Any] = {}
    pairs = expect(args[0], list) if args else []
    for key, value in pairs:
        if plain_key(key) in found:
            raise PickleError(f"the key {key!r} stands twice")
        found[key] = value
    pairs.clear()
    return found


def _unreadable(what: str) -> Callable[[tuple[Any, ...]], Unreadable]:
    return lambda args: Unreadable(what)


def _inert(args: tuple[Any, ...]) -> Inert:
    return Inert()


def plain_key(key: Any) -> Any:
    """A dictionary's key: of a simple type, since the hash of nested tuples can overflow the stack."""
    if key is not None and type(key) not in (str, int, float, bool, bytes):
        raise PickleError("a dictionary's key is neither a string nor a number")
    return key


_BUILDERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _mapping,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_with_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_sparse_tensor": _unreadable("a sparse tensor"),
    "torch._utils._rebuild_sparse_csr_tensor": _unreadable("a sparse tensor"),
    "torch._utils._rebuild_nested_tensor": _unreadable("a nested tensor"),
    "torch._utils._rebuild_qtensor": _unreadable("a quantised tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("a tensor without data (meta)"),
    "torch._utils._rebuild_wrapper_subclass": _unreadable("a tensor of a class of its own"),
    "torch._utils._rebuild_device_tensor_from_numpy": _unreadable("a tensor of an unknown device"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _unreadable("a tensor of an unknown device"),
    "torch.serialization._get_layout": _inert,
    "torch.Size": lambda args: args[0] if args else (),
    "torch.device": _inert,
    "torch.Tensor": _inert,
    "torch.nn.parameter.Parameter": _inert,
    "collections.Counter": _inert,
    "_codecs.encode": _inert,
    "__builtin__.bytearray": _inert,
    "__builtin__.set": _inert,
    "__builtin__.complex": _inert,
    "builtins.bytearray": _inert,
    "builtins.set": _inert,
    "builtins.complex": _inert,
}
"""What may be called, and the record that comes of it."""

_STORAGES: dict[str, str] = {
    "torch.DoubleStorage": "float64", "torch.FloatStorage": "float32", "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16", "torch.LongStorage": "int64", "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16", "torch.CharStorage": "int8", "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool", "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128", "torch.QInt8Storage": "qint8",
    "torch.QUInt8Storage": "quint8", "torch.QInt32Storage": "qint32", "torch.storage.UntypedStorage": "uint8",
}  # fmt: skip

DTYPE_BYTES: dict[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1, "complex32": 4, "complex64": 8,
    "complex128": 16, "qint8": 1, "quint8": 1, "qint32": 4, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1, "float4_e2m1fn_x2": 1,
}  # fmt: skip
"""Bytes of one element of each dtype that a torch file may have, the ones that cannot be read included."""

_QUANTISERS = frozenset(
    f"torch.per_{kind}"
    for kind in (
        "tensor_affine",
        "tensor_symmetric",
        "channel_affine",
        "channel_symmetric",
        "channel_affine_float_qparams",
    )
)


def record_of(name: str) -> Any:
    """The record that stands for a name which the pickle would import.

    Raises:
        PickleError: the name is not in the table.
    """
    if name in _BUILDERS:
        return Builder(name, _BUILDERS[name])
    if name in _STORAGES:
        return StorageType(_STORAGES[name])
    if name.removeprefix("torch.") in DTYPE_BYTES:
        return _Dtype(name.removeprefix("torch."))
    if name in _QUANTISERS:
        return Inert()
    raise PickleError(f"loading it would run code, {name}")
