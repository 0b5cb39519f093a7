"""A flipped bit anywhere in an output is found, and named by file and tensor; nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fixtures.flipped_bits import OUTPUTS, Flip, found_by_verify, spread, write_outputs
from fixtures.lora_files import decoder, write_decoder
from loratools import verify
from loratools.checkpoints.safetensors import read_header
from loratools.reports.report import Report
from loratools.reports.verification import Check


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_outputs(tmp_path_factory.mktemp("outputs"))


def checks(report: Report) -> list[Check]:
    return list(report.details["checks"])


def wrong(report: Report) -> list[Check]:
    return [check for check in checks(report) if check.ok is False]


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_was_written_holds(name: str, outputs: Path) -> None:
    report = verify(outputs / name)
    assert report.ok
    assert {check.ok for check in checks(report)} == {True}
    assert report.details["verdict"] == f"Whole, and as written: {outputs / name}, to the last hash"


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_flipped_bit_is_found_and_named(name: str, outputs: Path) -> None:
    """Bits from everywhere; the whole campaign is fixtures/flipped_bits.py."""
    flips = list(spread(outputs / name, 60, seed=len(name)))
    assert any(flip.tensor for flip in flips) and any(flip.tensor is None for flip in flips)
    assert [flip for flip in flips if not found_by_verify(outputs / name, flip)] == []


@pytest.mark.parametrize("place", range(9))
def test_the_first_bytes_of_a_file_are_no_exception(place: int, outputs: Path) -> None:
    for name in ("merged", "one.safetensors"):
        output = outputs / name
        file = output if output.is_file() else next(output.glob("*.safetensors"))
        for bit in range(8):
            assert found_by_verify(output, Flip(file, place, bit, None))


def test_every_bit_of_the_key_of_a_provenance_matters(outputs: Path) -> None:
    """A provenance under another key is none, and must not pass for a file that never had one."""
    file = outputs / "one.safetensors"
    start = file.read_bytes().index(b'"loratools":') + 1
    for place in range(start, start + len("loratools")):
        for bit in range(8):
            assert found_by_verify(file, Flip(file, place, bit, None)), (place, bit)


EDITS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a file removed": (lambda at: (at / "README.md").unlink(), "files", "README.md"),
    "a file rewritten": (lambda at: (at / "README.md").write_text("mine"), "files", "README.md"),
    "a config in other words": (
        lambda at: (at / "config.json").write_text(json.dumps(json.loads((at / "config.json").read_text()))),
        "files",
        "config.json",
    ),
    "a record removed": (
        lambda at: (at / "loratools-undo" / "merge-0002.safetensors").unlink(),
        "headers",
        "merge-0002.safetensors",
    ),
    "the first of two records removed": (
        lambda at: (at / "loratools-undo" / "merge-0001.safetensors").unlink(),
        "undo record",
        "merge-0001.safetensors",
    ),
    "a provenance of another output": (
        lambda at: shutil.copy(at.parent / "extracted" / "loratools.json", at),
        "hashes",
        "model-00001-of-00002.safetensors",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_found(edit: str, outputs: Path, tmp_path: Path) -> None:
    shutil.copytree(outputs, tmp_path, dirs_exist_ok=True)
    do, check, file = EDITS[edit]
    do(tmp_path / "merged twice")
    found = wrong(verify(tmp_path / "merged twice"))
    assert any(one.check == check and one.file and Path(one.file).name == file for one in found), found


def test_what_lies_beside_and_is_not_covered_is_said(outputs: Path, tmp_path: Path) -> None:
    shutil.copytree(outputs / "merged", tmp_path / "merged")
    (tmp_path / "merged" / "notes.txt").write_text("mine")
    report = verify(tmp_path / "merged")
    assert report.ok
    assert any("nothing is known of notes.txt" in check.detail for check in checks(report))


def test_a_provenance_cannot_lead_out_of_the_folder(outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    for name in ("../outside", "/dev/zero", str(tmp_path / "outside")):
        shutil.copytree(outputs / "merged", tmp_path / "merged", dirs_exist_ok=True)
        record = json.loads((tmp_path / "merged" / "loratools.json").read_text())
        record["files"][name] = "0" * 64
        (tmp_path / "merged" / "loratools.json").write_text(json.dumps(record))
        assert any("leads out of" in check.detail for check in wrong(verify(tmp_path / "merged")))


def test_without_a_provenance_damage_to_numbers_cannot_be_told(tmp_path: Path) -> None:
    base = write_decoder(tmp_path / "base", decoder(layers=1))
    report = verify(base)
    assert report.ok
    (unknown,) = (check for check in checks(report) if check.ok is None)
    assert (unknown.check, "no provenance" in unknown.detail) == ("hashes", True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_what_is_not_finite_is_found(dtype: str, value: float, tmp_path: Path) -> None:
    tensors = decoder(dtype=getattr(torch, dtype), layers=1)
    tensors["model.norm.weight"][5] = value
    tensors["lm_head.weight"][39, 31] = value
    tensors["lm_head.weight"][0, 0] = value
    found = {check.tensor: check.detail for check in wrong(verify(write_decoder(tmp_path / "base", tensors)))}
    assert found == {
        "model.norm.weight": "1 of 32 values are NaN or infinite",
        "lm_head.weight": "2 of 1,280 values are NaN or infinite",
    }


def test_the_largest_numbers_and_integers_are_finite(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16, layers=1)
    tensors["model.norm.weight"][0] = torch.finfo(torch.bfloat16).max
    tensors["model.norm.weight"][1] = -torch.finfo(torch.bfloat16).tiny / 2
    tensors["ids"] = torch.full((3,), -1, dtype=torch.int64)
    assert verify(write_decoder(tmp_path / "base", tensors)).ok


def test_a_torch_file_has_checksums(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(decoder(layers=1), path)
    assert verify(path).ok
    data = bytearray(path.read_bytes())
    place = data.index(decoder(layers=1)["lm_head.weight"].numpy().tobytes()[:64])
    data[place + 3] ^= 1
    path.write_bytes(data)
    (found,) = wrong(verify(path))
    assert (found.tensor, found.file) == ("lm_head.weight", str(path))
    assert "checksum" in found.detail


def test_every_tensor_stands_in_coverage(outputs: Path) -> None:
    report = verify([outputs / "merged", outputs / "extracted"])
    assert report.coverage is not None
    held = {
        (str(outputs / name), tensor)
        for name in ("merged", "extracted")
        for file in (outputs / name).glob("*.safetensors")
        for tensor in read_header(file).tensors
    }
    assert {(row.input, row.tensor) for row in report.coverage} == held
    assert {row.action.value for row in report.coverage} == {"checked"}
