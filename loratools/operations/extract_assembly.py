"""Packing what was found into an adapter: weights, config, card, provenance, and a grown tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loratools.adapters.card import FILE as CARD
from loratools.adapters.card import Card, write_card
from loratools.adapters.layers import Layer
from loratools.adapters.peft_write import (
    CONFIG,
    WEIGHTS,
    AdapterTensor,
    LoraConfig,
    PartFile,
    Stored,
    StoredRows,
    Values,
    key_of_a,
    key_of_b,
    key_of_bias,
    key_of_parameter,
    key_of_rows,
    write_config,
    write_weights,
)
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import copy, size
from loratools.checkpoints.parts import stored_bytes
from loratools.checkpoints.provenance import InputRecord, Provenance, config_root, fingerprint_of
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import TensorSpec
from loratools.checkpoints.unchanged import changed
from loratools.engine.device import Kind
from loratools.operations.extract_findings import Findings
from loratools.operations.extract_job import Roots
from loratools.operations.extract_plan import ExtractPlan
from loratools.operations.made_on import made_on
from loratools.operations.pairing import Side
from loratools.operations.sidefiles import tokenizer_files
from loratools.reports.report import ExtractedModule, plain

__all__ = ["Assembled", "assemble", "vocabulary"]


@dataclass(frozen=True)
class Assembled:
    """What the adapter weighs: all of it, and the part of it that is no factor."""

    parameters: int
    bytes: int
    rest_bytes: int


def assemble(
    folder: Path,
    workspace: Path,
    plan: ExtractPlan,
    findings: Findings,
    roots: Roots,
    *,
    modules: tuple[ExtractedModule, ...],
    version: str,
    notes: tuple[str, ...],
    kind: Kind,
) -> Assembled:
    """Writes the adapter into `folder`, from the factors that lie in `workspace` and from tuned itself.

    `kind`: of the devices that made the factors.
    """
    factors = list(_factors(workspace, plan, findings))
    rest = list(_rest(plan, findings))
    tensors = write_weights(folder, [*factors, *rest])
    _require_same(findings, roots, tensors)
    write_config(folder, _config(plan, findings))
    grown = vocabulary(plan, findings) is not None
    tokenizer = _copy_tokenizer(plan.pair.tuned.folder, folder) if grown else []
    assembled = Assembled(
        parameters=sum(_elements(tensor.shape) for tensor in (*factors, *rest)),
        bytes=size(folder / WEIGHTS),
        rest_bytes=sum(stored_bytes(tensor.dtype, tensor.shape) for tensor in rest),
    )
    write_card(folder, _card(plan, findings, modules, assembled, notes))
    record = Provenance(
        command="extract",
        version=version,
        options={**plan.options.plain(), "base_name": plan.base_name},
        inputs=tuple(_record(plan, side, roots) for side in Side),
        tensors=tensors,
        modules=tuple(_module_record(row) for row in modules),
    )
    made_on(record, kind).covering(folder, weights=[WEIGHTS], files=[CONFIG, CARD, *tokenizer]).write(folder)
    return assembled


def vocabulary(plan: ExtractPlan, findings: Findings) -> int | None:
    """The rows that the base's embedding must be resized to, if tuned has more and they are saved."""
    tie = plan.pair.tie
    grown = [
        tensor.tuned.shape[0]
        for tensor in plan.pair.tensors.values()
        if tensor.grown
        and tensor.tuned is not None
        and tensor.layer.layer is Layer.EMBEDDING
        and tensor.name in findings.holdings.parameters()
        and (tie is None or tensor.name == tie.embedding)
    ]
    return grown[0] if grown else None


def _factors(workspace: Path, plan: ExtractPlan, findings: Findings) -> Iterator[AdapterTensor]:
    dtype = plan.options.truncation.save_dtype.value
    for job in plan.factoring:
        facts = findings.factors[job.name]
        module = plan.pair.tensors[job.name].module
        rows, columns = job.sides
        if facts.factors is not None:
            rank = facts.factors.rank
            a, b = (PartFile(workspace / name) for name in (facts.factors.a_file, facts.factors.b_file))
            yield AdapterTensor(key_of_a(module), dtype, (rank, columns), a)
            yield AdapterTensor(key_of_b(module), dtype, (rows, rank), b)


def _rest(plan: ExtractPlan, findings: Findings) -> Iterator[AdapterTensor]:
    holdings = findings.holdings
    for tensors in holdings.saved.values():
        for name, spec in tensors.items():
            yield AdapterTensor(key_of_parameter(name), spec.dtype, spec.shape, Stored(spec))
    for module, (rows, spec) in holdings.rows.items():
        shape = (len(rows), *spec.shape[1:])
        yield AdapterTensor(key_of_rows(module), spec.dtype, shape, StoredRows(spec, rows))
    yield from _biases(plan, findings)


def _require_same(findings: Findings, roots: Roots, written: Mapping[str, str]) -> None:
    """What is saved whole is read a second time here, and must be what it was found to differ in.

    Raises:
        LoratoolsError: tuned was written meanwhile.
    """
    for tensors in findings.holdings.saved.values():
        for name, spec in tensors.items():
            if written[key_of_parameter(name)] != roots[Side.TUNED, spec.name]:
                raise changed(spec.file, spec.name)


def _biases(plan: ExtractPlan, findings: Findings) -> Iterator[AdapterTensor]:
    """A bias for every targeted layer, as PEFT looks for one in each; zero factors where only it changed."""
    biases = findings.holdings.biases
    if not biases:
        return
    dtype = plan.options.truncation.save_dtype.value
    factored = {plan.pair.tensors[name].module for name in findings.factored}
    for job in plan.factoring:
        module = plan.pair.tensors[job.name].module
        rows, columns = job.sides
        if module in biases and module not in factored:
            yield AdapterTensor(key_of_a(module), dtype, (1, columns), _zeros(dtype, columns))
            yield AdapterTensor(key_of_b(module), dtype, (rows, 1), _zeros(dtype, rows))
        if module in biases or module in factored:
            difference = _difference(*biases[module]) if module in biases else _zeros("float32", rows)
            yield AdapterTensor(key_of_bias(module), "float32", (rows,), difference)


def _zeros(dtype: str, count: int) -> Values:
    return Values(bytes(stored_bytes(dtype, (count,))))


def _difference(base: TensorSpec, tuned: TensorSpec) -> Values:
    """tuned - base of a bias, in float64, rounded once to float32: base plus it, rounded, is tuned again."""
    import numpy as np

    sides = []
    for spec in (base, tuned):
        with TensorReader(spec) as reader:
            raw = reader.read(0, spec.rows)
        sides.append(
            raw.numpy().astype(np.float64) if spec.dtype == "float64" else raw.float32().astype(np.float64)
        )
    return Values((sides[1] - sides[0]).astype(np.float32).tobytes())


def _config(plan: ExtractPlan, findings: Findings) -> LoraConfig:
    holdings = findings.holdings
    ranks = dict.fromkeys(holdings.biases, 1)
    for name, facts in findings.factored.items():
        assert facts.factors is not None
        ranks[plan.pair.tensors[name].module] = facts.factors.rank
    layers = {plan.pair.tensors[f"{module}.weight"].layer.layer for module in ranks}
    return LoraConfig(
        base_name=plan.base_name,
        revision=plan.pair.base.revision,
        task=holdings.task,
        ranks=ranks,
        saved=tuple(holdings.saved),
        rows={module: rows for module, (rows, _) in holdings.rows.items()},
        modules=plan.pair.modules(),
        fan_in_fan_out=layers == {Layer.CONV1D},
        lora_bias=bool(holdings.biases),
        ensure_weight_tying=holdings.ensure_weight_tying,
    )


def _card(
    plan: ExtractPlan,
    findings: Findings,
    modules: tuple[ExtractedModule, ...],
    assembled: Assembled,
    notes: tuple[str, ...],
) -> Card:
    ranks = sorted({row.rank for row in modules})
    span = f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else "".join(map(str, ranks))
    facts = [("factored modules", str(len(modules)))]
    facts += [("rank", span)] if ranks else []
    facts += [("largest residual", f"{max(row.residual for row in modules):.4g}")] if modules else []
    facts += [
        ("bytes of weights", f"{assembled.bytes:,}"),
        ("of these saved whole", f"{assembled.rest_bytes:,}"),
    ]
    architectures = plan.pair.config.get("architectures") or [None]
    return Card(
        base_name=plan.base_name,
        task=findings.holdings.task,
        architecture=architectures[0],
        vocabulary=vocabulary(plan, findings),
        facts=facts,
        notes=notes,
    )


def _record(plan: ExtractPlan, side: Side, roots: Roots) -> InputRecord:
    checkpoint = plan.pair.base if side is Side.BASE else plan.pair.tuned
    own = {name: root for (of, name), root in sorted(roots.items()) if of is side}
    return InputRecord(
        role=side.value,
        name=plan.base_name if side is Side.BASE else checkpoint.name,
        format=checkpoint.format,
        fingerprint=fingerprint_of(checkpoint.tensors.values(), own),
        tensors=own,
        config=config_root(checkpoint),
    )


def _module_record(row: ExtractedModule) -> Mapping[str, object]:
    """A module's row without its seconds: what is written knows no clock."""
    record: dict[str, object] = plain(row)
    del record["seconds"]
    return record


def _copy_tokenizer(source: Path, folder: Path) -> list[str]:
    """Tuned's tokenizer comes along where it has tokens that the base's does not; the files' names."""
    with disk_errors(source, "open"):
        found = tokenizer_files(source)
    for name, path in found.items():
        copy(path, folder / name)
    return list(found)


def _elements(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
