"""What a merged checkpoint's own record tells an unmerge: which adapters, at which weights, on which base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from loratools.checkpoints.provenance import InputRecord, Provenance, fingerprint_of, read_provenance
from loratools.errors import LoratoolsError
from loratools.operations.merge_inputs import MergeInputs, WeightedAdapter
from loratools.operations.rewrite_record import input_name

_HELD_BY = {
    "float64": {"float64", "float32", "float16", "bfloat16"},
    "float32": {"float32", "float16", "bfloat16"},
    "float16": {"float16"},
    "bfloat16": {"bfloat16"},
}
"""Dtypes whose every number another dtype holds."""


@dataclass(frozen=True)
class MergeRecord:
    """The provenance of a merged checkpoint; None where it has none that tells of a merge."""

    provenance: Provenance | None

    @classmethod
    def of(cls, inputs: MergeInputs) -> MergeRecord:
        found = read_provenance(inputs.checkpoint.root)
        return cls(found if found is not None and found.command == "merge" else None)

    @property
    def base_roots(self) -> Mapping[str, str]:
        """The hashes of the base's tensors."""
        inputs = () if self.provenance is None else self.provenance.inputs
        return next((one.tensors for one in inputs if one.role == "base"), {})

    @property
    def roots(self) -> Mapping[str, str]:
        """The hashes that the merged tensors had when they were written."""
        return {} if self.provenance is None else self.provenance.tensors

    @property
    def seed(self) -> int | None:
        """Of rounding by chance; None where the merge rounded to nearest, or nothing tells."""
        options = {} if self.provenance is None else self.provenance.options
        seed = options.get("seed")
        return seed if options.get("rounding") == "stochastic" and type(seed) is int else None

    @property
    def adapters(self) -> list[tuple[InputRecord, float]]:
        """The adapters that were merged, with their weights."""
        if self.provenance is None:
            return []
        records = [one for one in self.provenance.inputs if one.role == "adapter"]
        weights = self.provenance.options.get("weights")
        if not isinstance(weights, list) or len(weights) != len(records) or not all(map(_is_weight, weights)):
            weights = [1.0] * len(records)
        return [(record, float(weight)) for record, weight in zip(records, weights, strict=True)]

    def refuse_what_cannot_be_had_back(self) -> None:
        """Raises LoratoolsError where the merge added a tensor, wrote one apart, or narrowed a dtype."""
        for row in () if self.provenance is None else self.provenance.modules:
            name, source = str(row.get("name")), row.get("source")
            hint = "only the base itself has it"
            if source is None:
                raise LoratoolsError(
                    "the merge added this tensor: it cannot be subtracted", tensor=name, hint=hint
                )
            if source != name:
                raise LoratoolsError(
                    f"the merge wrote this tensor apart from {source}, to which it was tied: "
                    "subtraction cannot tie them again",
                    tensor=name,
                    hint=hint,
                )
            before, after = str(row.get("source_dtype")), str(row.get("dtype"))
            if before not in _HELD_BY.get(after, {before}):
                raise LoratoolsError(
                    f"the merge rounded this tensor from {before} to {after}", tensor=name, hint=hint
                )

    def only_added(self, fingerprint: str, tensor: str) -> bool | None:
        """Whether the merge of this adapter did no more than add to the tensor; None where nothing tells."""
        if self.provenance is None or all(record.fingerprint != fingerprint for record, _ in self.adapters):
            return None
        kinds = [str(row.get("kind")) for row in self.provenance.modules if row.get("name") == tensor]
        return bool(kinds) and not any("replace" in kind.split("+") for kind in kinds)

    def told(self, inputs: MergeInputs, fingerprints: Sequence[str]) -> tuple[MergeInputs, list[str]]:
        """The inputs, with the weights of the merge where none were given, and what has to be said.

        Said is: adapters that were never merged here, others that stay, weights that are not the merge's.
        """
        name = input_name(inputs.checkpoint)
        if self.provenance is None:
            return inputs, [
                f"{name} holds no record of a merge: the figures hold only if it is what merging these "
                "adapters, rounded once, gave"
            ]
        left = self.adapters
        adapters, notes = [], self._of_dtype()
        for one, fingerprint in zip(inputs.adapters, fingerprints, strict=True):
            match = _best([held for held in left if held[0].fingerprint == fingerprint], one)
            if match is None:
                notes.append(
                    f"{one.name} is none of the adapters that the last merge into {name} added; "
                    "where an earlier one added it and every merge kept its undo record, use --all"
                )
                adapters.append(one)
                continue
            left.remove(match)
            if one.weight_given and one.weight != match[1]:
                notes.append(
                    f"{one.name} was merged with weight {match[1]:g}, and is subtracted with {one.weight:g}"
                )
            adapters.append(one if one.weight_given else replace(one, weight=match[1]))
        notes += [f"{record.name} was merged into {name} too, and stays" for record, _ in left]
        return replace(inputs, adapters=tuple(adapters)), notes

    def likely(self, inputs: MergeInputs) -> list[str]:
        """The fingerprint that each adapter may have, told by the names of its tensors; "" where none can be.

        For a dry run, which hashes nothing. Of several, the one of the adapter's name and weight is taken.
        """
        left, found = self.adapters, []
        for one in inputs.adapters:
            alike = [held for held in left if held[0].tensors.keys() == one.opened.tensors.keys()]
            named = [held for held in alike if held[0].name == input_name(one.opened)] or alike
            match = _best(named, one)
            found.append("" if match is None else match[0].fingerprint)
            if match is not None:
                left.remove(match)
        return found

    def of_names(self, inputs: MergeInputs, likely: Sequence[str]) -> list[str]:
        """What has to be said of adapters that were told by the names of their tensors alone."""
        names = {record.fingerprint: record.name for record, _ in self.adapters}
        return [
            f"{one.name} is taken for {names[fingerprint]}, which was merged: its tensors' names are the "
            "same, and its hashes, which a dry run does not compute, will tell"
            for one, fingerprint in zip(inputs.adapters, likely, strict=True)
            if fingerprint
        ]

    def _of_dtype(self) -> list[str]:
        dtype = None if self.provenance is None else self.provenance.options.get("dtype", "keep")
        if dtype in (None, "keep"):
            return []
        return [
            f"the merge wrote everything in {dtype}, and it stays so: the base had other dtypes in places"
        ]


def adapter_fingerprints(inputs: MergeInputs, roots: Sequence[Mapping[str, str]]) -> list[str]:
    """The fingerprint of each adapter, from the hashes of its tensors."""
    return [
        fingerprint_of(one.opened.tensors.values(), its)
        for one, its in zip(inputs.adapters, roots, strict=True)
    ]


def _best(
    held: list[tuple[InputRecord, float]], adapter: WeightedAdapter
) -> tuple[InputRecord, float] | None:
    """Of several merges of one adapter, the one with the weight that was given, else the first."""
    same = [one for one in held if one[1] == adapter.weight]
    return next(iter(same or held), None)


def _is_weight(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
