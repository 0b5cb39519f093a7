"""Files beside the weights: which come along, which stay behind, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder
from loratools.operations.merge import merge
from loratools.operations.sidefiles import SideFiles, side_files, with_tokenizer

COMES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "chat_template.jinja",
    "modeling_custom.py",
    "preprocessor_config.json",
    "README.md",
    "LICENSE",
    ".gitattributes",
    "assets/logo.png",
    "additional_chat_templates/tool_use.jinja",
]
STAYS = {
    "optimizer.pt": "training state",
    "scheduler.pt": "training state",
    "rng_state_0.pth": "training state",
    "training_args.bin": "training state",
    "trainer_state.json": "training state",
    "pytorch_model.bin": "other weights",
    "pytorch_model.bin.index.json": "the output has its own",
    "model.fp16.safetensors": "other weights",
    "tf_model.h5": "other weights",
    "flax_model.msgpack": "other weights",
    "model-Q4_K_M.gguf": "other weights",
    "onnx/model.onnx": "other weights",
    "original/consolidated.00.pth": "other weights",
    "adapter_config.json": "an adapter",
    "adapter_model.safetensors": "an adapter",
    "loratools.json": "the output has its own",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in [*COMES, *STAYS, "model.safetensors"]:
        path = tmp_path / "base" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "base"


def sort(folder: Path) -> SideFiles:
    return side_files(folder, frozenset({folder / "model.safetensors"}))


def test_every_file_but_the_weights_comes_along_or_is_named(folder: Path) -> None:
    files = sort(folder)
    assert sorted(files.copied) == sorted(COMES)
    assert {one.path: one.reason for one in files.left_behind} == STAYS
    assert files.bytes == sum(len(name) for name in COMES)


def test_what_a_user_may_miss_is_said(folder: Path) -> None:
    notes = sort(folder).notes()
    assert any("optimizer.pt" in line and "training state" in line for line in notes)
    assert not any("loratools.json" in line for line in notes)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".git", "version control"),
        (".cache", "a download cache"),
        ("checkpoint-500", "a training checkpoint"),
        ("merged.partial-0a1b", "a leftover of an interrupted run"),
    ],
)
def test_folders_that_stay_behind_are_named_whole(name: str, reason: str, folder: Path) -> None:
    (folder / name).mkdir()
    (folder / name / "config.json").write_text("x")
    files = sort(folder)
    assert not any(path.startswith(f"{name}/") for path in files.copied)
    assert (f"{name}/", reason) in [(one.path, one.reason) for one in files.left_behind]


def test_an_output_beside_the_weights_is_not_copied_into_itself(folder: Path) -> None:
    (folder / "merged").mkdir()
    (folder / "merged" / "config.json").write_text("old")
    files = side_files(folder, frozenset(), skip=folder / ".." / folder.name / "merged")
    assert not any("merged" in path for path in files.copied)


def test_an_adapter_in_a_subfolder_stays_behind(folder: Path) -> None:
    (folder / "lora").mkdir()
    (folder / "lora" / "adapter_config.json").write_text("{}")
    (folder / "lora" / "README.md").write_text("x")
    assert "lora/README.md" not in sort(folder).copied


def test_layers_of_a_sentence_encoder_come_along(folder: Path) -> None:
    (folder / "modules.json").write_text(
        json.dumps([{"path": ""}, {"path": "2_Dense"}, {"path": "../elsewhere"}])
    )
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").write_text("x")
    assert "2_Dense/model.safetensors" in sort(folder).copied


def test_links_are_read_through_and_broken_ones_named(folder: Path, tmp_path: Path) -> None:
    (folder / "blob").write_text("content")
    (tmp_path / "secret").write_text("not for others")
    (folder / "vocab.json").symlink_to(folder / "blob")
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    (folder / "merges.txt").symlink_to(tmp_path / "nowhere")
    (folder / "more").symlink_to(tmp_path)
    files = sort(folder)
    assert files.copied["vocab.json"].read_text() == "content"
    assert {one.path: one.reason for one in files.left_behind}["merges.txt"] == "a broken link"
    assert {one.path: one.reason for one in files.left_behind}["more/"] == "a link to a folder"
    assert "notes.txt" not in files.copied
    assert {one.path: one.reason for one in files.left_behind}[
        "notes.txt"
    ] == "a link that leads out of the folder"


def test_the_hub_s_cache_is_made_of_links(tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / "0123"
    for made in (snapshot, cache / "blobs"):
        made.mkdir(parents=True)
    (cache / "blobs" / "9876").write_text("content")
    (snapshot / "vocab.json").symlink_to("../../blobs/9876")
    assert sort(snapshot).copied["vocab.json"].read_text() == "content"


def test_an_adapter_s_tokenizer_is_not_read_out_of_its_folder(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (tmp_path / "secret").write_text("not for others")
    (adapter / "tokenizer.json").write_text("{}")
    (adapter / "vocab.txt").symlink_to(tmp_path / "secret")
    files, used = with_tokenizer(sort(folder), adapter)
    assert used and "vocab.txt" not in files.copied


def test_an_adapter_s_tokenizer_takes_the_place_of_the_base_s(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (folder / "added_tokens.json").write_text("stale")
    (adapter / "added_tokens.json.bak").write_text("no file of a tokenizer")
    plain, used = with_tokenizer(sort(folder), adapter)
    assert not used
    assert plain.copied == sort(folder).copied
    (adapter / "tokenizer.json").write_text("new")
    files, used = with_tokenizer(sort(folder), adapter)
    assert used
    assert files.copied["tokenizer.json"] == adapter / "tokenizer.json"
    assert files.copied["tokenizer.model"] == folder / "tokenizer.model"
    assert "added_tokens.json" not in files.copied
    assert "chat_template.jinja" not in files.copied


def test_a_merge_copies_them_as_bytes(tmp_path: Path) -> None:
    tensors = decoder()
    base = write_decoder(tmp_path / "base", tensors)
    (base / "modeling_custom.py").write_bytes(b"print()\r\n")
    (base / "deep" / "er").mkdir(parents=True)
    (base / "deep" / "er" / "voice.npz").write_bytes(bytes(range(256)))
    (base / "optimizer.pt").write_bytes(b"state")
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    report = merge(base, [adapter], tmp_path / "out")
    assert (tmp_path / "out" / "modeling_custom.py").read_bytes() == b"print()\r\n"
    assert (tmp_path / "out" / "deep" / "er" / "voice.npz").read_bytes() == bytes(range(256))
    assert not (tmp_path / "out" / "optimizer.pt").exists()
    assert any("optimizer.pt" in line for line in report.warnings)
    assert [one.path for one in report.details["left_behind"]] == ["optimizer.pt"]
