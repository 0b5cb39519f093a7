"""Plans are made from headers: no byte of a weight is read by a dry run, and each header only once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fixtures.lora_files import decoder, decoder_config, lora_factors, write_adapter, write_decoder
from fixtures.pairs import llama_pair, write_checkpoint
from fixtures.peft_models import CASES, TIED_CASES, make_adapter, save_base, tiny_llama
from loratools.checkpoints import system
from loratools.checkpoints.system import Place, System
from loratools.cli.app import application

PAGE = 8192
"""What a buffer reads ahead at most, behind a header."""


@dataclass
class Watching(System):
    """Refuses to read weights: what lies behind a weight file's header, but for what a buffer reads ahead."""

    starts: dict[int, int] = field(default_factory=dict)
    """The first byte behind the header, by open handle."""
    texts: dict[int, list[range]] = field(default_factory=dict)
    """Bytes behind it that are no weights: an undo record's own text, headers and small files."""
    opened: list[str] = field(default_factory=list)

    def open(self, path: Place, flags: int, mode: int = 0o666, *, within: int | None = None) -> int:
        handle = super().open(path, flags, mode, within=within)
        if str(path).endswith(".safetensors"):
            self.opened.append(str(path))
            with Path(path).open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length)) if "loratools-undo" in str(path) else {}
            self.starts[handle] = 8 + length
            self.texts[handle] = [
                range(*(8 + length + place for place in entry["data_offsets"]))
                for name, entry in header.items()
                if name == "record" or name.startswith(("header/", "file/"))
            ]
        return handle

    def close(self, handle: int) -> None:
        self.starts.pop(handle, None)
        self.texts.pop(handle, None)
        super().close(handle)

    def read_at(self, handle: int, buffer: memoryview, offset: int) -> int:
        start = self.starts.get(handle)
        ahead = len(buffer) <= PAGE and start is not None and offset < start
        text = any(
            held.start <= offset and offset + len(buffer) <= held.stop for held in self.texts.get(handle, ())
        )
        if start is not None and offset + len(buffer) > start and not ahead and not text:
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


WHOLE = ("modules to save", "lora_bias", "bias lora_only", "token rows", "dora with saved modules and rows")
"""Kinds of adapters that hold what the base holds too."""


@pytest.fixture(scope="module")
def unusual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases and adapters by kind: those that touch a tie, and those that hold tensors of the base whole."""
    folder = tmp_path_factory.mktemp("unusual")
    for tied in TIED_CASES:
        name = f"tied {tied.name}"
        save_base(tiny_llama(tied=True), folder / name / "base")
        make_adapter(tiny_llama(tied=True), folder / name / "adapter", save=tied.save, **tied.options)
    for case in (case for case in CASES if case.name in WHOLE):
        save_base(case.model(), folder / case.name / "base")
        make_adapter(case.model(), folder / case.name / "adapter", **case.options)
    whole = {"target_modules": ["embed_tokens", "q_proj"], "r": 4}
    save_base(tiny_llama(), folder / "whole beside factors" / "base")
    make_adapter(
        tiny_llama(),
        folder / "whole beside factors" / "adapter",
        save={"save_embedding_layers": True},
        **whole,
    )
    save_base(tiny_llama(), folder / "bias of nothing" / "base")
    zero = {"model.layers.0.self_attn.q_proj.lora_B.bias": torch.zeros(32)}
    factors = {"model.layers.0.self_attn.q_proj": (torch.ones(4, 32), torch.ones(32, 4))}
    write_adapter(folder / "bias of nothing" / "adapter", factors, more=zero, lora_bias=True)
    for kind, size in (("tied on disk", 0.0), ("tied on disk, and differ", 1.0)):
        tensors = decoder(tied=True)
        embedding = tensors["model.embed_tokens.weight"]
        checkpoint = {**tensors, "lm_head.weight": embedding + size}
        write_checkpoint(folder / kind / "base", checkpoint, decoder_config(tensors))
        write_adapter(folder / kind / "adapter", lora_factors(checkpoint, modules=["lm_head", "q_proj"]))
    for kind in KINDS:
        copytree(folder / kind / "base", folder / kind / "tuned")
    return folder


OWN = ("whole beside factors", "bias of nothing", "tied on disk", "tied on disk, and differ")
KINDS = [*(f"tied {case.name}" for case in TIED_CASES), *WHOLE, *OWN]


def coverage(report: dict[str, Any]) -> dict[tuple[str, str], tuple[str, str]]:
    return {(row["input"], row["tensor"]): (row["action"], row["reason"]) for row in report["coverage"]}


def told(line: list[str]) -> dict[str, Any]:
    result = CliRunner().invoke(application, [*line, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


VERBS = {
    "merge": ["merge", "base", "adapter"],
    "merge together": ["merge", "base", "adapter", "--tied", "tie"],
    "merge apart": ["merge", "base", "adapter", "--tied", "untie"],
    "merge with an undo record": ["merge", "base", "adapter", "--undo"],
    "extract": ["extract", "base", "tuned", "--rank", "2"],
    "analyze": ["analyze", "base", "adapter"],
    "analyze beside a pair": ["analyze", "base", "tuned", "adapter"],
    "verify": ["verify", "base", "tuned", "adapter"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_adapter_has_weights_read(
    kind: str, unusual: Path, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unusual / kind)
    for line in VERBS.values():
        told([*line, "--dry-run"])
    assert watching.opened


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_that_reads_nothing_holds(
    kind: str, unusual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not pending comes as planned, and no more weights are written than were foretold."""
    monkeypatch.chdir(unusual / kind)
    planned = told([*VERBS["merge"], "--dry-run"])
    done = told([*VERBS["merge"], "-o", str(tmp_path / "merged")])
    fates = coverage(done)
    for key, (action, reason) in coverage(planned).items():
        if action == "pending":
            assert "tell" in reason
        elif fates[key][0] != "unchanged":
            assert fates[key] == (action, reason)
    written = sum(file.stat().st_size for file in (tmp_path / "merged").glob("*.safetensors"))
    assert written <= planned["plan"]["weight_bytes"]
    assert (
        sum(file.stat().st_size for file in (tmp_path / "merged").iterdir()) <= planned["plan"]["write_bytes"]
    )
    if planned["plan"]["weights_written"] == "exactly":
        assert written == planned["plan"]["weight_bytes"]


PENDING = {
    "whole beside factors": "base_model.model.model.embed_tokens.base_layer.weight",
    "bias of nothing": "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
    "tied both": "base_model.model.lm_head.lora_B.weight",
    "tied saved head": "base_model.model.lm_head.weight",
}


@pytest.mark.parametrize("verb", ["merge", "analyze"])
@pytest.mark.parametrize(("kind", "key"), PENDING.items(), ids=PENDING)
def test_what_values_alone_tell_is_pending(
    kind: str, key: str, verb: str, unusual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unusual / kind)
    planned = told([*VERBS[verb], "--dry-run"])
    action, reason = next(fate for (_, name), fate in coverage(planned).items() if name == key)
    assert action == "pending"
    assert reason.startswith("the values, which a dry run does not read, tell whether ")
    if "tied" in kind and verb == "merge":
        assert coverage(planned)["base", "model.embed_tokens.weight"][0] == "pending"
        assert planned["plan"]["weights_written"] == "at most"
        assert not any("written apart" in line for line in planned["warnings"])
    done = told([*VERBS[verb], *(["-o", "merged", "--force"] if verb == "merge" else [])])
    assert all(action != "pending" for action, _ in coverage(done).values())


@pytest.fixture(scope="module")
def merged(unusual: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that two adapters were merged into, with its record, with its undo record, and without any."""
    folder = tmp_path_factory.mktemp("merged")
    tensors = decoder(layers=2)
    write_decoder(folder / "model", tensors)
    for name, modules in (("one", ["q_proj", "up_proj"]), ("two", ["k_proj"]), ("other", ["k_proj"])):
        write_adapter(folder / name, lora_factors(tensors, seed=len(name), modules=modules))
    write_adapter(folder / "stranger", lora_factors(tensors, modules=["o_proj"]))
    pair = [str(folder / "one"), str(folder / "two")]
    told(["merge", str(folder / "model"), *pair, "-o", str(folder / "recorded")])
    told(["merge", str(folder / "model"), *pair, "--undo", "-o", str(folder / "undoable")])
    kind = unusual / "whole beside factors"
    copytree(kind / "adapter", folder / "whole")
    told(["merge", str(kind / "base"), str(folder / "whole"), "-o", str(folder / "of whole")])
    copytree(folder / "of whole", folder / "unrecorded")
    (folder / "unrecorded" / "loratools.json").unlink()
    return folder


UNMERGES = {
    "recorded": (["recorded", "one", "two"], "one is taken for one"),
    "recorded, in part": (["recorded", "two"], "one was merged into recorded too"),
    "recorded, another of its names": (["recorded", "other"], "other is taken for two"),
    "recorded, a stranger": (["recorded", "stranger"], "stranger is none of the adapters"),
    "by its undo record": (["undoable"], None),
    "by its undo record, adapters named": (["undoable", "two", "one"], "taken for those of the last merge"),
    "undoable, in part": (["undoable", "one"], "two was merged into undoable too"),
    "a whole embedding on record": (["of whole", "whole"], "whole is taken for whole"),
    "a whole embedding": (["unrecorded", "whole"], "will be taken, if its values allow it"),
}


@pytest.mark.parametrize(("line", "said"), UNMERGES.values(), ids=UNMERGES)
def test_an_unmerge_is_planned_without_hashes(
    line: list[str], said: str | None, merged: Path, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(merged)
    planned = told(["unmerge", *line, "--dry-run"])
    assert watching.opened
    assert said is None or any(said in line for line in planned["warnings"])
    pending = [name for (_, name), (action, _) in coverage(planned).items() if action == "pending"]
    assert pending == (["base_model.model.model.embed_tokens.base_layer.weight"] if "whole" in line else [])
