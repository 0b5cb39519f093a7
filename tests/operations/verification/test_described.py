"""The hashes of an output are those that docs/formats.md describes, computed here from nothing but that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from fixtures.flipped_bits import OUTPUTS, write_outputs

BLOCK = 8 * 2**20


def hash_of(data: bytes) -> str:
    blocks = [data[first : first + BLOCK] for first in range(0, len(data), BLOCK)] or [b""]
    return blake3(b"".join(blake3(block).digest() for block in blocks)).hexdigest()


def start_and_tensors(file: Path) -> tuple[bytes, dict[str, Any], dict[str, bytes]]:
    """A safetensors file: its bytes before the data, its header, and the bytes of each tensor."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    tensors = {
        name: data[end + entry["data_offsets"][0] : end + entry["data_offsets"][1]]
        for name, entry in header.items()
        if name != "__metadata__"
    }
    return data[:end], header, tensors


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_outputs(tmp_path_factory.mktemp("outputs"))


@pytest.mark.parametrize("name", [name for name in OUTPUTS if "." not in name])
def test_of_a_folder(name: str, outputs: Path) -> None:
    folder = outputs / name
    sealed = (folder / "loratools.json").read_bytes()
    record = json.loads(sealed)
    assert record["seal"] == hash_of(sealed.replace(record["seal"].encode(), b"0" * 64))
    weights = sorted(folder.rglob("*.safetensors"))
    assert record["headers"] == {
        path.relative_to(folder).as_posix(): hash_of(start_and_tensors(path)[0]) for path in weights
    }
    others = {path for path in folder.rglob("*") if path.is_file()} - {*weights, folder / "loratools.json"}
    assert record["files"] == {
        path.relative_to(folder).as_posix(): hash_of(path.read_bytes()) for path in others
    }
    held = [start_and_tensors(path)[2] for path in weights if path.parent == folder]
    assert record["tensors"] == {key: hash_of(data) for one in held for key, data in one.items()}


def test_of_one_file(outputs: Path) -> None:
    start, header, tensors = start_and_tensors(outputs / "one.safetensors")
    record = json.loads(header["__metadata__"]["loratools"])
    assert record["seal"] == hash_of(start.replace(record["seal"].encode(), b"0" * 64))
    assert record["tensors"] == {key: hash_of(data) for key, data in tensors.items()}
    assert (record["headers"], record["files"]) == ({}, {})


def test_of_inputs(outputs: Path) -> None:
    record = json.loads((outputs / "merged" / "loratools.json").read_text())
    base, adapter = record["inputs"]
    lines = []
    for path in (outputs / "inputs" / "base").glob("*.safetensors"):
        _, header, tensors = start_and_tensors(path)
        for name, data in tensors.items():
            assert header[name]["dtype"] == "BF16"
            shape = ",".join(map(str, header[name]["shape"]))
            lines.append(f"{name}\0bfloat16\0{shape}\0{hash_of(data)}\n")
            assert base["tensors"][name] == hash_of(data)
    assert base["fingerprint"] == blake3("".join(sorted(lines)).encode()).hexdigest()
    configs = {"base": "config.json", "adapter": "adapter_config.json"}
    for entry in (base, adapter):
        path = outputs / "inputs" / entry["name"] / configs[entry["role"]]
        assert entry["config"] == hash_of(path.read_bytes())
