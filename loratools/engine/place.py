"""`Place`: a device that takes jobs, two at a time, and gives up one that does not fit to the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from threading import Condition
from typing import TypeVar

from loratools.engine.device import Device, Kind
from loratools.engine.lease import DeviceJob, Lease
from loratools.errors import LoratoolsError

__all__ = ["AT_ONCE", "Place", "exact_products"]

Result = TypeVar("Result")

AT_ONCE = 2
"""Jobs on one device at a time: while one waits for its figures or for a disk, the other computes."""

_SMALLER = 8
"""How many times smaller blocks are where a job is tried again."""


class Place:
    """One device and the jobs on it.

    A job that runs out of the device's memory is tried again when no other job is there, in smaller blocks;
    where that does not fit either, None is handed back, and it is the caller's to run it on the processor.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._turn = Condition()
        self._here = 0
        self._closed = 0

    @property
    def kind(self) -> Kind:
        return self.device.kind

    def lease(self, divisor: int) -> Lease:
        import torch

        return Lease(torch.device(str(self.device)), self.kind, divisor)

    def run(self, job: DeviceJob[Result], workspace: Path) -> tuple[Result] | None:
        """The job's result in a tuple of one; None where it does not fit.

        Raises:
            LoratoolsError: the job's own; or the device itself fails.
        """
        for divisor, alone in ((1, False), (_SMALLER, True)):
            done = self._tried(job, workspace, divisor, alone=alone)
            if done is not None:
                return done
            self.empty()  # when the failed job's frames, and what they hold, are gone
        return None

    def empty(self) -> None:
        """Gives memory that torch keeps at hand back to the device."""
        import torch

        if self.kind is Kind.CUDA:
            torch.cuda.empty_cache()
        elif self.kind is Kind.MPS:
            torch.mps.empty_cache()

    def working(self) -> AbstractContextManager[object]:
        """The device made the current one of this thread, on a stream of the job's own."""
        import torch

        stack = ExitStack()
        if self.kind is Kind.CUDA:
            stack.enter_context(torch.cuda.device(self.device.index))
            stack.enter_context(torch.cuda.stream(torch.cuda.Stream()))  # type: ignore[no-untyped-call]
        return stack

    def _tried(
        self, job: DeviceJob[Result], workspace: Path, divisor: int, *, alone: bool
    ) -> tuple[Result] | None:
        import torch

        with self._room(alone=alone):
            try:
                with self.working(), torch.no_grad():
                    return (job.run_on(self.lease(divisor), workspace),)
            except RuntimeError as error:
                if _out_of_memory(error):
                    return None
                if isinstance(error, torch.AcceleratorError):
                    raise LoratoolsError(
                        f"{self.device} failed: {str(error).splitlines()[0]}", hint="run with --device cpu"
                    ) from error
                raise

    @contextmanager
    def _room(self, *, alone: bool) -> Iterator[None]:
        """A room beside another job, or the whole place, which nobody enters any more until it was had."""
        with self._turn:
            self._closed += alone
            self._turn.wait_for(
                lambda: self._here == 0 if alone else self._here < AT_ONCE and not self._closed
            )
            self._here += 1
        try:
            yield
        finally:
            with self._turn:
                self._here -= 1
                self._closed -= alone
                self._turn.notify_all()


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether it says so: torch's own error, that of Metal, or one of CUDA's libraries, which have none."""
    import torch

    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "_STATUS_ALLOC_FAILED" in text
    )


@contextmanager
def exact_products() -> Iterator[None]:
    """Float32 products in float32: no TF32, whatever the process has set."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
