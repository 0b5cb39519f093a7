"""What a reference may be, and what wins where it could be two things."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from loratools import sample
from loratools.checkpoints.checkpoint import Kind
from loratools.checkpoints.reference import open_checkpoint, resolve_base, split_weight
from loratools.errors import LoratoolsError, UsageError

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}


def write_checkpoint(folder: Path, *, name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (torch.save if name.endswith((".bin", ".pt", ".pth", ".ckpt")) else save_file)(STATE, folder / name)
    (folder / "config.json").write_text('{"model_type": "toy"}')
    return folder


def write_adapter(
    folder: Path, base: str = "toy/base", *, weights: str = "adapter_model.safetensors"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "base_model.model.layer.lora_A.weight": torch.ones(1, 3),
        "base_model.model.layer.lora_B.weight": torch.ones(2, 1),
    }
    (torch.save if weights.endswith(".bin") else save_file)(state, folder / weights)
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_that_transformers_wrote(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    opened = open_checkpoint(tmp_path)
    assert (opened.kind, opened.format, opened.root) == (Kind.CHECKPOINT, "safetensors", tmp_path)
    assert opened.config["architectures"] == ["LlamaForCausalLM"]
    assert opened.metadata == {"format": "pt"}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(opened.read(name).torch(), tensor)
    by_file = open_checkpoint(tmp_path / "model.safetensors")
    assert dict(by_file) == dict(opened) and by_file.config == opened.config
    assert by_file.root == tmp_path / "model.safetensors" and by_file.folder == tmp_path


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_an_adapter_that_peft_wrote(safe: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["0"], modules_to_save=["1"])
    adapter = peft.get_peft_model(model, config)
    adapter.save_pretrained(tmp_path, safe_serialization=safe)
    assert (tmp_path / ("adapter_model.safetensors" if safe else "adapter_model.bin")).exists()
    opened = open_checkpoint(tmp_path)
    assert (opened.kind, opened.format, opened.config["r"]) == (Kind.ADAPTER, "peft", 2)
    expected = peft.get_peft_model_state_dict(adapter)
    assert list(opened) == sorted(expected)
    for name, tensor in expected.items():
        assert torch.equal(opened.read(name).torch(), tensor)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "odd.safetensors", "x.pt", "x.pth", "x.ckpt", "x.bin"])
def test_the_only_weight_file_of_a_folder(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, name=name)
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    torch.save([1], tmp_path / "training_args.bin")
    for reference in (tmp_path, tmp_path / name):
        opened = open_checkpoint(reference)
        assert opened.format == ("safetensors" if name.endswith("safetensors") else "torch")
        assert opened.config == {"model_type": "toy"}
        assert opened.read("layer.weight").numpy().tolist() == STATE["layer.weight"].tolist()


def test_safetensors_wins_over_torch_and_says_so(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    opened = open_checkpoint(tmp_path)
    assert list(opened) == sorted(STATE)
    assert opened.warnings == ("pytorch_model.bin beside model.safetensors is not read",)


def test_the_suffix_is_not_believed(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.bin")
    torch.save(STATE, tmp_path / "other.safetensors")
    assert open_checkpoint(tmp_path / "model.bin").format == "safetensors"
    assert open_checkpoint(tmp_path / "other.safetensors").format == "torch"


def test_an_adapter_in_a_subfolder(tmp_path: Path) -> None:
    write_adapter(tmp_path / "run" / "adapter")
    (tmp_path / "run" / "logs").mkdir()
    for reference in (tmp_path / "run", tmp_path / "run" / "adapter"):
        opened = open_checkpoint(reference)
        assert (opened.kind, opened.root) == (Kind.ADAPTER, tmp_path / "run" / "adapter")
    write_checkpoint(tmp_path / "run")
    opened = open_checkpoint(tmp_path / "run")
    assert opened.kind is Kind.CHECKPOINT
    assert opened.warnings == ("an adapter in the subfolder adapter is not read",)


def test_an_adapters_file_brings_its_config_and_a_bare_one_is_told_by_its_keys(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "toy"}')
    assert open_checkpoint(tmp_path / "adapter_model.safetensors").config["lora_alpha"] == 2
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "mine.safetensors")
    bare = open_checkpoint(tmp_path / "mine.safetensors")
    assert (bare.kind, bare.format, bare.config) == (Kind.ADAPTER, "peft", {})


def test_both_in_one_folder_are_told_apart_by_the_file(tmp_path: Path) -> None:
    write_checkpoint(write_adapter(tmp_path))
    with pytest.raises(LoratoolsError, match=r"an adapter .* and a checkpoint .*name the file"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path / "model.safetensors").kind is Kind.CHECKPOINT
    assert open_checkpoint(tmp_path / "adapter_model.safetensors").kind is Kind.ADAPTER


def test_a_linked_folder_and_a_linked_file_named_by_the_user_are_followed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "real" / "model.safetensors")
    assert list(open_checkpoint(tmp_path / "link")) == sorted(STATE)
    assert list(open_checkpoint(tmp_path / "link.safetensors")) == sorted(STATE)


def test_references_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for reference in ("nothing", "./org/name", "a/b/c", "", "loratools-sample", "nul\0byte"):
        with pytest.raises(LoratoolsError) as refusal:
            open_checkpoint(reference)
        assert str(refusal.value).isprintable()
    with pytest.raises(LoratoolsError, match="No such file"):
        open_checkpoint("dangling")


def test_a_name_is_the_last_part_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    assert open_checkpoint(".").name == "model"
    assert open_checkpoint("model.safetensors").name == "model.safetensors"
    assert open_checkpoint(tmp_path / "model").hub_id is None


def test_names_of_the_sample_stand_for_its_folders_unless_such_a_path_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = write_checkpoint(tmp_path / "bundled")
    monkeypatch.setattr(sample, "path", lambda name: {"base": bundled}[name])
    monkeypatch.chdir(tmp_path)
    opened = open_checkpoint(sample.BASE_NAME)
    assert (opened.reference, opened.root, opened.revision) == (sample.BASE_NAME, bundled, None)
    write_checkpoint(tmp_path / "loratools-sample" / "base", name="own.safetensors")
    assert open_checkpoint(sample.BASE_NAME).root == Path("loratools-sample/base")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("adapter=0.8", ("adapter", 0.8)),
        ("adapter=-1", ("adapter", -1.0)),
        ("adapter=1e-3", ("adapter", 1e-3)),
        ("adapter=.5", ("adapter", 0.5)),
        ("a=b=2", ("a=b", 2.0)),
        ("org/name@main=2", ("org/name@main", 2.0)),
        ("adapter", ("adapter", None)),
        ("adapter=", ("adapter=", None)),
        ("=0.8", ("=0.8", None)),
        ("lr=high", ("lr=high", None)),
        ("adapter=1_0", ("adapter=1_0", None)),
        ("adapter= 1", ("adapter= 1", None)),
    ],
)
def test_split_weight(written: str, expected: tuple[str, float | None]) -> None:
    assert split_weight(written) == expected


def test_a_path_with_a_number_behind_an_equals_sign_has_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    assert split_weight("lr=0.1") == ("lr=0.1", None)
    assert split_weight("lr=0.1=2") == ("lr=0.1", 2.0)


@pytest.mark.parametrize("number", ["nan", "inf", "-Infinity", "1e999"])
def test_a_weight_that_is_not_finite_is_wrong_usage(number: str) -> None:
    with pytest.raises(UsageError, match="not finite"):
        split_weight(f"adapter={number}")


def test_the_base_that_an_adapter_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = write_checkpoint(tmp_path / "base")

    def named(name: str) -> str:
        return resolve_base(open_checkpoint(write_adapter(tmp_path / "adapter", name)))

    assert named(str(base)) == str(base)
    assert named("base") == "base"
    assert named("../base") == str(tmp_path / "adapter" / "../base")
    assert named("toy/base") == "toy/base"
    assert named(sample.BASE_NAME) == sample.BASE_NAME
    for nowhere in ("", "nowhere", "/nowhere/base"):
        with pytest.raises(LoratoolsError, match="name the base before the adapter"):
            named(nowhere)


def test_the_revision_of_a_base_on_the_hub(tmp_path: Path) -> None:
    config = write_adapter(tmp_path) / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "revision": "v2"}))
    assert resolve_base(open_checkpoint(tmp_path)) == "toy/base@v2"
