"""Plans are made from headers: no byte of a weight is read by a dry run, and each header only once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder
from fixtures.pairs import llama_pair
from loratools.checkpoints import system
from loratools.checkpoints.system import Place, System
from loratools.cli.app import application

PAGE = 8192
"""What a buffer reads ahead at most, behind a header."""


@dataclass
class Watching(System):
    """Refuses to read weights: what lies behind a weight file's header, but for what a buffer reads ahead."""

    starts: dict[int, int] = field(default_factory=dict)
    """The first byte of the weights, by open handle."""
    opened: list[str] = field(default_factory=list)

    def open(self, path: Place, flags: int, mode: int = 0o666, *, within: int | None = None) -> int:
        handle = super().open(path, flags, mode, within=within)
        if str(path).endswith(".safetensors"):
            self.opened.append(str(path))
            with Path(path).open("rb") as file:
                self.starts[handle] = 8 + int.from_bytes(file.read(8), "little")
        return handle

    def close(self, handle: int) -> None:
        self.starts.pop(handle, None)
        super().close(handle)

    def read_at(self, handle: int, buffer: memoryview, offset: int) -> int:
        start = self.starts.get(handle)
        ahead = len(buffer) <= PAGE and start is not None and offset < start
        if start is not None and offset + len(buffer) > start and not ahead:
            raise AssertionError(f"{len(buffer)} bytes are read at {offset}: weights begin at {start}")
        return super().read_at(handle, buffer, offset)


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watching]:
    made = Watching()
    monkeypatch.setattr(system, "calls", made)
    yield made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tensors = decoder(layers=2)
    write_decoder(folder / "model", tensors, shards=2)
    for seed in range(2):
        write_adapter(folder / f"adapter-{seed}", lora_factors(tensors, seed=seed))
    llama_pair(folder / "pair", layers=2, hidden=128, ffn=256)
    return folder


LINES = {
    "merge": ["merge", "model", "adapter-0", "adapter-1=0.5"],
    "merge with an undo record": ["merge", "model", "adapter-0", "--undo", "--shard-size", "10kB"],
    "merge into another dtype": ["merge", "model", "adapter-0", "--dtype", "bfloat16"],
    "extract": ["extract", "pair/base", "pair/tuned", "--rank", "4"],
    "extract by energy": ["extract", "pair/base", "pair/tuned", "--energy", "0.9", "--rest", "drop"],
    "analyze a pair": ["analyze", "pair/base", "pair/tuned"],
    "analyze adapters": ["analyze", "adapter-0", "adapter-1"],
    "analyze an adapter on its base": ["analyze", "model", "adapter-0"],
    "resize": ["resize", "adapter-0", "--rank", "1"],
    "combine": ["combine", "adapter-0", "adapter-1", "--method", "svd"],
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_dry_run_reads_no_weights(
    line: list[str], models: Path, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    result = CliRunner().invoke(application, [*line, "--dry-run", "--json"])
    assert result.exit_code == 0, result.stderr
    assert watching.opened


def test_the_watch_sees_weights(models: Path, watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    result = CliRunner().invoke(application, ["analyze", "adapter-0", "--json"])
    assert result.exit_code == 1
    assert "weights begin at" in result.stdout


def test_references_are_opened_once(
    models: Path, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice each: for what the first bytes say it is, and for its header."""
    monkeypatch.chdir(models)
    assert CliRunner().invoke(application, [*LINES["merge"], "--dry-run"]).exit_code == 0
    assert len(watching.opened) == 2 * len(set(watching.opened)) == 2 * 4
