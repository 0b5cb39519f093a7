"""What `report` says, as rows: methods with their formulas, training memory, the paper's figures, presets.

The names of the fields are the keys of `--json`. Bytes are integers, seconds floats, ratios are full
fine-tune over method (10000 means ten thousand times smaller).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Latency", "MemoryRow", "Method", "MethodRow", "ModelRow", "PaperFigure", "PresetRow", "Saving"]

Setting = int | float | str | bool | list[str]


class Method(str, Enum):
    """What is trained instead of all weights, by the names that `--json` uses."""

    FULL = "full"
    BITFIT = "bitfit"
    LORA = "lora"
    HOULSBY = "houlsby"
    BOTTLENECK = "bottleneck"
    PREFIX_EMBEDDING = "prefix-embedding"
    PREFIX_LAYER = "prefix-layer"
    PROMPT = "prompt"


class Latency(str, Enum):
    """What a method costs at inference, once whatever can be merged is merged."""

    NONE = "none"
    SERIAL_DEPTH = "serial depth"
    CONTEXT_POSITIONS = "context positions"


@dataclass(frozen=True, slots=True)
class ModelRow:
    """The model that all is compared with: what it is, where its numbers come from, and its sizes.

    `targets` are the kinds of matrices that LoRA adapts here, `targets_choice` says who chose them. `dtype`
    is what bytes are counted in. `feed_forward` and the others are None where the source does not tell.
    """

    model: str
    source: str
    model_type: str | None
    layers: int
    hidden: int
    heads: int | None
    key_value_heads: int | None
    feed_forward: int | None
    vocabulary: int | None
    positions: int | None
    experts: int | None
    tied: bool | None
    parameters: int
    bytes: int
    dtype: str
    matrices: int
    targets: list[str]
    targets_choice: str
    notes: list[str]


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One way to adapt the model, sized.

    `formula` is in the paper's symbols, `evaluation` the same with the numbers put in. `merges`: whether it
    can become part of the base's weights. `serial_layers` counts the layers that a token has to pass in
    addition, `context_positions` the positions that it takes from the context. `ratio_*` are the full
    fine-tune's over this one's, `per_checkpoint` how many fit where one checkpoint does, `seconds_to_move`
    the time over the link asked for. `paper` is what the paper prints for just these settings. `reference`
    is set where the row was measured on a file, and `note` says what else to know.
    """

    method: Method
    settings: dict[str, Setting]
    parameters: int
    bytes: int
    formula: str
    evaluation: str
    merges: bool
    latency: Latency
    serial_layers: int
    context_positions: int
    paper: str | None
    ratio_parameters: float | None
    ratio_bytes: float | None
    per_checkpoint: int | None
    seconds_to_move: float | None
    reference: str | None
    model: str | None
    dtype: str
    note: str | None


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """Bytes that training holds, by part, without activations, buffers and the framework's own.

    `trained` is how many parameters are. `precision` names the dtypes; `weights` are all weights, frozen ones
    included; gradients, Adam's two moments and master weights are those of what is trained.
    """

    method: Method
    settings: dict[str, Setting]
    trained: int
    precision: str
    weights: int
    gradients: int
    moments: int
    master: int
    total: int
    ratio_total: float


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """A figure as the paper prints it, beside what its formula gives at the settings it names.

    `value` is the formula's, in `unit` (None where there is no formula to evaluate); `follows` whether it
    rounds to what is printed, to all the digits printed. `note` names the difference.
    """

    printed: str
    where: str
    model: str
    settings: str
    formula: str
    value: float | None
    unit: str
    follows: bool
    note: str


@dataclass(frozen=True, slots=True)
class PresetRow:
    """A public architecture that `--preset` knows, and where its numbers were taken from."""

    preset: str
    title: str
    parameters: int
    layers: int
    hidden: int
    vocabulary: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Saving:
    """The answer in short: one LoRA beside the full fine-tune. `memory_*` are totals at `precision`."""

    model: str
    base_parameters: int
    base_bytes: int
    reference: str | None
    rank: int | None
    targets: list[str]
    targets_choice: str
    parameters: int
    bytes: int
    ratio_parameters: float
    ratio_bytes: float
    per_checkpoint: int
    dtype: str
    precision: str
    memory_full: int
    memory: int
    link: str | None
    base_seconds: float | None
    seconds: float | None
    paper_follows: int | None
    paper_figures: int | None
