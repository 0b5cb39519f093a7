"""Undo records whose hashes hold and whose claims do not: one line each, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder
from loratools.checkpoints.hashing import root_of
from loratools.checkpoints.parts import write_safetensors
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.safetensors import read_header
from loratools.errors import LoratoolsError
from loratools.operations.merge import merge
from loratools.operations.undo.record import METADATA_KEY
from loratools.operations.unmerge import unmerge

NAME = "model.layers.0.mlp.up_proj.weight"


def rewrite(path: Path, edit: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """The record with an edit of its JSON and of its pieces, and with every hash as it has to be."""
    pieces: dict[str, Any] = {}
    for name, spec in read_header(path).tensors.items():
        with TensorReader(spec) as reader:
            pieces[name] = (spec.dtype, spec.shape, bytes(reader.read(0, spec.rows).buffer))
    content = json.loads(pieces.pop("record")[2])
    edit(content, pieces)
    if isinstance(content.get("pieces"), dict):
        content["pieces"] = {name: root_of(data) for name, (_, _, data) in pieces.items()}
    text = json.dumps(content).encode()
    pieces["record"] = ("uint8", (len(text),), text)
    path.unlink()
    write_safetensors(path, pieces, {METADATA_KEY: root_of(text)})


def put(*keys: str, value: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def edit(content: dict[str, Any], _: dict[str, Any]) -> None:
        place: Any = content
        for key in keys[:-1]:
            place = place[int(key) if isinstance(place, list) else key]
        place[keys[-1]] = value

    return edit


def short_part(_: dict[str, Any], pieces: dict[str, Any]) -> None:
    dtype, _shape, data = pieces[f"tensor/{NAME}"]
    pieces[f"tensor/{NAME}"] = (dtype, (len(data) // 2,), data[: len(data) // 2])


def other_bits(_: dict[str, Any], pieces: dict[str, Any]) -> None:
    dtype, shape, data = pieces[f"tensor/{NAME}"]
    pieces[f"tensor/{NAME}"] = (dtype, shape, bytes(byte ^ 0x55 for byte in data))


def other_factor(_: dict[str, Any], pieces: dict[str, Any]) -> None:
    dtype, shape, data = pieces["factor/0"]
    pieces["factor/0"] = (dtype, (shape[0] * shape[1], 1), data)


ATTACKS: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
    "a file above the folder": put("files", "../evil", value={"root": "0" * 64, "kept": True}),
    "a file at the root": put("files", "/tmp/evil", value={"root": "0" * 64, "kept": True}),
    "a file behind two dots": put("files", "a/../../evil", value={"root": "0" * 64, "kept": True}),
    "a file that is not held": put("files", "evil", value={"root": "0" * 64, "kept": True}),
    "a shard above the folder": put("shards", "../evil.safetensors", value=8),
    "a shard of a gigantic size": put("shards", "model.safetensors", value=2**60),
    "a shard of a negative size": put("shards", "model.safetensors", value=-1),
    "a shard that is no number": put("shards", "model.safetensors", value="many"),
    "a tensor in no shard": put("tensors", NAME, "file", value="other.safetensors"),
    "a tensor elsewhere": put("tensors", NAME, "offset", value=8),
    "a tensor before the file": put("tensors", NAME, "offset", value=-8),
    "another shape": put("tensors", NAME, "shape", value=[2**40, 2**40]),
    "no shape": put("tensors", NAME, "shape", value="wide"),
    "another dtype": put("tensors", NAME, "dtype", value="float32"),
    "an unknown dtype": put("tensors", NAME, "dtype", value="F4_OF_MINE"),
    "an unknown way": put("tensors", NAME, "how", value="eval"),
    "copied where it was merged": put("tensors", NAME, "how", value="copied"),
    "whole where it is not": put("tensors", NAME, "how", value="whole"),
    "bits without end": put("tensors", NAME, "bits", value=2**62),
    "more elements apart": put("tensors", NAME, "apart", value=10**6),
    "no steps": put("tensors", NAME, "steps", value=[]),
    "steps of another kind": put("tensors", NAME, "steps", value=[{"kind": "exec"}]),
    "steps that are no objects": put("tensors", NAME, "steps", value=[1, 2]),
    "a factor that is not there": put("tensors", NAME, "steps", "0", "A", value="factor/99"),
    "a factor that is none": put("tensors", NAME, "steps", "0", "A", value="record"),
    "a scaling that is none": put("tensors", NAME, "steps", "0", "scaling", value="nan?"),
    "no tensors": put("tensors", value=[]),
    "no schema": put("schema", value=3),
    "an earlier schema": put("schema", value=1),
    "a negative seed": put("seed", value=-1),
    "a seed that is no number": put("seed", value=True),
    "merged tensors that are none": put("merged", value=7),
    "no pieces": put("pieces", value=None),
    "a part cut short": short_part,
    "other bits": other_bits,
    "a factor of another shape": other_factor,
}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    tensors = decoder(dtype=torch.bfloat16, layers=1, hidden=64)
    base = write_decoder(folder / "base", tensors)
    merge(base, [write_adapter(folder / "adapter", lora_factors(tensors))], folder / "merged", undo=True)
    return folder / "merged"


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_attack_is_refused_in_one_line(attack: str, merged: Path, tmp_path: Path) -> None:
    path = merged / "loratools-undo/merge-0001.safetensors"
    whole = path.read_bytes()
    try:
        rewrite(path, ATTACKS[attack])
        with pytest.raises(LoratoolsError) as refusal:
            unmerge(merged, (), tmp_path / "room" / "back")
    finally:
        path.write_bytes(whole)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == [], "nothing was written, beside the target neither"
    unmerge(merged, (), tmp_path / "back")  # the record itself was good


def test_a_record_of_another_merge_is_refused(merged: Path, tmp_path: Path) -> None:
    path = merged / "loratools-undo/merge-0001.safetensors"
    whole = path.read_bytes()
    (merged / "loratools-undo/merge-0003.safetensors").write_bytes(whole)
    with pytest.raises(LoratoolsError, match="the record of merge 2 is missing"):
        unmerge(merged, (), tmp_path / "back")
    (merged / "loratools-undo/merge-0003.safetensors").rename(
        merged / "loratools-undo/merge-0002.safetensors"
    )
    with pytest.raises(LoratoolsError, match="do not follow on one another"):
        unmerge(merged, (), tmp_path / "back", all_merges=True)
    (merged / "loratools-undo/merge-0002.safetensors").unlink()
