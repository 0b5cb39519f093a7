"""The header parser beside the safetensors package itself."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fixtures.hostile_safetensors import BIAS, HONEST, safetensors_bytes
from loratools.checkpoints import safetensors
from loratools.checkpoints.safetensors import DTYPES, read_header


def test_a_file_of_the_library_is_listed_as_the_library_lists_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {
        "layers.0.weight": torch.randn(5, 3),
        "layers.1.weight": torch.randn(2, 3, 4).bfloat16(),
        "flags": torch.tensor([True, False, True]),
        "step": torch.tensor(7),
        "empty": torch.zeros(0, 4, dtype=torch.float16),
        "wörter.日本": torch.zeros(1, dtype=torch.float64),
    }
    save_file(tensors, path, metadata={"format": "pt", "note": "é"})
    header = read_header(path)
    assert header.metadata == {"format": "pt", "note": "é"}
    assert header.warnings == ()
    assert header.tensors.keys() == tensors.keys()
    content = path.read_bytes()
    for name, tensor in tensors.items():
        spec = header.tensors[name]
        assert (spec.dtype, spec.shape) == (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        stored = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        assert content[spec.offset : spec.offset + spec.bytes] == stored


def test_every_readable_dtype_has_the_libraries_word(tmp_path: Path) -> None:
    for word, name in DTYPES.items():
        save_file({"x": torch.zeros(2, dtype=getattr(torch, name))}, tmp_path / "x.safetensors")
        with safe_open(tmp_path / "x.safetensors", framework="pt") as theirs:
            assert theirs.get_slice("x").get_dtype() == word
        assert read_header(tmp_path / "x.safetensors").tensors["x"].dtype == name


def test_a_header_without_padding_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """Writers before safetensors 0.3 did not pad the header, so that all offsets in the file were odd."""
    content = safetensors_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip() + b" "
    assert len(header) % 8
    (tmp_path / "old.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + content[8 + length :]
    )
    assert read_header(tmp_path / "old.safetensors").tensors["bias"].shape == (2,)


def test_a_header_above_the_hubs_cap_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "HUB_HEADER_BYTES", 100)
    (tmp_path / "big.safetensors").write_bytes(
        safetensors_bytes({"__metadata__": {"note": "x" * 100}, **HONEST})
    )
    (warning,) = read_header(tmp_path / "big.safetensors").warnings
    assert "above the hub's 100" in warning


def test_dtypes_that_cannot_be_read_are_listed_with_their_sizes(tmp_path: Path) -> None:
    header = {
        "scale": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]},
        "packed": {"dtype": "F4", "shape": [4, 4], "data_offsets": [8, 16]},
        "waves": {"dtype": "C64", "shape": [1], "data_offsets": [16, 24]},
    }
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(header, bytes(24)))
    listed = read_header(tmp_path / "x.safetensors").tensors
    assert {name: (spec.dtype, spec.bytes) for name, spec in listed.items()} == {
        "scale": ("F8_E8M0", 8),
        "packed": ("F4", 8),
        "waves": ("C64", 8),
    }


def test_tensors_may_come_in_any_order_and_be_empty(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0, 5], "data_offsets": [24, 24]}
    header = {"bias": BIAS, "empty": empty, "weight": HONEST["weight"]}
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(header))
    assert read_header(tmp_path / "x.safetensors").tensors["empty"].bytes == 0
