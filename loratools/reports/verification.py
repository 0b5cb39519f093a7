"""The rows of `verify`: what was checked, how far weights are apart, and what models say to a text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Check", "Distance", "ModelOutputs", "ModuleDistance", "OutputKind", "Outputs", "Verified"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: `ok` is True where it holds, False where it does not, and None where that
    cannot be told. What is wrong has a row each, with its `file` and `tensor` where it lies in one."""

    reference: str
    check: str
    ok: bool | None
    detail: str
    file: str | None = None
    tensor: str | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """One reference: what it is, and the hash of its tensors' names, dtypes, shapes and values; None where it
    could not be read."""

    reference: str
    kind: str | None
    format: str | None
    tensors: int
    bytes: int
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class ModuleDistance:
    """One tensor of the tuned model: Frobenius norms of tuned - base and of tuned - (base + adapter), and
    their ratio; None where tuned is base. `kind` says what the adapter does to it (`lora`, `replace`, ...);
    None for nothing."""

    name: str
    shape: tuple[int, ...]
    kind: str | None
    distance_base: float
    distance_adapted: float
    remaining: float | None


@dataclass(frozen=True, slots=True)
class Distance:
    """The same over all tensors; `moved` of the `tensors` differ between base and tuned, and of `farther` the
    adapter makes the distance larger."""

    tensors: int
    moved: int
    farther: int
    distance_base: float
    distance_adapted: float
    remaining: float | None


class OutputKind(str, Enum):
    """What a model's outputs are compared by."""

    CAUSAL = "next token"
    """Distributions over the next token."""
    HIDDEN = "hidden states"
    """Last hidden states, of models that are no causal language models."""


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """One model on the text. `loss` is the mean cross entropy in nats per token; `kl` the mean divergence
    KL(tuned || model) in nats per token; `distance` the mean 1 - cosine between its last hidden states and
    tuned's; `agreement` the share of tokens whose most likely successor is tuned's, or the mean cosine."""

    model: str
    loss: float | None
    kl: float | None
    distance: float | None
    agreement: float


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs on a text, of base, base + adapter and tuned, in this order. `tokens` were compared, in windows
    of `window`; where vocabularies differ, over the tokens that both models have."""

    kind: OutputKind
    text: str
    tokens: int
    window: int
    models: tuple[ModelOutputs, ModelOutputs, ModelOutputs]
