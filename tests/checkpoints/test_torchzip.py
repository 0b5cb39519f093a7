"""Torch zips, read without torch, beside torch's own `weights_only` loader."""

import pickle
import subprocess
import sys
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch

from fixtures.torch_files import Claim, called, pickled, text, torch_zip
from loratools.checkpoints.reference import open_checkpoint
from loratools.checkpoints.torchzip import read_state_dict
from loratools.errors import LoratoolsError


def assert_as_torch_loads_it(path: Path) -> None:
    theirs = torch.load(path, weights_only=True)
    ours = open_checkpoint(path)
    assert list(ours) == sorted(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours.read(name).torch(), tensor), name


def test_a_modules_state_dict(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    torch.save(model.to(torch.bfloat16).state_dict(), tmp_path / "model.pt")
    assert_as_torch_loads_it(tmp_path / "model.pt")


def test_parameters_views_and_shared_storages(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    shared = torch.nn.Parameter(base[1:3])
    state = OrderedDict(
        whole=base, part=shared, tied=shared, turned=base.t(), channels=torch.randn(2, 3, 4, 5)
    )
    state["channels"] = state["channels"].to(memory_format=torch.channels_last)
    torch.save(state, tmp_path / "model.bin")
    assert_as_torch_loads_it(tmp_path / "model.bin")
    listed = read_state_dict(tmp_path / "model.bin").tensors
    assert listed["part"].storage == listed["whole"].storage
    assert listed["part"].offset == listed["whole"].offset + 6 * 4


def test_a_tensor_with_attributes_of_its_own(tmp_path: Path) -> None:
    tensor = torch.ones(3)
    tensor.note = "kept by torch, of no use here"
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "likewise"
    torch.save({"x": tensor, "p": parameter}, tmp_path / "x.pt")
    assert_as_torch_loads_it(tmp_path / "x.pt")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_what_cannot_be_computed_with_is_listed(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({"x": torch.ones(4).to(dtype)}, tmp_path / "x.pt")
    spec = read_state_dict(tmp_path / "x.pt").tensors["x"]
    assert (spec.dtype, spec.bytes) == (str(dtype).removeprefix("torch."), 4 * dtype.itemsize)


def test_offsets_are_those_that_torch_itself_finds(tmp_path: Path) -> None:
    torch.save({f"w{i}": torch.randn(i + 1, 3) for i in range(5)}, tmp_path / "x.pt")
    meta = torch.load(tmp_path / "x.pt", weights_only=True, map_location="meta")
    offsets = {name: tensor.untyped_storage()._checkpoint_offset for name, tensor in meta.items()}
    if None in offsets.values():
        pytest.skip("this release of torch does not tell a storage's place under meta")
    assert {name: spec.offset for name, spec in read_state_dict(tmp_path / "x.pt").tensors.items()} == offsets


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_training_checkpoint_gives_its_state_dict_and_says_what_else_it_has(
    wrapper: str, tmp_path: Path
) -> None:
    linear = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(linear.parameters())
    linear(torch.ones(3)).sum().backward()
    optimizer.step()
    checkpoint = {
        wrapper: linear.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "milestones": Counter([1, 2]),
        "size": linear.weight.shape,
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "seen": {1, 2},
        "raw": bytearray(b"x"),
        "number": 2.5,
        "huge": 2**40,
        "none": None,
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    opened = open_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(opened.read("weight").torch(), linear.weight)
    (warning,) = opened.warnings
    assert f"beside {wrapper}" in warning and "optimizer" in warning and "6 more" in warning


def test_entries_that_are_no_tensors_are_passed_over_and_said(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "version": 3, "extra": {"a": 1}}, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    assert list(opened) == ["weight"]
    assert opened.warnings == ("x.pt: no tensors, and not read: version, extra",)


class Payload:
    """Unpickled, it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.target, "executed")


def test_code_in_a_pickle_is_named_and_not_run(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "payload": Payload(tmp_path / "never")}, tmp_path / "x.pt")
    with pytest.raises(
        LoratoolsError, match=r"would run code, pathlib.*write_text|would run code, __builtin__"
    ):
        open_checkpoint(tmp_path / "x.pt")
    assert not (tmp_path / "never").exists()


def test_whole_modules_are_named(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(LoratoolsError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\) alone"):
        open_checkpoint(tmp_path / "x.pt")


def test_old_files_programs_and_other_protocols_are_refused_by_what_they_are(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(LoratoolsError, match=r"torch before 1\.6"):
        open_checkpoint(tmp_path / "old.pt")
    script = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(2))
    torch.jit.save(script, tmp_path / "script.pt")
    with pytest.raises(LoratoolsError, match="TorchScript"):
        open_checkpoint(tmp_path / "script.pt")
    torch.save({"x": torch.ones(2)}, tmp_path / "new.pt", pickle_protocol=4)
    with pytest.raises(LoratoolsError, match="not of protocol 2"):
        open_checkpoint(tmp_path / "new.pt")


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.eye(2).to_sparse(), "a sparse tensor"),
        (torch.ones(2, dtype=torch.complex64).conj(), "a lazily conjugated or negated tensor"),
    ],
    ids=["sparse", "conjugated"],
)
def test_tensors_without_plain_bytes_are_refused_by_name(
    tensor: torch.Tensor, what: str, tmp_path: Path
) -> None:
    torch.save({"x": tensor}, tmp_path / "x.pt")
    with pytest.raises(LoratoolsError, match=rf"{what} cannot be read \(.*x\.pt, x\)"):
        open_checkpoint(tmp_path / "x.pt")


def test_a_tensor_changed_after_it_was_made_is_refused(tmp_path: Path) -> None:
    """BUILD on a tensor would give it another shape; torch's own loader honours it."""
    tensor = pickled({"x": Claim()})[len(b"\x80\x02}(" + text("x")) : -2]
    data = b"\x80\x02}" + text("x") + tensor + b"}bs."
    (tmp_path / "x.pt").write_bytes(torch_zip(data, {"0": bytes(24)}))
    with pytest.raises(LoratoolsError, match="changes a tensor after it was made"):
        open_checkpoint(tmp_path / "x.pt")


def test_only_the_table_can_be_called(tmp_path: Path) -> None:
    """A record of the table is not callable as a type, and a dtype is no function."""
    for name in (
        "torch bfloat16",
        "torch FloatStorage",
        "torch.nn.parameter Parameter.__init__",
        "builtins eval",
    ):
        data = pickled({"x": Claim(), "y": called(name, text("1"))})
        (tmp_path / "x.pt").write_bytes(torch_zip(data, {"0": bytes(24)}))
        with pytest.raises(LoratoolsError):
            open_checkpoint(tmp_path / "x.pt")


def test_reading_a_torch_file_imports_no_torch(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "x.pt")
    code = (
        "import sys; from loratools.checkpoints.reference import open_checkpoint;"
        f"c = open_checkpoint({str(tmp_path / 'x.pt')!r});"
        "assert bytes(c.read('x').buffer).hex() == '0000803f' * 2;"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_any_pickle_of_plain_data_is_a_refusal_or_a_state_dict(tmp_path: Path) -> None:
    for value in ([1, 2], "text", {"a": 1}, {"a": {"b": [1, (2, 3)]}}, None, 3.5):
        (tmp_path / "x.pt").write_bytes(torch_zip(pickle.dumps(value, protocol=2), {}))
        with pytest.raises(LoratoolsError, match="no state dict"):
            open_checkpoint(tmp_path / "x.pt")
