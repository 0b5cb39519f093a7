"""`DeviceJob`: a job that can compute on a device; `Lease`: what it may use of one while it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from loratools.engine.device import Kind
from loratools.engine.payoff import Work

if TYPE_CHECKING:
    import torch

__all__ = ["DeviceJob", "Lease"]

Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True)
class Lease:
    """A device for the time of a job.

    `device` is torch's; `kind` is ours; `divisor` says how many times smaller than usual blocks are to be,
    since larger ones did not fit. What is enqueued (`up`, `down`, arithmetic) comes in order; on CUDA it has
    begun when a call returns and is done where a `mark` made after it has been waited for.
    """

    device: torch.device
    kind: Kind
    divisor: int = 1

    @property
    def _asynchronous(self) -> bool:
        return self.kind is Kind.CUDA

    def buffer(self, size: int) -> torch.Tensor:
        """(size,) uint8 on the host; pinned for CUDA, so that copies run beside everything else."""
        import torch

        return torch.empty(size, dtype=torch.uint8, pin_memory=self._asynchronous)

    def up(self, host: torch.Tensor) -> torch.Tensor:
        """A copy on the device; `host` may be changed once a mark made after this has been waited for."""
        return host.to(self.device, non_blocking=self._asynchronous)

    def down(self, values: torch.Tensor, host: torch.Tensor) -> None:
        """Copies into `host`, which holds the values once a mark made after this has been waited for."""
        host.copy_(values, non_blocking=self._asynchronous)

    def mark(self) -> Callable[[], None]:
        """What waits for all that was enqueued so far."""
        if not self._asynchronous:
            return _at_once
        import torch

        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return lambda: event.synchronize()


def _at_once() -> None:
    """Nothing is under way: copies returned when they were done."""


@runtime_checkable
class DeviceJob(Protocol[Result]):
    """A job that can also do its work on a device, with the same answer within the arithmetic's own bound."""

    def device_work(self, kind: Kind) -> Work | None:
        """What it would move and compute there; None where it has to run on the processor."""
        ...

    def run_on(self, lease: Lease, workspace: Path) -> Result:
        """As `run`, on a device. Being idempotent, it is run again where the device's memory is too small."""
        ...
