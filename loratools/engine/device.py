"""Devices: what `--device` names, and whether this machine has it.

torch, which takes a second or two to import, is imported only where a device was named or a driver was found.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from enum import Enum

from loratools.errors import LoratoolsError, UsageError

__all__ = ["AUTO", "ON_PROCESSOR", "Asked", "Device", "Kind", "cuda_devices", "cuda_seen_by_driver"]

AUTO = "auto"
_TO_DO_WITHOUT = "or run with --device cpu"


class Kind(str, Enum):
    """Kinds of devices: on one kind, with one version of the libraries, a run writes the same bytes."""

    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


@dataclass(frozen=True)
class Device:
    """One device: its kind, and its number among those of its kind."""

    kind: Kind
    index: int = 0

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.index}" if self.kind is Kind.CUDA else self.kind.value


@dataclass(frozen=True)
class Asked:
    """What `--device` was given: `kind` None is `auto`, `index` None every device of the kind."""

    kind: Kind | None
    index: int | None = None

    @classmethod
    def parse(cls, word: str) -> Asked:
        """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`. Raises UsageError for anything else."""
        if word == AUTO:
            return cls(None)
        name, colon, number = word.partition(":")
        counted = number.isascii() and number.isdigit() and name == Kind.CUDA.value
        if name not in {kind.value for kind in Kind} or (colon and not counted):
            raise UsageError(f"there is no device {word!r}", hint="say auto, cpu, cuda, cuda:N or mps")
        return cls(Kind(name), int(number) if colon else None)

    def __str__(self) -> str:
        if self.kind is None:
            return AUTO
        return self.kind.value if self.index is None else f"{self.kind.value}:{self.index}"

    def devices(self) -> tuple[Device, ...]:
        """Those that were named; none for the CPU and for `auto`, which has to know the work.

        Raises:
            LoratoolsError: this machine, or its torch, has no such device.
        """
        if self.kind is Kind.MPS:
            return _mps()
        if self.kind is not Kind.CUDA:
            return ()
        found = _cuda()
        if self.index is None:
            return found
        if self.index >= len(found):
            there = "only cuda:0" if len(found) == 1 else f"cuda:0 to {found[-1]}"
            raise LoratoolsError(
                f"there is no {self}: this machine has {there}", hint=f"name one of these, {_TO_DO_WITHOUT}"
            )
        return (found[self.index],)


ON_PROCESSOR = Asked(Kind.CPU)


def cuda_devices() -> tuple[Device, ...]:
    """The CUDA devices that torch can use; none where it has none. Imports torch."""
    import torch

    if not torch.cuda.is_available():
        return ()
    return tuple(Device(Kind.CUDA, index) for index in range(torch.cuda.device_count()))


def _cuda() -> tuple[Device, ...]:
    import torch

    found = cuda_devices()
    if found:
        return found
    built: bool = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
    if not built:
        raise LoratoolsError(
            f"torch {torch.__version__} was built without CUDA",
            hint=f"install a build of torch for CUDA, {_TO_DO_WITHOUT}",
        )
    raise LoratoolsError(
        "torch finds no CUDA device",
        hint=f"see what nvidia-smi and CUDA_VISIBLE_DEVICES say, {_TO_DO_WITHOUT}",
    )


def _mps() -> tuple[Device, ...]:
    import torch

    if torch.backends.mps.is_available():
        return (Device(Kind.MPS),)
    built = torch.backends.mps.is_built()
    missing = "this Mac has no device for Metal" if built else "torch was built without Metal (mps)"
    raise LoratoolsError(
        missing, hint=f"mps is there on Macs with Apple silicon; name another device, {_TO_DO_WITHOUT}"
    )


def cuda_seen_by_driver() -> int:
    """How many devices NVIDIA's driver counts, CUDA_VISIBLE_DEVICES minded; 0 where there is no driver.

    The driver's own library is asked, which makes no context: where there is none, that takes no time.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value
