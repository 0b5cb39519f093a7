"""The adapter that several become: its tensors and their places, its config, card and provenance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from loratools.adapters.card import Card
from loratools.adapters.peft_keys import Key, written_key
from loratools.adapters.peft_keys import Part as KeyPart
from loratools.adapters.peft_rewrite import Setting, combined_fields, rewritten_config
from loratools.checkpoints.parts import Entry, SafetensorsLayout, stored_bytes
from loratools.checkpoints.provenance import InputRecord, Provenance
from loratools.checkpoints.spec import TensorSpec
from loratools.operations.analysis.skinny import adapter_labels
from loratools.operations.arithmetic.carried import Shared, token_rows
from loratools.operations.arithmetic.carry_job import CarryJob, SumJob
from loratools.operations.arithmetic.combine_job import Combined, CombineJob, Part
from loratools.operations.arithmetic.factored import FactoredAdapter, FactorPair
from loratools.operations.arithmetic.side_texts import SideTexts
from loratools.operations.arithmetic.stored_factors import Slot, Written, slots_of
from loratools.operations.combine_options import CombineMethod, CombineOptions
from loratools.operations.rewrite_record import input_record
from loratools.operations.sidefiles import tokenizer_files
from loratools.reports.report import CombinedModule, CombinedPart, plain

__all__ = ["CombinedAdapter", "total_distance"]

_ROOT = "0" * 64
"""A hash, as wide as any."""

_WIDEST = (-1.2345678901234567e-100, 1.7182818284590452e-200, -1.2345678901234567e-100)
"""A norm and a share that take as many digits as any; the quotient of the first two does as well."""


@dataclass(frozen=True)
class CombinedAdapter:
    """What becomes of adapters: the parts of each module with factors, its rank, and what goes along."""

    adapters: Sequence[FactoredAdapter]
    weights: Sequence[float]
    options: CombineOptions
    parts: Mapping[str, tuple[Part, ...]]
    ranks: Mapping[str, int]
    shared: Sequence[Shared]
    version: str

    def jobs(self) -> tuple[CombineJob, ...]:
        """One a module, in the order of names."""
        slots = self._slots
        return tuple(
            CombineJob(
                name,
                parts,
                self.options,
                self.ranks[name],
                *(slots[key] for key in parts[0].pair.written_keys()),
            )
            for name, parts in self.parts.items()
        )

    def carry_jobs(self) -> tuple[CarryJob | SumJob, ...]:
        """One a tensor that is no factor."""
        slots = self._slots
        biases = (SumJob(tuple(_biases_of(parts)), slots[key]) for key, parts in self._biases().items())
        return (*biases, *(CarryJob(one.holders, slots[one.key]) for one in self.shared))

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The tensors of the output: key, dtype and shape."""
        factors = [entry for name in self.parts for entry in self._factors(name)]
        biases = [(key, _wide(parts), (parts[0].pair.shape[0],)) for key, parts in self._biases().items()]
        shared = [(one.key, one.holders[0][1].dtype, one.holders[0][1].shape) for one in self.shared]
        return (*factors, *biases, *shared)

    @cached_property
    def layout(self) -> SafetensorsLayout:
        return SafetensorsLayout.of(self.entries)

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for _, _, shape in self.entries)

    def texts(self, found: Mapping[str, Combined], roots: Written) -> SideTexts:
        """Config, card and provenance. `found`: what the jobs told, by module."""
        labels = adapter_labels(len(self.adapters))
        records = [
            input_record(label, one.opened, roots.of(place, one.opened))
            for place, (label, one) in enumerate(zip(labels, self.adapters, strict=True))
        ]
        base = self.base_record()
        return SideTexts(
            config=self._config(),
            card=self._card(found),
            provenance=Provenance(
                command="combine",
                version=self.version,
                options={**self.options.plain(), "weights": list(self.weights)},
                inputs=(*((base,) if base else ()), *records),
                tensors=dict(sorted(roots.written.items())),
                modules=tuple(plain(self.row(name, found[name])) for name in self.parts),
            ),
            tokenizer=self.tokenizer(),
        )

    @cached_property
    def most_in_texts(self) -> int:
        """At most the bytes of all but the weights: only the digits of figures are not known beforehand."""
        widest = Combined(*_WIDEST, Written({}, {}))
        read = {(place, key): _ROOT for place, one in enumerate(self.adapters) for key in one.opened}
        written = Written(read, {key: _ROOT for key, _, _ in self.entries})
        return self.texts(dict.fromkeys(self.parts, widest), written).bytes

    def base_record(self) -> InputRecord | None:
        """What the adapters know of their base; None where they know nothing, or not the same."""
        known = [one.base_record for one in self.adapters]
        first = known[0]
        same = all(one is not None and first is not None and one.tensors == first.tensors for one in known)
        return first if same else None

    def tokenizer(self) -> dict[str, Path]:
        """Of the first adapter that carries one."""
        carried = (tokenizer_files(one.opened.folder) for one in self.adapters)
        return next((files for files in carried if files), {})

    def row(self, name: str, found: Combined) -> CombinedModule:
        parts, factors = self.parts[name], self._factors(name)
        return CombinedModule(
            name=name,
            shape=parts[0].pair.shape,
            dtype=factors[0][1],
            rank_before=sum(part.pair.rank for part in parts),
            rank=self.ranks[name],
            alpha=float(self.ranks[name]),
            norm=found.norm,
            residual=found.residual,
            truncation=found.truncation,
            parts=tuple(CombinedPart(part.place + 1, part.pair.rank, part.factor) for part in parts),
            parameters=sum(math.prod(shape) for _, _, shape in factors),
            bytes=sum(stored_bytes(dtype, shape) for _, dtype, shape in factors),
        )

    @cached_property
    def _slots(self) -> Mapping[str, Slot]:
        return slots_of(self.layout, self.entries)

    def _biases(self) -> dict[str, tuple[Part, ...]]:
        """The biases beside B, by key: of every module, as PEFT looks for one in each, where any has one."""
        if not any(part.pair.bias for parts in self.parts.values() for part in parts):
            return {}
        return {written_key(Key("", name, KeyPart.B_BIAS)): parts for name, parts in self.parts.items()}

    def _factors(self, name: str) -> tuple[Entry, Entry]:
        parts = self.parts[name]
        A_key, B_key = parts[0].pair.written_keys()
        A_shape, B_shape = parts[0].pair.shapes(self.ranks[name])
        return (A_key, self._dtype(parts, "A"), A_shape), (B_key, self._dtype(parts, "B"), B_shape)

    def _dtype(self, parts: Sequence[Part], side: str) -> str:
        """Of a stored factor: that of the parts where it holds the values exactly, else float32 or wider.

        `cat` puts B beside B as they are, and A times its factor, which is exact for powers of two but for
        float16's narrow range.
        """
        specs = [part.pair.A if side == "A" else part.pair.B for part in parts]
        same = len({spec.dtype for spec in specs}) == 1
        narrow = specs[0].dtype == "float16"
        as_it_is = side == "B" or all(_keeps_bits(part.factor, narrow=narrow) for part in parts)
        if self.options.method is CombineMethod.CAT and same and as_it_is:
            return specs[0].dtype
        return _wide(parts)

    def _config(self) -> dict[str, Any]:
        configs = [one.opened.config for one in self.adapters]
        fields = combined_fields(configs, tuple(self.parts), token_rows(self.adapters))
        settings = {name: Setting(rank, float(rank)) for name, rank in self.ranks.items()}
        return rewritten_config(fields, settings)

    def _card(self, found: Mapping[str, Combined]) -> Card:
        ranks = sorted(set(self.ranks.values()))
        config = self._config()
        named = [
            f"{one.name} times {weight:g}" for one, weight in zip(self.adapters, self.weights, strict=True)
        ]
        distance = total_distance(found)
        return Card(
            base_name=str(config["base_model_name_or_path"] or "its base"),
            task=config["task_type"],
            architecture=None,
            vocabulary=None,
            facts=[
                ("method", self.options.method.value),
                ("modules", str(len(self.parts))),
                ("rank", f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else str(ranks[0])),
                ("distance from the weighted sum", "-" if distance is None else f"{distance:.3g}"),
                ("bytes of weights", f"{self.layout.size:,}"),
            ],
            notes=[],
            how=(
                f"Combined by `loratools combine` from {', '.join(named)}.",
                "`loratools.json` holds each module's ranks and distance from the weighted sum of the parts,",
                "and the hashes of the adapters that it was made from.",
            ),
        )


def total_distance(found: Mapping[str, Combined]) -> float | None:
    """The distance of all modules from the weighted sum, as a share of its norm, if that is not 0."""
    norm = math.sqrt(sum(one.norm**2 for one in found.values()))
    missing = math.sqrt(sum(one.missing**2 for one in found.values()))
    return missing / norm if norm else None


def _wide(parts: Sequence[Part]) -> str:
    specs = [spec for part in parts for spec in part.pair.specs]
    return "float64" if any(spec.dtype == "float64" for spec in specs) else "float32"


def _biases_of(parts: Sequence[Part]) -> Iterator[tuple[int, TensorSpec, float]]:
    """The biases beside B that the parts have."""
    for part in parts:
        if part.pair.bias is not None:
            yield part.place, part.pair.bias, part.factor


def _of(slots: Mapping[str, Slot], pair: FactorPair) -> tuple[Slot, Slot]:
    A, B = pair.written_keys()
    return slots[A], slots[B]


def _keeps_bits(factor: float, *, narrow: bool) -> bool:
    """Whether numbers times it have the same digits: a power of two, or 1 where exponents have no room."""
    return abs(factor) == 1.0 if narrow else math.frexp(abs(factor))[0] == 0.5
