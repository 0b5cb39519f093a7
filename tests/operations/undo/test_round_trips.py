"""A merge that keeps its record, and the base as it was: every kind of adapter, dtype and file."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.lora_files import Tensors, decoder, lora_factors, write_adapter, write_decoder
from fixtures.peft_models import CASES, TIED_CASES, Case, TiedCase, make_adapter, save_base, tiny_llama
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.merge import merge
from loratools.operations.unmerge import unmerge

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
DTYPES = ("bfloat16", "float16", "float32", "float64")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the provenance, which says how the folder came to be."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "loratools.json"
    }


def check(base: Path, adapters: list[Path], folder: Path, **options: object) -> Path:
    """Merges with a record, takes it off with nothing else at hand, compares files. Gives the merged."""
    merged, back = folder / "merged", folder / "back"
    merge(base, adapters, merged, undo=True, **options)  # type: ignore[arg-type]
    before = hashes(base)
    report = unmerge(merged, (), back)
    assert hashes(back) == before
    assert all(row.exact is True for row in report.modules or ())
    assert not (merged / "loratools-undo" / "parts").exists()
    return merged


ROUNDINGS = ("nearest", "stochastic")


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_size_of_update(dtype: str, size: float, rounding: str, tmp_path: Path) -> None:
    tensors = decoder(dtype=getattr(torch, dtype), hidden=64, ffn=96)
    base = write_decoder(tmp_path / "base", tensors, shards=2)
    adapters = [
        write_adapter(tmp_path / "one", lora_factors(tensors, size=size)),
        write_adapter(tmp_path / "two", lora_factors(tensors, size=size / 3, rank=9, seed=4), alpha=5),
    ]
    check(base, adapters, tmp_path, weights=[1.0, -0.7], rounding=rounding, seed=5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_kind_of_adapter(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    base = save_base(case.model(), tmp_path / "base", dtype=dtype)
    make_adapter(case.model(), tmp_path / "adapter", **case.options)
    check(base, [tmp_path / "adapter"], tmp_path)


@pytest.mark.parametrize("case", TIED_CASES, ids=lambda case: case.name)
def test_tied_weights(case: TiedCase, tmp_path: Path) -> None:
    base = save_base(tiny_llama(tied=True), tmp_path / "base", dtype=torch.bfloat16)
    make_adapter(tiny_llama(tied=True), tmp_path / "adapter", save=case.save, **case.options)
    check(base, [tmp_path / "adapter"], tmp_path)


@pytest.mark.parametrize(
    "case", [case for case in CASES if "use_dora" in case.options], ids=lambda case: case.name
)
def test_scaled_rows_that_were_rounded_by_chance(case: Case, tmp_path: Path) -> None:
    base = save_base(case.model(), tmp_path / "base", dtype=torch.bfloat16)
    make_adapter(case.model(), tmp_path / "adapter", **case.options)
    check(base, [tmp_path / "adapter"], tmp_path, rounding="stochastic")


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_numbers_that_are_special(dtype: str, rounding: str, tmp_path: Path) -> None:
    """Zeros of both signs, subnormals, infinities, NaN with payloads; and an update of nothing."""
    tensors = decoder(dtype=getattr(torch, dtype), layers=1, hidden=64)
    factors = lora_factors(tensors, size=0.1)
    name = "model.layers.0.self_attn.q_proj.weight"
    integers = {2: torch.int16, 4: torch.int32}[tensors[name].element_size()]
    bits = tensors[name].view(integers).flatten()
    width = 16 if integers is torch.int16 else 32
    infinite = int(torch.tensor(math.inf, dtype=getattr(torch, dtype)).view(integers))
    sign = -(1 << (width - 1))
    special = [
        0,
        sign,
        1,
        sign + 1,
        77,
        infinite,
        sign + infinite,
        infinite + 1,
        infinite + 5,
        sign + infinite + 3,
    ]
    bits[: len(special)] = torch.tensor(special, dtype=integers)
    bits[64:96] = 0
    bits[96:128] = sign
    base = write_decoder(tmp_path / "base", tensors)
    _, B = factors["model.layers.0.self_attn.q_proj"]
    B[1] = 0.0  # a row of zeros that nothing is added to
    check(base, [write_adapter(tmp_path / "adapter", factors)], tmp_path, rounding=rounding)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_updates_that_are_round_numbers_and_cancel(rounding: str, tmp_path: Path) -> None:
    """Sums that lie exactly between two numbers, and weights that the update all but takes away."""
    tensors = decoder(dtype=torch.bfloat16, layers=1, hidden=64)
    name = "model.layers.0.self_attn.q_proj"
    grid = torch.arange(64 * 64).reshape(64, 64)
    tensors[f"{name}.weight"] = ((grid % 256 - 128) / 64.0).to(torch.bfloat16)
    A, B = torch.eye(64), torch.full((64, 64), 2.0**-9)
    B[::2] = -tensors[f"{name}.weight"][::2].float()
    base = write_decoder(tmp_path / "base", tensors)
    check(base, [write_adapter(tmp_path / "adapter", {name: (A, B)})], tmp_path, rounding=rounding)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_merge_into_another_dtype(dtype: str, rounding: str, tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16, layers=1)
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    check(base, [adapter], tmp_path, dtype=dtype, rounding=rounding)
    assert {one.dtype for one in load_file(tmp_path / "merged/model.safetensors").values()} == {
        getattr(torch, dtype)
    }


def test_a_grown_vocabulary_its_tokenizer_and_files_that_the_merge_wrote_anew(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16, layers=1)
    base = write_decoder(tmp_path / "base", tensors)
    for file in ("tokenizer.json", "tokenizer_config.json", "README.md"):
        (base / file).write_text(f"the base's {file}")
    grown = {
        name: torch.randn((44, 32), dtype=torch.bfloat16)
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors), more=grown)
    (adapter / "tokenizer.json").write_text("another")
    merged = check(base, [adapter], tmp_path)
    assert json.loads((merged / "config.json").read_text())["vocab_size"] == 44
    assert (merged / "tokenizer.json").read_text() == "another"


def test_another_way_of_cutting_shards(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16)
    base = write_decoder(tmp_path / "base", tensors, shards=3)
    check(base, [write_adapter(tmp_path / "adapter", lora_factors(tensors))], tmp_path, shard_size="10kB")


def test_a_base_in_torch_format_comes_back_tensor_for_tensor(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16, layers=1)
    base = write_decoder(tmp_path / "base", tensors)
    (base / "model.safetensors").unlink()
    torch.save(tensors, base / "pytorch_model.bin")
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    merge(base, [adapter], tmp_path / "merged", undo=True)
    report = unmerge(tmp_path / "merged", (), tmp_path / "back")
    back = load_file(tmp_path / "back/model.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name].view(torch.int16), tensors[name].view(torch.int16)) for name in tensors)
    assert any("torch format" in line for line in report.warnings)


@pytest.fixture
def tensors() -> Tensors:
    return decoder(dtype=torch.bfloat16, layers=1, hidden=64)


@pytest.fixture
def base(tensors: Tensors, tmp_path: Path) -> Path:
    return write_decoder(tmp_path / "base", tensors)


def three(base: Path, tensors: Tensors, tmp_path: Path) -> list[Path]:
    """Three merges, one on another; the folders that they gave."""
    folders = [base]
    for turn in range(3):
        adapter = write_adapter(tmp_path / f"adapter {turn}", lora_factors(tensors, seed=turn, size=0.05))
        rounding = ("nearest", "stochastic")[turn % 2]
        report = merge(folders[-1], [adapter], tmp_path / f"merged {turn}", undo=True, rounding=rounding)
        assert not any("undo record" in line for line in report.warnings)
        folders.append(tmp_path / f"merged {turn}")
    return folders


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_merges_come_off_one_by_one_the_last_first(base: Path, tensors: Tensors, tmp_path: Path) -> None:
    folders = three(base, tensors, tmp_path)
    at = folders[-1]
    for turn, before in enumerate(reversed(folders[:-1])):
        unmerge(at, (), tmp_path / f"back {turn}")
        at = tmp_path / f"back {turn}"
        assert hashes(at) == hashes(before)
        if before != base:
            assert everything(at) == everything(before), "its own provenance and records included"


def test_all_merges_come_off_at_once(base: Path, tensors: Tensors, tmp_path: Path) -> None:
    folders = three(base, tensors, tmp_path)
    report = unmerge(folders[-1], (), tmp_path / "back", all_merges=True)
    assert hashes(tmp_path / "back") == hashes(base)
    assert report.details["merges"] == 3


def test_a_base_that_was_edited_after_its_merge_keeps_no_earlier_records(
    base: Path, tensors: Tensors, tmp_path: Path
) -> None:
    once = three(base, tensors, tmp_path)[1]
    edited = load_file(once / "model.safetensors")
    edited["model.norm.weight"] += 1
    save_file(edited, once / "model.safetensors", metadata={"format": "pt"})
    adapter = write_adapter(tmp_path / "more", lora_factors(tensors, seed=9))
    report = merge(once, [adapter], tmp_path / "again", undo=True)
    assert any("was changed since its own merge" in line for line in report.warnings)
    unmerge(tmp_path / "again", (), tmp_path / "back", all_merges=True)
    before = {name: root for name, root in hashes(once).items() if "loratools-undo" not in name}
    assert hashes(tmp_path / "back") == before


@pytest.fixture
def adapter(tensors: Tensors, tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", lora_factors(tensors, size=0.05))


@pytest.fixture
def merged(base: Path, adapter: Path, tmp_path: Path) -> Path:
    merge(base, [adapter], tmp_path / "merged", undo=True)
    return tmp_path / "merged"


def test_adapters_that_are_named_lead_to_the_record_if_they_are_its_own(
    base: Path, merged: Path, adapter: Path, tensors: Tensors, tmp_path: Path
) -> None:
    report = unmerge(merged, [adapter], tmp_path / "back")
    assert hashes(tmp_path / "back") == hashes(base) and report.details["merges"] == 1
    other = write_adapter(tmp_path / "other", lora_factors(tensors, seed=8))
    report = unmerge(merged, [other], tmp_path / "subtracted")
    assert any("none of the adapters that the last merge" in line for line in report.warnings)


def edit(merged: Path, *names: str) -> None:
    tensors = load_file(merged / "model.safetensors")
    for name in names:
        tensors[name].view(torch.int16).flatten()[3] ^= 1
    save_file(tensors, merged / "model.safetensors", metadata={"format": "pt"})


MERGED, UNTOUCHED = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"


@pytest.mark.parametrize("name", [MERGED, UNTOUCHED])
def test_a_tensor_that_was_changed_since_is_refused_by_name(
    name: str, base: Path, merged: Path, tmp_path: Path
) -> None:
    edit(merged, name)
    with pytest.raises(LoratoolsError, match=f"1 tensor was changed since the merge: {name}"):
        unmerge(merged, (), tmp_path / "back")
    assert not (tmp_path / "back").exists()
    report = unmerge(merged, (), tmp_path / "back", allow_modified=True)
    found, before = load_file(tmp_path / "back/model.safetensors"), load_file(base / "model.safetensors")
    kept = load_file(merged / "model.safetensors")
    assert torch.equal(found[name], kept[name])
    assert all(torch.equal(found[one], before[one]) for one in before if one != name)
    assert any(f"left as found: {name}" in line for line in report.warnings)


def test_a_file_that_was_changed_since_is_refused_by_name(merged: Path, tmp_path: Path) -> None:
    (merged / "config.json").write_text("{}")
    with pytest.raises(LoratoolsError, match="this file was changed since the merge"):
        unmerge(merged, (), tmp_path / "back")
    report = unmerge(merged, (), tmp_path / "back", allow_modified=True)
    assert (tmp_path / "back/config.json").read_text() == "{}"
    assert "config.json was changed since the merge, and is not the base's" in report.warnings


def test_other_shards_with_the_same_tensors_are_no_obstacle(base: Path, merged: Path, tmp_path: Path) -> None:
    tensors = load_file(merged / "model.safetensors")
    (merged / "model.safetensors").unlink()
    write_decoder(merged, tensors, shards=3)
    unmerge(merged, (), tmp_path / "back", allow_modified=True)
    assert hashes(tmp_path / "back")["model.safetensors"] == hashes(base)["model.safetensors"]


def test_a_flipped_bit_anywhere_in_the_record_is_refused(base: Path, merged: Path, tmp_path: Path) -> None:
    """Or does not matter: whatever is published is the base."""
    path = merged / "loratools-undo/merge-0001.safetensors"
    data = path.read_bytes()
    refused = 0
    for place in np.linspace(0, len(data) - 1, 160).astype(int):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        try:
            unmerge(merged, (), tmp_path / "back", force=True)
        except LoratoolsError:
            refused += 1
        else:
            assert hashes(tmp_path / "back") == hashes(base), place
    assert refused >= 150


@pytest.mark.parametrize("length", [0, 7, 100, 5000, -1])
def test_a_truncated_record_is_refused(length: int, merged: Path, tmp_path: Path) -> None:
    path = merged / "loratools-undo/merge-0001.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(LoratoolsError) as refusal:
        unmerge(merged, (), tmp_path / "back")
    assert refusal.value.file == str(path) and not (tmp_path / "back").exists()


def test_what_makes_no_sense_is_said(base: Path, merged: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(LoratoolsError, match="no merge kept an undo record here"):
        unmerge(base, (), tmp_path / "out")
    with pytest.raises(UsageError, match="adapters were named"):
        unmerge(merged, [adapter], tmp_path / "out", all_merges=True)
    with pytest.raises(UsageError, match="no adapter"):
        unmerge(merged, (), tmp_path / "out", weights=[0.5])
    with pytest.raises(UsageError, match="no room for an undo record"):
        merge(base, [adapter], tmp_path / "one.safetensors", undo=True)
    with pytest.raises(UsageError, match="given back as a folder"):
        unmerge(merged, (), tmp_path / "one.safetensors")


def test_workers_change_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        merge(base, [adapter], tmp_path / f"merged {workers}", undo=True, workers=workers)
    assert everything(tmp_path / "merged 1") == everything(tmp_path / "merged 3")


def resaved(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """The merged weights as another program would write them again."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("allow_modified", [False, True], ids=["", "allow-modified"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held.update({Q_PROJ: held[Q_PROJ].double()}), "another shape or dtype since the merge"),
        (
            lambda held: held.update({"new.weight": torch.ones(2)}),
            "here that the merge did not write: 1, new.w",
        ),
        (lambda held: held.pop(Q_PROJ), "not here any more: 1, model.layers.0.self_attn.q_proj"),
    ],
    ids=["another dtype", "one more", "one less"],
)
def test_weights_that_were_saved_in_another_form_are_refused(
    change: Callable[[dict[str, torch.Tensor]], object], said: str, allow_modified: bool, tmp_path: Path
) -> None:
    tensors = decoder(hidden=64, ffn=96)
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    merge(base, [adapter], tmp_path / "merged", undo=True)
    resaved(tmp_path / "merged", change)
    with pytest.raises(LoratoolsError, match=said) as refusal:
        unmerge(tmp_path / "merged", (), tmp_path / "back", allow_modified=allow_modified)
    assert refusal.value.hint and refusal.value.file and not (tmp_path / "back").exists()


def test_a_name_that_no_record_can_hold_is_refused_before_the_merge(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    odd = shutil.copytree(base, tmp_path / "odd")
    (odd / "\u4f7f\u7528\u3000\u8aac\u660e.txt").write_text("text")
    merge(odd, [adapter], tmp_path / "merged")
    with pytest.raises(LoratoolsError, match="an undo record cannot hold a file of this name"):
        merge(odd, [adapter], tmp_path / "merged with a record", undo=True, dry_run=True)
