"""The workers of a cluster as a run finds them: their threads, and whether each is fit to take jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from loratools.engine.errand import SAME_VERSIONS, Errand, why_not
from loratools.engine.setup import Setup
from loratools.errors import LoratoolsError

if TYPE_CHECKING:
    from distributed import Client

WAIT_SECONDS = 30.0
"""How long a run waits for a first worker."""

_PAUSE_SECONDS = 0.25


@dataclass(frozen=True)
class Crew:
    """The workers that a scheduler has now: their threads by address, and those whose resources do."""

    threads: Mapping[str, int]
    able: tuple[str, ...]

    @classmethod
    def of(cls, client: Client, demand: Mapping[str, float]) -> Crew:
        """Asks the scheduler. `demand`: what a worker has to have of each resource."""
        known: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
        able = [
            address
            for address, facts in known.items()
            if all(facts["resources"].get(what, 0) >= much for what, much in demand.items())
        ]
        return cls({address: int(facts["nthreads"]) for address, facts in known.items()}, tuple(able))

    @property
    def all_threads(self) -> int:
        return sum(self.threads[address] for address in self.able)


def assemble(client: Client, demand: Mapping[str, float], *, stopped: Callable[[], bool]) -> Crew:
    """The crew, once there is one; `stopped` ends the wait.

    Raises:
        LoratoolsError: no worker came, or none has what jobs demand.
    """
    until = time.monotonic() + WAIT_SECONDS
    while True:
        crew = Crew.of(client, demand)
        if crew.able or stopped():
            return crew
        if crew.threads:
            wanted = " ".join(f"{what}={much:g}" for what, much in demand.items())
            raise LoratoolsError(
                f"no worker of the cluster offers {wanted}", hint=f"start workers with --resources {wanted}"
            )
        if time.monotonic() > until:
            raise LoratoolsError(
                f"the cluster has no workers, and none came within {WAIT_SECONDS:.0f} s",
                hint="start some and run it again",
            )
        time.sleep(_PAUSE_SECONDS)


def inspected(client: Client, crew: Crew, errand: Errand) -> Errand:
    """The errand with the processor that the crew has. Each worker is asked whether it is fit for it.

    Raises:
        LoratoolsError: one is not, or cannot even be asked.
    """
    kinds = _told(client, crew, Setup.here)
    first = next((found.processor for found in kinds.values()), errand.setup.processor)
    settled = replace(errand, setup=replace(errand.setup, processor=first))
    for why in _told(client, crew, why_not, settled).values():
        if why is not None:
            raise why
    return settled


def _told(client: Client, crew: Crew, ask: Callable[..., Any], *words: Any) -> dict[str, Any]:
    """What each able worker answers; one that went away meanwhile is left out."""
    answers = client.run(ask, *words, workers=list(crew.able), on_error="return")
    for address, answer in answers.items():
        if isinstance(answer, (ImportError, AttributeError)):
            raise LoratoolsError(
                f"worker {address} cannot run this version of loratools: {answer}", hint=SAME_VERSIONS
            )
    gone = [address for address, answer in answers.items() if isinstance(answer, OSError)]
    return {address: answer for address, answer in answers.items() if address not in gone}
