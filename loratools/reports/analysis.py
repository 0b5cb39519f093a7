"""What `analyze` found, as rows: similarity, amplification, spectra, where the change is, and overlap.

The names of the fields are the keys of `--json`. A figure that the data do not decide is None; `reason` then
says why, and bounds stand beside it where there are any.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Amplification",
    "Grid",
    "Movement",
    "Overlap",
    "Similarity",
    "SimilarityMean",
    "Spectrum",
    "TokenMovement",
]

Grid = tuple[tuple[float, ...], ...]
"""Rows i = 1 ... r1, columns j = 1 ... r2."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """phi(i, j) of one module's directions in two adapters (Hu et al. 2021, §7.2, equation 4).

    `side` is "A" (right-singular directions, in the input's space) or "B" (left-singular, in the output's);
    `directions` "factor" (of A and of B by themselves, as the paper takes them) or "product" (of B A).
    `dimension` is n, the space that the directions lie in: independent uniform directions have the
    expectation max(i, j) / n. `control` is the mean over random draws, `band` their simultaneous 99 % band.
    `layer` and `kind` are the module's place: `model.layers.3.self_attn.q_proj` is layer 3, kind `q_proj`.
    """

    module: str
    layer: int | None
    kind: str
    side: str
    first: str
    second: str
    directions: str
    dimension: int
    grid: Grid
    control: Grid
    band: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True, slots=True)
class SimilarityMean:
    """The mean of the grids of several modules, over the ranks that all of them have.

    `over` is "all", "kind" or "layer", `name` which of these; `control` is the mean of their controls.
    """

    over: str
    name: str
    modules: int
    side: str
    first: str
    second: str
    grid: Grid
    control: Grid


@dataclass(frozen=True, slots=True)
class Amplification:
    """Table 7 of the paper for one module and rank: ||U'WV||_F with U, V the top-r directions of the delta,
    of W and of a random matrix; `factor` is ||delta||_F / ||U'WV||_F of the delta's directions.

    `projected` has the keys `delta`, `weight` and `random`. A figure is None where it is not defined (rank r
    cuts a cluster of singular values, or the delta has fewer directions), and `reason` says so.
    `reference` is what the delta is of: the tuned checkpoint or an adapter.
    """

    module: str
    layer: int | None
    kind: str
    reference: str
    rank: int
    norm_W: float  # noqa: N815 (the key of --json)
    norm_delta: float
    projected: dict[str, float | None]
    factor: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The singular values of one module's delta: the leading ones, or all.

    `norm` is the delta's Frobenius norm, `smaller_side` min(m, n), `complete` whether all values are given.
    `energy_at_rank` is the share of the squared norm in the first r values, by r (as text, for JSON);
    `rank_at_energy` the least rank that keeps a share, by share ("0.5", "0.9", "0.99"). `effective_rank` is
    exp of the entropy of the singular values' shares (Roy and Vetterli 2007), `stable_rank`
    norm² / s_1² (Rudelson and Vershynin 2007). Where the values given do not decide a figure it is None and
    its entry in `bounds`, (low, high), tells what they do say: keys `effective_rank`, `noise_rank` and
    `rank_at_energy/0.9`.

    `energy_error` bounds, as a share of norm², how much the true values' squares sum up to beyond those of
    the values given, none of which lies above its true one by more than rounding: 0 where all were computed.

    `noise_floor` is the largest singular value that rounding to the grid the weights lie on explains (a
    99.9 % quantile over all modules together), `noise_rank` how many of the delta's stand above it, and
    `noise_note` what to know of the two: why they are None, or that the rounding grid decides. All three are
    None for an adapter alone.
    """

    module: str
    layer: int | None
    kind: str
    reference: str
    norm: float
    smaller_side: int
    complete: bool
    singular_values: tuple[float, ...]
    energy_error: float
    energy_at_rank: dict[str, float | None]
    rank_at_energy: dict[str, int | None]
    effective_rank: float | None
    stable_rank: float | None
    noise_floor: float | None
    noise_rank: int | None
    noise_note: str | None
    bounds: dict[str, tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Movement:
    """How far one tensor moved: Frobenius norms of the base's and of tuned - base, and their ratio.

    Every tensor that both checkpoints have, linear layers, norms, biases and embeddings alike; `relative` is
    None where the base's norm is zero.
    """

    module: str
    layer: int | None
    kind: str
    shape: tuple[int, ...]
    norm_base: float
    norm_delta: float
    relative: float | None


@dataclass(frozen=True, slots=True)
class TokenMovement:
    """How far one token's row of an embedding moved; `text` where a tokenizer lies beside the weights."""

    module: str
    index: int
    text: str | None
    norm: float
    relative: float | None


@dataclass(frozen=True, slots=True)
class Overlap:
    """One adapter beside a full fine-tune's delta, for one module.

    `held[side][i - 1]` is the share of the delta's top-i directions that lies in the adapter's subspace:
    ||P U^(i)||_F² / i, in [0, 1], side "A" (right) and "B" (left); None where i cuts a cluster of singular
    values, so that its directions are not defined. By rank r as text: `residual`
    ||delta - s·B_r A_r|| / ||delta|| of the adapter truncated to its best rank r, and `extracted` the least
    that any adapter of rank r can leave. `cosine` is <delta, s·B A> / (||delta|| ||s·B A||).
    """

    module: str
    layer: int | None
    kind: str
    reference: str
    rank: int
    held: dict[str, tuple[float | None, ...]]
    cosine: float | None
    residual: dict[str, float | None]
    extracted: dict[str, float | None]
