"""Pairs as they come: harmless differences pass, what no adapter can hold is named, nothing is silent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.pairs import SavedPair, add_low_rank, save_pair, tiny
from loratools.engine.coverage import Action
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.extract import extract
from loratools.reports.report import Report

Tensors = dict[str, torch.Tensor]
EMBEDDING = "model.embed_tokens.weight"


def rewrite(folder: Path, change: Callable[[Tensors], object], **settings: Any) -> None:
    """Changes a saved checkpoint's tensors in place, and its config."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


def put(**tensors: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda held: held.update({name.replace("__", "."): value for name, value in tensors.items()})


def fates(report: Report, side: str = "tuned") -> dict[str, tuple[Action, str]]:
    assert report.coverage is not None
    return {row.tensor: (row.action, row.reason) for row in report.coverage if row.input == side}


def weights(adapter: Path) -> Tensors:
    return load_file(adapter / "adapter_model.safetensors")


def settings(adapter: Path) -> dict[str, Any]:
    return dict(json.loads((adapter / "adapter_config.json").read_text()))


@pytest.fixture
def untied(tmp_path: Path) -> SavedPair:
    return save_pair(tmp_path, tiny("llama", tie_word_embeddings=False), add_low_rank)


@pytest.fixture
def tied(tmp_path: Path) -> SavedPair:
    return save_pair(tmp_path, tiny("llama", tie_word_embeddings=True), add_low_rank)


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_tied_head_written_on_one_side_only(tied: SavedPair, tmp_path: Path, side: str) -> None:
    extract(tied.base, tied.tuned, tmp_path / "plain", rank=2)
    rewrite(tmp_path / side, lambda held: held.update({"lm_head.weight": held[EMBEDDING].clone()}))
    report = extract(tied.base, tied.tuned, tmp_path / "out", rank=2)
    assert fates(report, side)["lm_head.weight"][0] is Action.UNCHANGED
    name = "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_head_of_other_values_beside_a_tied_base_is_saved(tied: SavedPair, tmp_path: Path) -> None:
    rewrite(tied.tuned, lambda held: held.update({"lm_head.weight": held[EMBEDDING] + 1}))
    report = extract(tied.base, tied.tuned, tmp_path / "out", rank=2)
    assert fates(report)["lm_head.weight"][0] is Action.SAVED
    assert fates(report)[EMBEDDING][0] is Action.UNCHANGED
    assert settings(tmp_path / "out")["modules_to_save"] == ["lm_head"]


@pytest.mark.parametrize("bare", ["base", "tuned"])
def test_names_with_and_without_the_prefix(untied: SavedPair, tmp_path: Path, bare: str) -> None:
    """One side is saved from the bare model; names of the adapter are those of tuned's class."""
    extract(untied.base, untied.tuned, tmp_path / "plain", rank=2)

    def shorten(held: Tensors) -> None:
        for name in list(held):
            held[name.removeprefix("model.")] = held.pop(name)
        del held["lm_head.weight"]

    rewrite(tmp_path / bare, shorten, architectures=["LlamaModel"])
    report = extract(untied.base, untied.tuned, tmp_path / "out", rank=2, unholdable="drop", rest="drop")
    full, short = weights(tmp_path / "plain"), weights(tmp_path / "out")
    before = "base_model.model." + ("" if bare == "tuned" else "model.")
    assert len(full) == len(short) == 28
    for name, value in full.items():
        assert torch.equal(short[name.replace("base_model.model.model.", before)], value)
    assert report.coverage is not None
    assert len(report.coverage) == 2 * 21 - 1


@pytest.mark.parametrize("amount", [{"rank": 8}, {"energy": 0.9}])
def test_a_plan_never_foretells_too_little(tmp_path: Path, amount: dict[str, Any]) -> None:
    """Where everything changed, and the embedding is written under both of its names."""

    def everything(model: Any) -> None:
        for parameter in model.parameters():
            parameter.mul_(1.1).add_(torch.randn_like(parameter), alpha=0.01)

    pair = save_pair(tmp_path, tiny("gpt2"), everything)
    plan = extract(pair.base, pair.tuned, tmp_path / "out", dry_run=True, **amount).details["plan"]
    done = extract(pair.base, pair.tuned, tmp_path / "out", **amount)
    assert done.totals is not None
    assert done.totals.bytes <= plan.write_bytes <= 4 * done.totals.bytes


def test_buffers_are_left_out_with_a_reason(tmp_path: Path) -> None:
    pair = save_pair(tmp_path, tiny("gpt2"), add_low_rank)
    mask = torch.tril(torch.ones(1, 1, 32, 32))
    prefix = next(name for name in load_file(pair.base / "model.safetensors") if "c_attn" in name).partition(
        "h."
    )[0]
    extra = {f"{prefix}h.0.attn.bias": mask, f"{prefix}h.0.attn.masked_bias": torch.tensor(float("-inf"))}
    rewrite(pair.base, lambda held: held.update(extra))
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=2)
    for name in extra:
        action, reason = fates(report, "base")[name]
        assert action is Action.DROPPED
        assert "recomputed" in reason
    assert not any("mask" in key for key in weights(tmp_path / "out"))
    assert not [warning for warning in report.warnings if "dropped" in warning]


def test_dtypes_that_differ_are_said_and_rounding_is_no_change(tmp_path: Path) -> None:
    model = tiny("llama", tie_word_embeddings=False)

    def norm_too(tuned: Any) -> None:
        add_low_rank(tuned)
        tuned.model.norm.weight.add_(0.5)

    pair = save_pair(tmp_path, model, norm_too, tuned_dtype=torch.bfloat16)
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=2)
    assert any("float32 in base and bfloat16 in tuned" in warning for warning in report.warnings)
    assert fates(report)[EMBEDDING][0] is Action.UNCHANGED
    held = weights(tmp_path / "out")
    assert held["base_model.model.model.norm.weight"].dtype == torch.bfloat16
    assert [key for key in held if "lora_" not in key] == ["base_model.model.model.norm.weight"]

    same = save_pair(tmp_path / "same", model, lambda tuned: None, tuned_dtype=torch.bfloat16)
    with pytest.raises(LoratoolsError, match="base and tuned do not differ"):
        extract(same.base, same.tuned, tmp_path / "none", rank=2)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_tensor_that_one_side_has_is_refused_by_name_or_dropped(
    untied: SavedPair, tmp_path: Path, side: str
) -> None:
    rewrite(tmp_path / side, put(model__layers__0__extra__weight=torch.ones(3, 3)))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(LoratoolsError) as caught:
        extract(untied.base, untied.tuned, tmp_path / "out", rank=2)
    assert caught.value.tensor == "model.layers.0.extra.weight"
    assert caught.value.exit_code == 1
    assert f"only {side} has it" in caught.value.message
    assert caught.value.hint is not None and "--unholdable drop" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == before

    report = extract(untied.base, untied.tuned, tmp_path / "out", rank=2, unholdable="drop")
    assert fates(report, side)["model.layers.0.extra.weight"] == (Action.DROPPED, f"only {side} has it")
    assert any("model.layers.0.extra.weight" in warning for warning in report.warnings)


def test_shapes_that_differ_are_refused(untied: SavedPair, tmp_path: Path) -> None:
    rewrite(untied.tuned, put(model__layers__0__mlp__up_proj__weight=torch.ones(50, 32)))
    with pytest.raises(
        LoratoolsError, match=r"shapes differ: \[48, 32\] in base, \[50, 32\] in tuned"
    ) as caught:
        extract(untied.base, untied.tuned, tmp_path / "out", rank=2)
    assert caught.value.tensor == "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("side", ["base", "tuned"])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", EMBEDDING])
def test_values_that_are_not_finite_are_refused_with_their_count(
    untied: SavedPair, tmp_path: Path, side: str, name: str
) -> None:
    def spoil(held: Tensors) -> None:
        held[name].view(-1)[:2] = torch.tensor([float("nan"), float("inf")])

    rewrite(tmp_path / side, spoil)
    with pytest.raises(LoratoolsError, match=r"2 of \d+ values are NaN or infinite") as caught:
        extract(untied.base, untied.tuned, tmp_path / "out", rank=2)
    assert caught.value.tensor == name
    assert caught.value.file is not None and Path(caught.value.file).parent == tmp_path / side
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.partial*"))


def test_a_head_that_only_tuned_has_must_be_finite_too(tmp_path: Path) -> None:
    pair = save_pair(tmp_path, tiny("llama-bare"), lambda tuned: None)
    shutil.rmtree(pair.tuned)
    tiny("llama-cls").save_pretrained(pair.tuned)
    rewrite(pair.tuned, lambda held: held["score.weight"].fill_(float("nan")))
    with pytest.raises(LoratoolsError, match="values are NaN") as caught:
        extract(pair.base, pair.tuned, tmp_path / "out", rank=2)
    assert caught.value.tensor == "score.weight"


def test_a_pair_that_looks_unrelated_is_warned_about(tmp_path: Path) -> None:
    tiny("llama", seed=0).save_pretrained(tmp_path / "base")
    tiny("llama", seed=1).save_pretrained(tmp_path / "tuned")
    report = extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "out", rank=2)
    assert any("look unrelated" in warning for warning in report.warnings)


def test_a_related_pair_is_not_warned_about(untied: SavedPair, tmp_path: Path) -> None:
    assert extract(untied.base, untied.tuned, tmp_path / "out", rank=2).warnings == ()


def test_checkpoints_of_other_models_have_nothing_in_common(untied: SavedPair, tmp_path: Path) -> None:
    tiny("gpt2").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(LoratoolsError, match="no tensor's name in common"):
        extract(untied.base, tmp_path / "gpt2", tmp_path / "out")


def test_an_adapter_is_no_checkpoint(untied: SavedPair, tmp_path: Path) -> None:
    extract(untied.base, untied.tuned, tmp_path / "adapter", rank=2)
    with pytest.raises(UsageError, match="tuned is an adapter"):
        extract(untied.base, tmp_path / "adapter", tmp_path / "out")


def test_changed_experts_on_disk_are_refused_by_name(tmp_path: Path) -> None:
    pair = save_pair(tmp_path, tiny("mixtral"), add_low_rank)

    def change(held: Tensors) -> None:
        name = next(name for name in sorted(held) if ".experts." in name)
        held[name] += 1

    rewrite(pair.tuned, change)
    with pytest.raises(LoratoolsError, match="expert's own tensor") as caught:
        extract(pair.base, pair.tuned, tmp_path / "out", rank=2)
    assert caught.value.tensor is not None and ".experts.0." in caught.value.tensor
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=2, unholdable="drop")
    assert fates(report)[caught.value.tensor][0] is Action.DROPPED
    assert any("renames tensors of mixtral" in warning for warning in report.warnings)


def spoil_norm(tuned: Any) -> None:
    add_low_rank(tuned)
    tuned.model.norm.weight.add_(0.5)


def test_the_rest_can_be_dropped_or_refused(tmp_path: Path) -> None:
    pair = save_pair(tmp_path, tiny("llama", tie_word_embeddings=False), spoil_norm)
    with pytest.raises(LoratoolsError, match="changed and would not be factored") as caught:
        extract(pair.base, pair.tuned, tmp_path / "out", rank=2, rest="refuse")
    assert caught.value.tensor == "model.norm.weight"
    assert not (tmp_path / "out").exists()
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=2, rest="drop")
    action, reason = fates(report)["model.norm.weight"]
    assert (action, reason.endswith("--rest drop")) == (Action.DROPPED, True)
    assert any("model.norm.weight: dropped" in warning for warning in report.warnings)
    assert report.details["rest_bytes"] == 0
    saved = extract(pair.base, pair.tuned, tmp_path / "saved", rank=2)
    assert saved.details["rest_bytes"] == 4 * 32
    assert saved.totals is not None
    assert saved.details["rest_share"] == pytest.approx(128 / saved.totals.bytes)


def test_targets_and_exclude_choose_modules(untied: SavedPair, tmp_path: Path) -> None:
    report = extract(
        untied.base,
        untied.tuned,
        tmp_path / "out",
        rank=2,
        targets=["q_proj$", "v_proj$"],
        exclude=[r"layers\.1\."],
        rest="drop",
    )
    factored = {name for name, (action, _) in fates(report).items() if action is Action.FACTORED}
    assert factored == {f"model.layers.0.self_attn.{name}.weight" for name in ("q_proj", "v_proj")}
    assert settings(tmp_path / "out")["target_modules"] == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
    ]


def test_an_uncertain_matrix_is_saved_whole_and_said_unless_targeted(
    untied: SavedPair, tmp_path: Path
) -> None:
    for side, value in (("base", 0.0), ("tuned", 1.0)):
        rewrite(tmp_path / side, put(model__layers__0__strange__weight=torch.full((8, 8), value)))
    name = "model.layers.0.strange.weight"
    report = extract(untied.base, untied.tuned, tmp_path / "out", rank=2)
    assert fates(report)[name][0] is Action.SAVED
    assert any(name in warning and "saved whole" in warning for warning in report.warnings)
    report = extract(untied.base, untied.tuned, tmp_path / "named", rank=2, targets=["strange", "_proj"])
    assert fates(report)[name][0] is Action.FACTORED


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_an_adapter_needs_a_folder(untied: SavedPair, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UsageError, match="an adapter needs a folder"):
        extract(untied.base, untied.tuned, tmp_path / f"out{suffix}")


def test_an_output_that_exists_or_is_an_input_is_refused(untied: SavedPair, tmp_path: Path) -> None:
    extract(untied.base, untied.tuned, tmp_path / "out", rank=2)
    with pytest.raises(LoratoolsError, match="exists already"):
        extract(untied.base, untied.tuned, tmp_path / "out", rank=2)
    extract(untied.base, untied.tuned, tmp_path / "out", rank=3, force=True)
    assert settings(tmp_path / "out")["r"] == 3
    for target in (untied.base, untied.tuned / "inside"):
        with pytest.raises(LoratoolsError):
            extract(untied.base, untied.tuned, target, force=True)


def test_the_base_is_called_what_it_should_be(untied: SavedPair, tmp_path: Path) -> None:
    def name(folder: str, **options: Any) -> str:
        extract(untied.base, untied.tuned, tmp_path / folder, rank=2, **options)
        card = (tmp_path / folder / "README.md").read_text()
        called = str(settings(tmp_path / folder)["base_model_name_or_path"])
        assert ("base_model:adapter:" in card) == ("/" in called)
        return called

    assert name("folder") == "base"
    rewrite(untied.base, lambda held: None, _name_or_path="/home/somebody/models/base")
    assert name("path") == "base"
    rewrite(untied.base, lambda held: None, _name_or_path="org/model")
    assert name("config") == "org/model"
    assert name("given", base_name="me/mine") == "me/mine"


def test_the_sample_base_goes_by_its_own_name(tmp_path: Path) -> None:
    from loratools import sample

    extract(sample.path("base"), sample.path("tuned"), tmp_path / "out", rank=2, rest="drop")
    assert settings(tmp_path / "out")["base_model_name_or_path"] == sample.BASE_NAME


def test_a_grown_vocabulary_is_said_and_brings_its_tokenizer(untied: SavedPair, tmp_path: Path) -> None:
    def grow(held: Tensors) -> None:
        for name in (EMBEDDING, "lm_head.weight"):
            held[name] = torch.cat([held[name], torch.ones(6, 32)])

    rewrite(untied.tuned, grow, vocab_size=70)
    (untied.tuned / "tokenizer.json").write_text("{}")
    report = extract(untied.base, untied.tuned, tmp_path / "out", rank=2)
    assert any("resize_token_embeddings(70)" in warning for warning in report.warnings)
    assert "model.resize_token_embeddings(70)" in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    held = weights(tmp_path / "out")
    for name in (EMBEDDING, "lm_head.weight"):
        assert torch.equal(
            held[f"base_model.model.{name}"], load_file(untied.tuned / "model.safetensors")[name]
        )
    # A vocabulary that shrank is no matter of an adapter.
    with pytest.raises(LoratoolsError, match="shapes differ"):
        extract(untied.tuned, untied.base, tmp_path / "shrunk", rank=2)


def handmade(folder: Path, base: Tensors, change: dict[str, float]) -> SavedPair:
    """A pair of single files without a config; tuned adds a number to some tensors of base."""
    tuned = {name: value + change.get(name, 0.0) for name, value in base.items()}
    for side, tensors in (("base", base), ("tuned", tuned)):
        (folder / side).mkdir()
        save_file(tensors, folder / side / "model.safetensors", metadata={"format": "pt"})
    return SavedPair(folder / "base", folder / "tuned")


def matrices(*names: str) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(8, 8, generator=generator) for name in names}


def test_a_parameter_beside_factored_layers_cannot_be_held(tmp_path: Path) -> None:
    base = matrices("layers.0.mixer.in_proj.weight", "layers.0.mixer.A_log")
    pair = handmade(tmp_path, base, {"layers.0.mixer.A_log": 0.1, "layers.0.mixer.in_proj.weight": 0.01})
    with pytest.raises(LoratoolsError, match=r"to save layers\.0\.mixer PEFT would also save") as caught:
        extract(pair.base, pair.tuned, tmp_path / "out", rank=2)
    assert caught.value.tensor == "layers.0.mixer.A_log"
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=2, unholdable="drop")
    assert fates(report)["layers.0.mixer.A_log"][0] is Action.DROPPED
    assert fates(report)["layers.0.mixer.in_proj.weight"][0] is Action.FACTORED


def test_a_parameter_on_the_model_itself_cannot_be_held(tmp_path: Path) -> None:
    base = matrices("layers.0.q_proj.weight", "latents")
    pair = handmade(tmp_path, base, {"latents": 0.1, "layers.0.q_proj.weight": 0.01})
    with pytest.raises(LoratoolsError, match="lies on the model itself") as caught:
        extract(pair.base, pair.tuned, tmp_path / "out", rank=2)
    assert caught.value.tensor == "latents"


def test_multihead_attention_is_saved_as_one_module(tmp_path: Path) -> None:
    """PEFT would apply a LoRA of its out_proj twice, or not at all."""
    names = [f"layers.0.attn.{name}" for name in ("in_proj_weight", "out_proj.weight")]
    pair = handmade(tmp_path, matrices(*names, "layers.0.q_proj.weight"), {names[1]: 0.1})
    extract(pair.base, pair.tuned, tmp_path / "out", rank=2)
    assert settings(tmp_path / "out")["modules_to_save"] == ["layers.0.attn"]
    assert set(weights(tmp_path / "out")) == {f"base_model.model.{name}" for name in names}


def test_a_batch_norm_brings_its_statistics(tmp_path: Path) -> None:
    base = matrices("layers.0.q_proj.weight") | {
        "bn1.weight": torch.ones(4),
        "bn1.bias": torch.zeros(4),
        "bn1.running_mean": torch.zeros(4),
        "bn1.running_var": torch.ones(4),
        "bn1.num_batches_tracked": torch.tensor(5),
    }
    pair = handmade(tmp_path, base, {"bn1.running_mean": 0.5})
    extract(pair.base, pair.tuned, tmp_path / "out", rank=2)
    assert set(weights(tmp_path / "out")) == {f"base_model.model.{name}" for name in base if "bn1" in name}
