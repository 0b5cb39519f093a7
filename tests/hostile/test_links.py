"""Links put where we are about to write, between the look at a name and its use: nothing gets out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures.hostile_adapters import write_adapter
from fixtures.hostile_configs import write_base
from loratools.checkpoints import system
from loratools.checkpoints.files import open_regular, reading, write_bytes
from loratools.checkpoints.parts import PartWriter, SafetensorsLayout
from loratools.errors import LoratoolsError
from loratools.operations.extract import extract
from loratools.operations.merge import merge

LAYOUT = SafetensorsLayout.of([("w", "float32", (4,))])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that nothing may be written to, with a file that nothing may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_bytes(b"untouched" * 100)
    return folder


def untouched(outside: Path) -> bool:
    return [path.name for path in outside.iterdir()] == ["precious"] and (
        outside / "precious"
    ).read_bytes() == b"untouched" * 100


@pytest.mark.parametrize("target", ["precious", "new"])
def test_a_weight_file_is_made_anew_and_never_through_a_link(
    outside: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "model.safetensors").symlink_to(outside / target)
    with pytest.raises(LoratoolsError, match="cannot create"):
        LAYOUT.create(tmp_path / "model.safetensors")
    assert untouched(outside)


def test_a_part_is_not_opened_through_a_link(outside: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    LAYOUT.create(path)
    path.unlink()
    path.symlink_to(outside / "precious")
    with pytest.raises(LoratoolsError, match="cannot open"):
        PartWriter(path)
    assert untouched(outside)


@pytest.mark.parametrize("target", ["precious", "new"])
def test_a_side_file_is_not_written_through_a_link(outside: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "config.json").symlink_to(outside / target)
    with pytest.raises(OSError):
        write_bytes(tmp_path / "config.json", b"{}")
    assert untouched(outside)


def test_what_became_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (open_regular, reading):
        with pytest.raises(OSError, match="not a regular file"):
            read(tmp_path / "pipe")


class Racing(system.System):
    """The system's calls, and before each one that changes something, somebody else's."""

    def __init__(self, act: Callable[[Path], None]) -> None:
        self._act = act

    def open(self, path: Any, flags: int, mode: int = 0o666, *, within: int | None = None) -> int:
        if flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            self._act(Path(path))
        return super().open(path, flags, mode, within=within)

    def mkdir(self, folder: Any) -> None:
        self._act(Path(folder))
        super().mkdir(folder)


def plant(outside: Path, name: str) -> Callable[[Path], None]:
    """Puts a link to the outside in the place of the first thing called so, just before it is made."""

    def act(path: Path) -> None:
        if path.name == name and not os.path.lexists(path):
            path.symlink_to(outside / "precious" if "." in name else outside)

    return act


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "loratools.json", "loratools-undo", "merge-0001.safetensors"]
)
def test_a_merge_raced_for_a_name_writes_nothing_outside(
    name: str, outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")
    monkeypatch.setattr(system, "calls", Racing(plant(outside, name)))
    try:
        merge(base, [adapter], tmp_path / "out", undo=True)
    except (LoratoolsError, OSError) as error:
        assert "\n" not in str(error)
    assert untouched(outside)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "README.md"])
def test_an_extract_raced_for_a_name_writes_nothing_outside(
    name: str, outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = write_base(tmp_path / "base"), write_base(tmp_path / "tuned", value=2.0)
    monkeypatch.setattr(system, "calls", Racing(plant(outside, name)))
    try:
        extract(base, tuned, tmp_path / "out", rank=1)
    except (LoratoolsError, OSError) as error:
        assert "\n" not in str(error)
    assert untouched(outside)


def test_the_partial_folder_changed_for_a_link_writes_nothing_outside(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its random name is known to who watches the folder: what was made in it must not be found outside."""
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")

    def act(path: Path) -> None:
        partial = next((parent for parent in path.parents if ".partial-" in parent.name), None)
        if partial is not None and path.name == "config.json" and not partial.is_symlink():
            shutil.move(partial, partial.with_name("moved"))
            partial.symlink_to(outside)

    monkeypatch.setattr(system, "calls", Racing(act))
    with pytest.raises((LoratoolsError, OSError)):
        merge(base, [adapter], tmp_path / "out")
    assert (outside / "precious").read_bytes() == b"untouched" * 100


def test_a_hostile_folder_s_links_are_not_copied_from(outside: Path, tmp_path: Path) -> None:
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")
    (base / "notes.txt").symlink_to(outside / "precious")
    (base / "more").symlink_to(outside)
    (adapter / "tokenizer.json").write_text("{}")
    (adapter / "vocab.txt").symlink_to(outside / "precious")
    report = merge(base, [adapter], tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").rglob("*")}
    assert not written & {"notes.txt", "more", "precious", "vocab.txt"}
    assert any("a link that leads out of the folder" in warning for warning in report.warnings)


def test_the_target_s_parent_changed_for_a_link(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that the output was to lie in becomes a link before anything is made: nothing follows it."""
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")
    room = tmp_path / "room"
    room.mkdir()

    def act(path: Path) -> None:
        if ".partial-" in path.name and not room.is_symlink():
            room.rename(tmp_path / "moved")
            room.symlink_to(outside)

    monkeypatch.setattr(system, "calls", Racing(act))
    with pytest.raises((LoratoolsError, OSError)):
        merge(base, [adapter], room / "out")
    assert untouched(outside)
