"""Every hostile checkpoint is refused in one line that says why; the honest ones they are made from open."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures import hostile
from fixtures.hostile_case import Hostile
from fixtures.hostile_safetensors import HONEST, safetensors_bytes
from fixtures.hostile_shards import write_shards
from fixtures.hostile_torch import honest_torch
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.reference import open_checkpoint
from loratools.errors import LoratoolsError


@pytest.mark.parametrize("case", hostile.CHECKPOINTS, ids=lambda case: case.name)
def test_hostile_files_are_refused_in_a_line(case: Hostile, tmp_path: Path) -> None:
    reference = case.make(tmp_path)
    opened: Checkpoint | None = None
    with pytest.raises(LoratoolsError) as refusal:
        opened = open_checkpoint(reference)
        for name in opened:
            opened.read(name)
    assert (opened is not None) == case.when_read
    assert case.refusal in refusal.value.message
    assert str(refusal.value).isprintable()
    assert refusal.value.file is not None
    assert refusal.value.exit_code == 1


def test_the_honest_files_open(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes())
    (tmp_path / "torch.bin").write_bytes(honest_torch())
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shards(shards)
    expected = [[0, 1, 2], [3, 4, 5]]
    for reference in (tmp_path / "model.safetensors", tmp_path / "torch.bin", shards):
        opened = open_checkpoint(reference)
        assert opened.read("weight").numpy().tolist() == expected
        assert opened.warnings == ()


def test_a_wrong_total_size_is_only_a_warning(tmp_path: Path) -> None:
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    weight_map = dict(zip(("weight", "bias"), names, strict=True))
    write_shards(tmp_path, {"metadata": {"total_size": 31}, "weight_map": weight_map})
    (warning,) = open_checkpoint(tmp_path).warnings
    assert "31 bytes" in warning and "32" in warning


def test_main_writes_them_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile.main(tmp_path / "all")
    assert len(capsys.readouterr().out.splitlines()) == len(hostile.ALL)


_settings = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("honest", [safetensors_bytes(), honest_torch()], ids=["safetensors", "torch"])
@given(data=st.data())
@_settings
def test_no_damage_escapes_as_another_error(honest: bytes, data: st.DataObject, tmp_path: Path) -> None:
    """Bytes are overwritten, dropped or added: what opens is read inside the file, the rest refused."""
    at = data.draw(st.integers(0, len(honest) - 1))
    until = data.draw(st.integers(at, min(len(honest), at + 8)))
    damaged = honest[:at] + data.draw(st.binary(max_size=12)) + honest[until:]
    path = tmp_path / "weights"
    path.write_bytes(damaged)
    try:
        opened = open_checkpoint(path)
        for name, spec in opened.items():
            assert spec.offset + spec.bytes <= len(damaged) or spec.strides
            assert len(opened.read(name).buffer) == spec.bytes
    except LoratoolsError as error:
        assert str(error).isprintable()


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-10, 10**20)
    | st.text(max_size=5)
    | st.sampled_from(["F32", "U8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    where=st.sampled_from(["weight", "dtype", "shape", "data_offsets", "__metadata__", "new"]), value=_json
)
@_settings
def test_what_safetensors_refuses_is_refused_here(where: str, value: object, tmp_path: Path) -> None:
    """One part of an honest header says anything else: nothing opens here that does not open there."""
    from safetensors import SafetensorError, safe_open

    header = json.loads(json.dumps(HONEST))
    (header if where in ("weight", "__metadata__", "new") else header["weight"])[where] = value
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(header))
    try:
        opened = open_checkpoint(path)
    except LoratoolsError:
        return
    try:
        with safe_open(path, framework="np") as theirs:
            assert sorted(theirs.keys()) == list(opened)
    except SafetensorError as error:
        pytest.fail(f"safetensors refuses it: {error}")
