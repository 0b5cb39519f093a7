"""Unmerging what real PEFT saved: embeddings whose own weights it puts beside their factors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.peft_models import make_adapter, save_base, tiny_bert_classifier, tiny_llama
from loratools.engine.coverage import Action
from loratools.errors import LoratoolsError
from loratools.operations.merge import merge
from loratools.operations.unmerge import unmerge
from loratools.reports.report import Report

EMBEDDING = "model.embed_tokens.weight"
OWN = "base_model.model.model.embed_tokens.base_layer.weight"
TARGETS = {
    "embedding": ["embed_tokens", "q_proj"],
    "head": ["lm_head", "q_proj"],
    "both": ["embed_tokens", "lm_head"],
}


def forget(folder: Path) -> None:
    """Takes away what a merge left on record."""
    (folder / "loratools.json").unlink()


def assert_restored(report: Report, back: Path, base: Path) -> None:
    """Each tensor is the base's but for the share of elements, and the distance, that the report gives."""
    rows = {row.name: row for row in report.modules or ()}
    restored = load_file(back / "model.safetensors")
    for name, tensor in load_file(base / "model.safetensors").items():
        off = (restored[name].double() - tensor.double()).abs()
        row = rows.get(name)
        share = 0.0 if row is None or row.exact is True else float(row.exact or 0)
        assert float((off > 0).double().mean()) <= share, name
        assert float(off.max()) <= (row.largest_difference or 0.0 if row else 0.0), name


@pytest.mark.parametrize("recorded", [True, False], ids=["record", "no record"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
def test_an_embedding_saved_beside_its_factors(
    targets: list[str], dtype: str, recorded: bool, tmp_path: Path
) -> None:
    """PEFT saves the base's own weight there, in the dtype of the model that it was trained on."""
    base = save_base(tiny_llama(), tmp_path / "base", dtype=getattr(torch, dtype))
    model = tiny_llama().to(getattr(torch, dtype))
    make_adapter(model, tmp_path / "adapter", r=4, lora_alpha=8, target_modules=targets)
    own = [
        key for key in load_file(tmp_path / "adapter" / "adapter_model.safetensors") if "base_layer" in key
    ]
    assert own
    merge(base, [tmp_path / "adapter"], tmp_path / "merged")
    if not recorded:
        forget(tmp_path / "merged")
    report = unmerge(tmp_path / "merged", [tmp_path / "adapter"], tmp_path / "back")
    assert_restored(report, tmp_path / "back", base)
    assert report.coverage is not None
    fates = {row.tensor: row for row in report.coverage if row.input == "adapter"}
    assert fates.keys() == load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    for key in own:
        assert fates[key].action is Action.DROPPED and "own copy" in fates[key].reason


def test_beside_another_adapter_that_stays(tmp_path: Path) -> None:
    """Only the record tells then: what is left after subtracting is no base that anybody has."""
    base = save_base(tiny_llama(), tmp_path / "base")
    for seed, name in enumerate(("one", "two"), 1):
        options = {"r": 4, "lora_alpha": 8, "target_modules": ["embed_tokens"]}
        make_adapter(tiny_llama(), tmp_path / name, seed=seed, **options)
    merge(base, [tmp_path / "one", tmp_path / "two"], tmp_path / "merged")
    report = unmerge(tmp_path / "merged", [tmp_path / "two"], tmp_path / "back")
    assert any("one was merged into merged too, and stays" in line for line in report.warnings)
    merge(base, [tmp_path / "one"], tmp_path / "of one")
    one, back = (load_file(tmp_path / name / "model.safetensors") for name in ("of one", "back"))
    torch.testing.assert_close(back[EMBEDDING], one[EMBEDDING])
    forget(tmp_path / "merged")
    with pytest.raises(LoratoolsError, match="holds in full cannot be subtracted"):
        unmerge(tmp_path / "merged", [tmp_path / "two"], tmp_path / "other")


def test_an_embedding_that_was_really_replaced(tmp_path: Path) -> None:
    """Refused by the record; without one it cannot be told, and what is taken for the base is said."""
    base = save_base(tiny_llama(), tmp_path / "base")
    make_adapter(tiny_llama(), tmp_path / "adapter", r=4, lora_alpha=8, target_modules=["embed_tokens"])
    change_own(tmp_path / "adapter")
    merge(base, [tmp_path / "adapter"], tmp_path / "merged")
    with pytest.raises(LoratoolsError, match="holds in full cannot be subtracted") as refused:
        unmerge(tmp_path / "merged", [tmp_path / "adapter"], tmp_path / "back")
    assert refused.value.tensor == EMBEDDING
    assert not (tmp_path / "back").exists()
    forget(tmp_path / "merged")
    report = unmerge(tmp_path / "merged", [tmp_path / "adapter"], tmp_path / "back")
    assert f"{EMBEDDING} is taken to have been what adapter holds beside its factors" in report.warnings
    change_own(tmp_path / "adapter")
    with pytest.raises(LoratoolsError, match="holds in full cannot be subtracted"):
        unmerge(tmp_path / "merged", [tmp_path / "adapter"], tmp_path / "other")


def change_own(adapter: Path) -> None:
    """Makes the weight beside the factors another than the base's, in one element."""
    held = load_file(adapter / "adapter_model.safetensors")
    held[OWN][7, 3] += 0.5
    save_file(held, adapter / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("recorded", [True, False], ids=["record", "no record"])
def test_a_tied_pair_that_stayed_tied(recorded: bool, tmp_path: Path) -> None:
    base = save_base(tiny_llama(tied=True), tmp_path / "base")
    model = tiny_llama(tied=True)
    options = {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}
    make_adapter(model, tmp_path / "adapter", r=4, lora_alpha=8, **options)
    merge(base, [tmp_path / "adapter"], tmp_path / "merged")
    if not recorded:
        forget(tmp_path / "merged")
    report = unmerge(tmp_path / "merged", [tmp_path / "adapter"], tmp_path / "back")
    assert_restored(report, tmp_path / "back", base)


def test_other_embeddings_than_the_tokens(tmp_path: Path) -> None:
    base = save_base(tiny_bert_classifier(), tmp_path / "base")
    targets = ["word_embeddings", "position_embeddings", "key"]
    make_adapter(tiny_bert_classifier(), tmp_path / "adapter", r=3, lora_alpha=5, target_modules=targets)
    merge(base, [tmp_path / "adapter"], tmp_path / "merged")
    report = unmerge(tmp_path / "merged", [tmp_path / "adapter"], tmp_path / "back")
    assert_restored(report, tmp_path / "back", base)
