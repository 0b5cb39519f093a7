"""An adapter at other ranks: its tensors and their places, its config, card and provenance, and its size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from loratools.adapters.card import Card
from loratools.adapters.peft_keys import Key, Part, written_key
from loratools.adapters.peft_rewrite import (
    Setting,
    kept_fields,
    rewritten_config,
    targeting,
    without_targeting,
)
from loratools.checkpoints.parts import Entry, SafetensorsLayout, stored_bytes
from loratools.checkpoints.provenance import Provenance
from loratools.checkpoints.spec import TensorSpec
from loratools.operations.arithmetic.carry_job import CarryJob, SumJob
from loratools.operations.arithmetic.factored import FactoredAdapter, FactorPair
from loratools.operations.arithmetic.resize_job import Resized, ResizeJob
from loratools.operations.arithmetic.side_texts import SideTexts
from loratools.operations.arithmetic.stored_factors import Written, slots_of
from loratools.operations.resize_options import ResizeOptions
from loratools.operations.rewrite_record import input_record, widest_roots
from loratools.operations.sidefiles import tokenizer_files
from loratools.reports.report import ResizedModule, plain

__all__ = ["ResizedAdapter", "total_residual"]

_WIDEST = -1.23456789e-300
"""A figure that takes as many characters as any can."""

_ROOT = "0" * 64

HOW = (
    "Resized by `loratools resize`: each module's update, truncated to its leading singular directions,",
    "which are exact: they come from the factors themselves. `loratools.json` holds each module's ranks and",
    "residual, and the hashes of the adapter that it was made from.",
)

_LEFT_OUT = "{} modules got no factors: the budget keeps more energy in others"


@dataclass(frozen=True)
class ResizedAdapter:
    """What becomes of an adapter when its modules get these ranks; rank 0 leaves a module out."""

    adapter: FactoredAdapter
    options: ResizeOptions
    ranks: Mapping[str, int]
    version: str

    def jobs(self) -> tuple[ResizeJob, ...]:
        """One a pair, in the order of names."""
        slots = slots_of(self.layout, self.entries)
        return tuple(
            ResizeJob(pair, self.ranks[name], *(slots.get(key) for key in pair.written_keys()))
            for name, pair in self.adapter.pairs.items()
        )

    def carry_jobs(self) -> tuple[CarryJob | SumJob, ...]:
        """One a tensor that is no factor."""
        slots = slots_of(self.layout, self.entries)
        carried = ((key, one.spec, 1.0) for key, one in self.adapter.carried.items())
        return tuple(
            CarryJob(((0, spec),), slots[key]) if factor == 1.0 else SumJob(((0, spec, factor),), slots[key])
            for key, spec, factor in (*self._beside(), *carried)
        )

    def kept(self, pair: FactorPair) -> bool:
        """Whether a pair stays as it is, bit by bit."""
        return self.ranks[pair.module] == pair.rank

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The tensors of the output: key, dtype and shape."""
        pairs = [entry for pair in self._present() for entry in self._factors(pair)]
        beside = [(key, spec.dtype, spec.shape) for key, spec, _ in self._beside()]
        carried = [(key, one.spec.dtype, one.spec.shape) for key, one in self.adapter.carried.items()]
        return (*pairs, *beside, *carried)

    @cached_property
    def layout(self) -> SafetensorsLayout:
        return SafetensorsLayout.of(self.entries)

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for _, _, shape in self.entries)

    def texts(self, rows: Sequence[ResizedModule], residual: float, roots: Written) -> SideTexts:
        """Config, card and provenance, with the rows of the modules and the residual of all together."""
        opened = self.adapter.opened
        base, records = self.adapter.base_record, (input_record("adapter", opened, roots.of(0, opened)),)
        return SideTexts(
            config=self._config(),
            card=self._card(residual),
            provenance=Provenance(
                command="resize",
                version=self.version,
                options=self.options.plain(),
                inputs=(*((base,) if base else ()), *records),
                tensors=dict(sorted(roots.written.items())),
                modules=tuple(plain(row) for row in rows),
            ),
            tokenizer=tokenizer_files(self.adapter.opened.folder),
        )

    def most_bytes(self) -> int:
        """What all files of the output weigh at most, before the figures in their texts are known."""
        read = {(0, key): root for key, root in widest_roots(self.adapter.opened).items()}
        roots = Written(read, dict.fromkeys((key for key, _, _ in self.entries), _ROOT))
        widest = Resized(_WIDEST, _WIDEST, roots)
        rows = [
            replace(self.row(pair, widest), residual=_WIDEST, energy=_WIDEST)
            for pair in self.adapter.pairs.values()
        ]
        return self.layout.size + self.texts(rows, _WIDEST, roots).bytes

    def row(self, pair: FactorPair, found: Resized) -> ResizedModule:
        rank = self.ranks[pair.module]
        factors = self._factors(pair) if rank else ()
        return ResizedModule(
            name=pair.module,
            shape=pair.shape,
            dtype=pair.A.dtype,
            rank_before=pair.rank,
            rank=rank,
            alpha=self._setting(pair).alpha,
            norm=found.norm,
            energy=max(0.0, 1.0 - found.residual**2),
            residual=found.residual,
            parameters=sum(math.prod(shape) for _, _, shape in factors),
            bytes=sum(stored_bytes(dtype, shape) for _, dtype, shape in factors),
        )

    def _present(self) -> Iterator[FactorPair]:
        return (pair for name, pair in self.adapter.pairs.items() if self.ranks[name])

    def _factors(self, pair: FactorPair) -> tuple[Entry, Entry]:
        A_key, B_key = pair.written_keys()
        A_shape, B_shape = pair.shapes(self.ranks[pair.module])
        return (A_key, pair.A.dtype, A_shape), (B_key, pair.B.dtype, B_shape)

    def _beside(self) -> Iterator[tuple[str, TensorSpec, float]]:
        """Biases and magnitudes that belong to factors: key, tensor, and what it is to be multiplied by."""
        for pair in self._present():
            if pair.bias is not None:
                factor = 1.0 if self.kept(pair) else pair.scaling
                yield written_key(Key("", pair.module, Part.B_BIAS)), pair.bias, factor
            if pair.magnitude is not None:
                yield written_key(Key("", pair.module, Part.MAGNITUDE)), pair.magnitude, 1.0

    def _setting(self, pair: FactorPair) -> Setting:
        rank = self.ranks[pair.module]
        return Setting(rank, pair.alpha if self.kept(pair) else float(rank))

    def _config(self) -> dict[str, object]:
        fields = kept_fields(self.adapter.opened.config)
        left_out = [name for name, rank in self.ranks.items() if not rank]
        if left_out:
            present = [pair.module for pair in self._present()]
            fields = without_targeting(fields) | targeting(present, left_out)
        return rewritten_config(fields, {pair.module: self._setting(pair) for pair in self._present()})

    def _card(self, residual: float) -> Card:
        ranks = sorted({rank for rank in self.ranks.values() if rank})
        before = sorted({pair.rank for pair in self.adapter.pairs.values()})
        config = self.adapter.config
        left_out = sum(not rank for rank in self.ranks.values())
        facts = [
            ("modules", str(len(self.ranks) - left_out)),
            ("rank", f"{_span(ranks)}, before {_span(before)}"),
            ("residual", f"{residual:.4g}"),
            ("bytes of weights", f"{self.layout.size:,}"),
        ]
        return Card(
            base_name=config.base_name or "its base",
            task=config.task_type,
            architecture=None,
            vocabulary=None,
            facts=facts,
            notes=[_LEFT_OUT.format(left_out)] if left_out else [],
            how=HOW,
        )


def total_residual(found: Mapping[str, Resized]) -> float:
    """The norm of what all modules lack, as a share of the norm of all updates together."""
    norm = math.sqrt(sum(one.norm**2 for one in found.values()))
    missing = math.sqrt(sum(one.missing**2 for one in found.values()))
    return missing / norm if norm else 0.0


def _span(ranks: list[int]) -> str:
    return f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else str(ranks[0])
