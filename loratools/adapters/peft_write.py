"""Writing a PEFT adapter: adapter_config.json with the stable fields, and one adapter_model.safetensors.

The same adapter gives the same bytes: keys are sorted, and nothing of clock, path or machine is written.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from loratools.adapters.peft_matching import ROOT, rank_patterns, target_names
from loratools.checkpoints.files import pieces, write_text
from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.parts import PartWriter, SafetensorsLayout
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import TensorSpec

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "AdapterTensor",
    "LoraConfig",
    "PartFile",
    "Stored",
    "StoredRows",
    "Values",
    "key_of_a",
    "key_of_b",
    "key_of_bias",
    "key_of_parameter",
    "key_of_rows",
    "write_config",
    "write_weights",
]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

NO_TARGETS = "dummy-target-modules"
"""PEFT's own word (0.15 and newer) for an adapter that only saves modules and targets none."""

_PIECE = 4 * 2**20


class Content(Protocol):
    """Where a tensor's bytes come from, piece by piece, row-major."""

    def pieces(self) -> Iterator[bytes | bytearray | memoryview]: ...


@dataclass(frozen=True)
class Stored:
    """All of a tensor of a checkpoint, byte for byte."""

    spec: TensorSpec

    def pieces(self) -> Iterator[memoryview]:
        step = max(1, min(self.spec.rows, _PIECE // max(1, self.spec.row_bytes)))
        buffer = bytearray(max(1, step * self.spec.row_bytes))
        with TensorReader(self.spec) as reader:
            for first in range(0, self.spec.rows, step):
                yield reader.read(first, min(step, self.spec.rows - first), into=buffer).buffer


@dataclass(frozen=True)
class StoredRows:
    """Some rows of a tensor of a checkpoint, byte for byte."""

    spec: TensorSpec
    rows: tuple[int, ...]

    def pieces(self) -> Iterator[memoryview]:
        buffer = bytearray(self.spec.row_bytes)
        with TensorReader(self.spec) as reader:
            for row in self.rows:
                yield reader.read(row, 1, into=buffer).buffer


@dataclass(frozen=True)
class PartFile:
    """A file that holds just these bytes."""

    path: Path

    def pieces(self) -> Iterator[bytes]:
        yield from pieces(self.path)


@dataclass(frozen=True)
class Values:
    """Bytes in memory, for what is small."""

    data: bytes

    def pieces(self) -> Iterator[bytes]:
        yield self.data


@dataclass(frozen=True)
class AdapterTensor:
    """A tensor to be written: its key, dtype and shape, and where its bytes come from."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    content: Content = field(repr=False)


def key_of_a(module: str) -> str:
    return f"{ROOT}{module}.lora_A.weight"


def key_of_b(module: str) -> str:
    return f"{ROOT}{module}.lora_B.weight"


def key_of_bias(module: str) -> str:
    return f"{ROOT}{module}.lora_B.bias"


def key_of_parameter(parameter: str) -> str:
    """The key of a parameter of a module in `modules_to_save`."""
    return f"{ROOT}{parameter}"


def key_of_rows(module: str) -> str:
    """The key of an embedding's rows: despite its name, the rows themselves."""
    return f"{ROOT}{module}.token_adapter.trainable_tokens_delta"


@dataclass(frozen=True)
class LoraConfig:
    """What adapter_config.json is made of. alpha equals the rank everywhere, so that scaling is 1.

    `ranks` are those of the targeted modules, `saved` the modules saved whole, `rows` the rows of embeddings
    that are replaced, `modules` all modules of the model, among which names must mean just those.
    """

    base_name: str
    revision: str | None
    task: str | None
    ranks: Mapping[str, int]
    saved: Collection[str]
    rows: Mapping[str, tuple[int, ...]]
    modules: Collection[str]
    fan_in_fan_out: bool = False
    lora_bias: bool = False
    ensure_weight_tying: bool = False

    def to_json(self) -> dict[str, Any]:
        """The stable fields of PEFT's `LoraConfig`; the newer ones only where they say something."""
        rank, patterns = rank_patterns(self.ranks)
        config: dict[str, Any] = {
            "alpha_pattern": dict(patterns),
            "auto_mapping": None,
            "base_model_name_or_path": self.base_name,
            "bias": "none",
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": rank,
            "lora_dropout": 0.0,
            "modules_to_save": sorted(self.saved) or None,
            "peft_type": "LORA",
            "r": rank,
            "rank_pattern": dict(patterns),
            "revision": self.revision,
            "target_modules": target_names(self.ranks, self.modules) if self.ranks else NO_TARGETS,
            "task_type": self.task,
            "use_dora": False,
            "use_rslora": False,
        }
        if self.lora_bias:
            config["lora_bias"] = True
        if self.ensure_weight_tying:
            config["ensure_weight_tying"] = True
        if self.rows:
            config["trainable_token_indices"] = {name: list(rows) for name, rows in self.rows.items()}
        return config


def write_config(folder: Path, config: LoraConfig) -> None:
    text = json.dumps(config.to_json(), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / CONFIG, text)


def write_weights(folder: Path, tensors: Iterable[AdapterTensor]) -> dict[str, str]:
    """Writes adapter_model.safetensors; returns the BLAKE3 block root of each key.

    Raises:
        LoratoolsError: a source cannot be read, or the disk refuses something.
    """
    path = folder / WEIGHTS
    by_key = {tensor.key: tensor for tensor in tensors}
    layout = SafetensorsLayout.of((tensor.key, tensor.dtype, tensor.shape) for tensor in by_key.values())
    layout.create(path)
    roots: dict[str, str] = {}
    with PartWriter(path) as writer:
        for key in sorted(by_key):
            offset, hasher = layout.offset(key), TensorHasher()
            for piece in by_key[key].content.pieces():
                writer.write(offset, piece)
                hasher.update(piece)
                offset += memoryview(piece).nbytes
            roots[key] = hasher.root()
            if offset != layout.offset(key) + layout.places[key].bytes:
                raise ValueError(f"{key} was laid out for {layout.places[key].bytes} bytes, not these")
    return roots
