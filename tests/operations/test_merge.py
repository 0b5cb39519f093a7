"""`merge` as a whole: what is read, what is written, what is said, and what is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.lora_files import (
    LINEAR,
    Tensors,
    decoder,
    exact_sum,
    lora_factors,
    write_adapter,
    write_decoder,
)
from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.provenance import read_provenance
from loratools.engine.coverage import Action
from loratools.errors import LoratoolsError, UsageError
from loratools.linalg.rounding_torch import round_once
from loratools.operations.merge import merge
from loratools.operations.merge_inputs import open_inputs
from loratools.operations.merge_options import MergeOptions
from loratools.operations.merge_plan import plan_merge

BF16 = torch.bfloat16


@pytest.fixture
def tensors() -> Tensors:
    return decoder(dtype=BF16)


@pytest.fixture
def base(tmp_path: Path, tensors: Tensors) -> Path:
    return write_decoder(tmp_path / "base", tensors)


@pytest.fixture
def adapter(tmp_path: Path, tensors: Tensors) -> Path:
    return write_adapter(tmp_path / "adapter", lora_factors(tensors), base="org/base")


def everything(folder: Path) -> Tensors:
    """All tensors of a checkpoint's safetensors files."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_result_is_the_sum_rounded_once(
    base: Path, adapter: Path, tensors: Tensors, tmp_path: Path
) -> None:
    report = merge(base, [adapter], tmp_path / "out")
    exact = exact_sum(tensors, (lora_factors(tensors), 1.0))
    written = everything(tmp_path / "out")
    assert written.keys() == tensors.keys()
    changed = {row.name for row in report.modules or ()}
    assert changed == {f"model.layers.{n}.{module}.weight" for n in (0, 1) for module in LINEAR}
    for name, tensor in written.items():
        expected = round_once(exact[name], BF16) if name in changed else tensors[name]
        assert (tensor == expected).double().mean() >= 0.999, name


def test_figures_of_each_tensor(base: Path, adapter: Path, tensors: Tensors, tmp_path: Path) -> None:
    report = merge(base, [adapter], tmp_path / "out")
    exact, written = exact_sum(tensors, (lora_factors(tensors), 1.0)), everything(tmp_path / "out")
    for row in report.modules or ():
        before, after = tensors[row.name], written[row.name]
        assert row.norm == pytest.approx(float((exact[row.name] - before.double()).norm()), rel=1e-9)
        assert row.changed == pytest.approx(float((before != after).double().mean()), abs=0)
        assert (row.kind, row.scaling, row.dtype) == ("lora", 1.0, "bfloat16")
    assert report.totals is not None
    assert (
        report.totals.bytes == report.totals.base_bytes == sum(tensor.nbytes for tensor in tensors.values())
    )


def test_inputs_are_left_as_they_were(base: Path, adapter: Path, tmp_path: Path) -> None:
    before = digest(base), digest(adapter)
    merge(base, [adapter], tmp_path / "out")
    assert (digest(base), digest(adapter)) == before


def test_every_tensor_of_every_input_has_one_fate(
    base: Path, adapter: Path, tensors: Tensors, tmp_path: Path
) -> None:
    factors = lora_factors(tensors, seed=2, modules=["k_proj"])
    second = write_adapter(tmp_path / "second", factors)
    report = merge(base, [adapter, second], tmp_path / "out")
    assert report.coverage is not None
    by_input: dict[str, set[str]] = {}
    for row in report.coverage:
        by_input.setdefault(row.input, set()).add(row.tensor)
    assert by_input == {
        "base": set(tensors),
        "adapter 1": set(load_file(adapter / "adapter_model.safetensors")),
        "adapter 2": set(load_file(second / "adapter_model.safetensors")),
    }
    counts = report.coverage.counts()
    assert counts == {Action.MERGED: 10, Action.APPLIED: 24, Action.COPIED: len(tensors) - 10}


def test_an_update_of_zeros_leaves_a_tensor_unchanged(base: Path, tensors: Tensors, tmp_path: Path) -> None:
    factors = {module: (A, torch.zeros_like(B)) for module, (A, B) in lora_factors(tensors).items()}
    report = merge(base, [write_adapter(tmp_path / "zero", factors)], tmp_path / "out")
    assert {row.changed for row in report.modules or ()} == {0.0}
    assert report.coverage is not None
    assert report.coverage.counts()[Action.UNCHANGED] == 10
    assert (base / "model.safetensors").read_bytes() == (tmp_path / "out" / "model.safetensors").read_bytes()


def test_several_adapters_are_summed_before_the_rounding(
    base: Path, adapter: Path, tensors: Tensors, tmp_path: Path
) -> None:
    second = lora_factors(tensors, seed=5, rank=2, size=0.3)
    write_adapter(tmp_path / "second", second, alpha=3)
    merge(base, [adapter, f"{tmp_path / 'second'}=-0.5"], tmp_path / "out")
    exact = exact_sum(tensors, (lora_factors(tensors), 1.0), (second, -0.5 * 3 / 2))
    for name, tensor in everything(tmp_path / "out").items():
        assert (tensor == round_once(exact[name], BF16)).double().mean() >= 0.999, name


def test_weights_inline_and_apart_mean_the_same(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge(base, [f"{adapter}=0.3"], tmp_path / "inline")
    merge(base, [adapter], tmp_path / "apart", weights=[0.3])
    assert digest(tmp_path / "inline") == digest(tmp_path / "apart")


@pytest.mark.parametrize(
    ("adapters", "weights", "message"),
    [
        (["ADAPTER=0.5"], [0.5], "both inline and apart"),
        (["ADAPTER"], [0.5, 0.5], "2 weights for 1 adapters"),
        (["ADAPTER"], [float("nan")], "not finite"),
        ([], None, "no adapter"),
        (["BASE"], None, "a checkpoint stands where an adapter"),
    ],
    ids=["twice", "count", "nan", "none", "checkpoint"],
)
def test_wrong_usage_is_said_in_one_line(
    adapters: list[str], weights: list[float] | None, message: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    named = [text.replace("ADAPTER", str(adapter)).replace("BASE", str(base)) for text in adapters]
    with pytest.raises(UsageError, match=message):
        merge(base, named, tmp_path / "out", weights=weights)
    with pytest.raises(UsageError, match="an adapter stands where the checkpoint"):
        merge(adapter, [adapter], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("dtype", "int8"), ("tied", "maybe"), ("shard_size", "big"), ("shard_size", "0GB")]
)
def test_unknown_words_are_refused(
    option: str, value: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=value):
        merge(base, [adapter], tmp_path / "out", **{option: value})  # type: ignore[arg-type]


def test_an_adapter_alone_is_merged_into_the_base_that_it_names(
    base: Path, tensors: Tensors, tmp_path: Path
) -> None:
    factors = lora_factors(tensors)
    alone = write_adapter(tmp_path / "alone", factors, base="../base")
    merge(None, alone, tmp_path / "one")
    merge(base, alone, tmp_path / "two")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    other = write_adapter(tmp_path / "other", factors, base=str(tmp_path / "elsewhere"))
    with pytest.raises(LoratoolsError, match="elsewhere"):
        merge(None, other, tmp_path / "three")


def test_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    tensors = decoder(dtype=BF16, hidden=64, ffn=3000, layers=3)
    base = write_decoder(tmp_path / "base", tensors, shards=2)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    outputs = []
    for workers in (1, 2, 5):
        merge(base, [adapter], tmp_path / f"out{workers}", workers=workers)
        outputs.append(digest(tmp_path / f"out{workers}"))
    assert outputs[0] == outputs[1] == outputs[2]


def test_jobs_are_small_and_can_be_pickled(base: Path, adapter: Path, tmp_path: Path) -> None:
    inputs = open_inputs(base, [adapter], None)
    options = MergeOptions.parse(
        dtype="keep",
        shard_size="keep",
        tied="auto",
        allow_unmatched=False,
        allow_other_base=False,
        force=False,
    )
    plan = plan_merge(inputs, tmp_path / "out", options)
    figures = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        plan.shards[0].layout.create(tmp_path / name / plan.shards[0].file)
        packed = [pickle.dumps(job) for job in plan.jobs]
        assert max(map(len, packed)) < 4000
        figures[name] = [pickle.loads(job).run(tmp_path / name) for job in packed]
    assert figures["one"] == figures["two"]


def test_a_dry_run_writes_nothing_and_knows_every_fate(base: Path, adapter: Path, tmp_path: Path) -> None:
    before = digest(tmp_path)
    report = merge(base, [adapter], tmp_path / "out", dry_run=True)
    assert digest(tmp_path) == before
    assert not (tmp_path / "out").exists()
    done = merge(base, [adapter], tmp_path / "out")
    assert report.dry_run
    assert report.coverage == done.coverage
    assert report.totals == done.totals
    work = report.details["plan"]
    assert work.write_bytes >= sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert work.read_bytes >= (base / "model.safetensors").stat().st_size - 5000


def test_provenance_names_what_was_merged_by_hash(
    base: Path, adapter: Path, tensors: Tensors, tmp_path: Path
) -> None:
    merge(base, [f"{adapter}=0.5"], tmp_path / "out")
    record = read_provenance(tmp_path / "out")
    assert record is not None
    assert (record.command, record.options["weights"]) == ("merge", [0.5])
    assert [(one.role, one.name) for one in record.inputs] == [("base", "base"), ("adapter", "adapter")]
    assert record.inputs[0].tensors == {name: root(tensor) for name, tensor in tensors.items()}
    assert record.tensors == {name: root(tensor) for name, tensor in everything(tmp_path / "out").items()}
    assert str(tmp_path) not in (tmp_path / "out" / "loratools.json").read_text()


def root(tensor: torch.Tensor) -> str:
    hasher = TensorHasher()
    hasher.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return hasher.root()


def with_provenance(adapter: Path, base: Path, scratch: Path) -> Path:
    """The adapter with a record that it was made of `base`, as extract leaves one."""
    merge(base, [adapter], scratch)
    record = json.loads((scratch / "loratools.json").read_text())
    record["command"], record["inputs"] = "extract", record["inputs"][:1]
    (adapter / "loratools.json").write_text(json.dumps(record))
    return adapter


def test_an_adapter_of_another_base_is_refused_by_hash(
    base: Path, adapter: Path, tensors: Tensors, tmp_path: Path
) -> None:
    made = with_provenance(adapter, base, tmp_path / "scratch")
    assert not merge(base, [made], tmp_path / "right").warnings
    changed = "model.norm.weight"
    other = write_decoder(tmp_path / "other", {**tensors, changed: tensors[changed] + 1})
    with pytest.raises(LoratoolsError, match="made for another base") as refused:
        merge(other, [made], tmp_path / "out")
    assert refused.value.tensor == changed
    assert "--allow-other-base" in str(refused.value)
    assert not (tmp_path / "out").exists()
    report = merge(other, [made], tmp_path / "out", allow_other_base=True)
    assert any("made for another base: 1 tensors" in line and changed in line for line in report.warnings)


def test_an_adapter_that_names_another_base_is_warned_about(
    base: Path, tensors: Tensors, tmp_path: Path
) -> None:
    factors = lora_factors(tensors)
    named = {"org/base": 0, "Base": 0, "org/base@main": 0, str(base): 0, "org/other": 1}
    for place, (name, warnings) in enumerate(named.items()):
        adapter = write_adapter(tmp_path / f"adapter{place}", factors, base=name)
        lines = merge(base, [adapter], tmp_path / f"out{place}").warnings
        assert len(lines) == warnings, (name, lines)
    assert "org/other" in lines[0]
    silent = write_adapter(tmp_path / "silent", factors)
    (silent / "README.md").write_text("---\nbase_model: org/another\ntags:\n- lora\n---\n# Card\n")
    assert any("org/another" in line for line in merge(base, [silent], tmp_path / "last").warnings)


def test_keys_that_find_no_tensor_are_refused_or_listed(base: Path, tensors: Tensors, tmp_path: Path) -> None:
    factors = lora_factors(tensors)
    A, B = factors["model.layers.0.self_attn.q_proj"]
    factors["model.layers.7.self_attn.q_proj"] = A.clone(), B.clone()
    adapter = write_adapter(tmp_path / "adapter", factors)
    with pytest.raises(LoratoolsError, match=r"layers\.7"):
        merge(base, [adapter], tmp_path / "out")
    report = merge(base, [adapter], tmp_path / "out", allow_unmatched=True)
    assert report.coverage is not None
    dropped = [row.tensor for row in report.coverage if row.action is Action.DROPPED]
    assert len(dropped) == 2
    assert all("layers.7" in key for key in dropped)
    assert sum("layers.7" in line for line in report.warnings) == 2


def test_a_failure_in_the_middle_publishes_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    content = bytearray((base / "model.safetensors").read_bytes())
    before = sorted(path.name for path in tmp_path.iterdir())
    report = merge(base, [adapter], tmp_path / "out", dry_run=True)
    assert report.coverage is not None
    factors = load_file(adapter / "adapter_model.safetensors")
    key = sorted(factors)[-1]
    factors[key][0, 0] = float("nan")
    save_file(factors, adapter / "adapter_model.safetensors")
    with pytest.raises(LoratoolsError, match="NaN"):
        merge(base, [adapter], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (base / "model.safetensors").read_bytes() == bytes(content)
