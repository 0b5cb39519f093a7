"""The way to a Dask scheduler: a quiet client, and what can go wrong with a cluster, in one line each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from loratools.errors import LoratoolsError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["CONNECT_SECONDS", "connected", "in_one_line"]

CONNECT_SECONDS = 10.0

_LOGGERS = ("distributed", "distributed.client")
"""Those that Dask gives a level of their own."""

_SILENT = (OSError, asyncio.TimeoutError)
"""What comes of nobody answering. The latter is an OSError, too, but in Python 3.10."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[Client]:
    """A client of the scheduler, quiet: what it has to say is said in our words.

    Raises:
        OSError: nobody answers there.
        LoratoolsError: somebody did, and does no longer.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    from distributed import Client  # sets their levels

    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that versions of Dask differ, say: ours are what counts
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False, name="loratools")
        try:
            yield client
        except (CancelledError, *_SILENT) as error:  # Dask's own are kinds of these
            raise LoratoolsError(f"the connection to the scheduler was lost ({address})") from error
        finally:
            with contextlib.suppress(Exception):
                client.close(timeout=2)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def in_one_line(error: BaseException, address: str) -> BaseException:
    """The error as a user needs it, where it is the cluster's."""
    from distributed.scheduler import KilledWorker, NoValidWorkerError

    if isinstance(error, LoratoolsError):
        return error
    if isinstance(error, KilledWorker):
        return LoratoolsError(
            f"{error.allowed_failures + 1} workers died one after another on the same job",
            hint="their logs say why; too little memory is likely: give each fewer threads, or more memory",
        )
    if isinstance(error, NoValidWorkerError):
        return LoratoolsError("no worker of the cluster may take these jobs", hint="see its --resources")
    if isinstance(error, _SILENT):
        return LoratoolsError(
            f"no Dask scheduler answers at {address}",
            hint="start one with `dask scheduler`, or mend the address",
        )
    return error
