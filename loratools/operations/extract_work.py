"""What the jobs of `extract` do: they read, compare and hash tensors, and factor deltas, with torch."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from loratools.checkpoints.files import write_in_one_step
from loratools.engine.lease import Lease
from loratools.errors import LoratoolsError
from loratools.linalg.factors import fold
from loratools.linalg.noise_floor import NoiseFloor
from loratools.linalg.norms import distance_squared
from loratools.linalg.ranks import breakeven_rank
from loratools.linalg.rounding_torch import round_once
from loratools.linalg.svd import Factorization, truncated_svd
from loratools.operations.delta import Difference, compare, difference, hash_tensor, unfactorable
from loratools.operations.extract_above_noise import held_against_noise, kept_rank
from loratools.operations.extract_job import CompareJob, FactorFacts, FactorJob, Factors, HashJob, ReadFacts
from loratools.operations.pairing import Side

__all__ = ["compared", "factored", "factored_on", "hashed"]


def hashed(job: HashJob) -> ReadFacts:
    """The hash of a tensor that is compared with nothing. Raises LoratoolsError as `delta.hash_tensor`."""
    return ReadFacts(0, (), {(job.side, job.spec.name): hash_tensor(job.spec, finite=job.parameter)})


def compared(job: CompareJob) -> ReadFacts:
    """Which rows of two tensors differ, and both hashes. Raises LoratoolsError as `delta.compare`."""
    (one_side, one), (other_side, other) = job.first, job.second
    found = compare(one, other)
    roots = {(one_side, one.name): found.base_root, (other_side, other.name): found.tuned_root}
    return ReadFacts(found.changed, found.changed_rows, roots)


def factored(job: FactorJob, workspace: Path) -> FactorFacts:
    """What became of a module's delta; its factors are left in the workspace.

    Raises:
        LoratoolsError: a side that cannot be read or holds values that are not finite, a delta that cannot be
            factored, factors that do not fit into the dtype they are stored in.
    """
    started = time.perf_counter()
    read = difference(job.base, job.tuned, keep=job.cut.above_noise, reuse=True)
    return _facts(job, read, started, workspace)


def factored_on(lease: Lease, job: FactorJob, workspace: Path) -> FactorFacts:
    """As `factored`, on a device. Raises as it does."""
    from loratools.operations.delta_on_device import difference_on

    started = time.perf_counter()
    read = difference_on(lease, job.base, job.tuned, keep=job.cut.above_noise)
    return _facts(job, read, started, workspace)


def _facts(job: FactorJob, read: Difference, started: float, workspace: Path) -> FactorFacts:
    """What is known of the delta, wherever it is; `started`, by `time.perf_counter`."""
    roots = {
        (Side.BASE, job.base.name): read.base_root,
        (Side.TUNED, job.tuned.name): read.tuned_root,
    }
    facts = FactorFacts(0.0, read.base_norm, None, roots)
    if not read.only_rounded:
        facts = _factor(job, read, facts, workspace)
    return replace(facts, seconds=time.perf_counter() - started)


def _factor(job: FactorJob, read: Difference, facts: FactorFacts, workspace: Path) -> FactorFacts:
    """With the delta's norm and its factors: none where it is zero, all noise, or better saved whole."""
    try:
        found, noise = _cut_off(job, read)
    except ValueError as error:
        raise unfactorable(job.tuned, error) from error
    facts = replace(facts, norm=math.sqrt(found.norm_squared), noise=noise)
    rank = found.S.shape[0]
    if facts.drowned or rank == 0 or (job.whole_allowed and rank > breakeven_rank(*job.sides)):
        return facts
    return replace(facts, factors=_store(job, _oriented(job, read.delta), found, workspace))


def _cut_off(job: FactorJob, read: Difference) -> tuple[Factorization, NoiseFloor | None]:
    """The triplets to keep, and the noise that they were held against if that chose them."""
    delta = _oriented(job, read.delta)
    if not job.cut.above_noise:
        return _decompose(job, delta, job.cut.rank, read.norm_squared), None
    assert read.base is not None and read.tuned is not None
    noise, looked_at = held_against_noise(
        _oriented(job, read.base),
        _oriented(job, read.tuned),
        lambda rank: _decompose(job, delta, rank, read.norm_squared).on_host(),
        limit=_limit(job),
        probability=job.noise_probability,
        seed=job.seed,
    )
    rank = kept_rank(noise)
    return (looked_at.leading(rank) if rank else looked_at), noise


def _oriented(job: FactorJob, stored: torch.Tensor) -> torch.Tensor:
    """(out, in)."""
    return stored.T if job.transposed else stored


def _limit(job: FactorJob) -> int:
    """The largest rank that is of any use: one more than factors are worth tells that they are not."""
    limit = min(job.cut.max_rank or min(job.sides), min(job.sides))
    return min(limit, breakeven_rank(*job.sides) + 1) if job.whole_allowed else limit


def _decompose(
    job: FactorJob, delta: torch.Tensor, rank: int | None, norm_squared: float | None
) -> Factorization:
    return truncated_svd(
        delta,
        rank=rank,
        energy=job.cut.energy,
        max_rank=_limit(job),
        tolerance=job.cut.tolerance,
        method=job.cut.method,
        seed=job.seed,
        failure_probability=job.failure_probability,
        norm_squared=norm_squared,
    )


def _store(job: FactorJob, delta: torch.Tensor, found: Factorization, workspace: Path) -> Factors:
    found = found.on_host()
    A, B = fold(found.U.numpy(), found.S.numpy(), found.Vh.numpy(), job.cut.fold)
    dtype: torch.dtype = getattr(torch, job.cut.save_dtype.value)
    certificate = found.certificate
    exact = [torch.from_numpy(factor) for factor in (A, B)]  # (r, in), (out, r)
    stored = [round_once(factor, dtype) for factor in exact]
    if not all(bool(factor.isfinite().all()) and bool(factor.any()) for factor in stored):
        raise LoratoolsError(
            f"the factors do not fit into {job.cut.save_dtype.value}",
            tensor=job.tuned.name,
            hint="store them with --save-dtype float32",
        )
    names = job.leaves
    for name, factor in zip(names, stored, strict=True):
        write_in_one_step(workspace / name, [factor.contiguous().view(torch.uint8).numpy().data])
    norm = math.sqrt(found.norm_squared)
    about = certificate.residual
    residual = _residual(delta, stored[0], stored[1], about=about) / norm
    same = dtype is delta.dtype
    before = residual if same else _residual(delta, exact[0], exact[1], about=about) / norm
    return Factors(
        rank=A.shape[0],
        a_file=names[0],
        b_file=names[1],
        method=certificate.method,
        energy=max(0.0, 1.0 - residual**2),
        residual=residual,
        storage_error=residual - before,
        excess=certificate.excess,
        failure_probability=certificate.failure_probability,
    )


def _residual(delta: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, *, about: float) -> float:
    """||delta - B A||_F of the factors as stored, entry by entry, squares summed in float64.

    Entries are float64, except where the delta is float32 and the residual, `about` so large beside the
    delta, stands far above the rounding of a float32 product (6e-8 of it, four digits further down).
    """
    single = delta.dtype is torch.float32 and about > 1e-2
    dtype = torch.float32 if single else torch.float64
    if delta.device.type == "mps" and not single:
        delta = delta.cpu()  # which has float64
    A, B = (factor.to(dtype).to(delta.device) for factor in (lora_A, lora_B))
    return math.sqrt(distance_squared(delta, B, A))
