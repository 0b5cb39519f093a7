"""Merges of adapters that real PEFT trained and saved, against PEFT's own merge computed in float64.

The oracle is PEFT in float64, rounded once by numpy: PEFT's arithmetic in the base's dtype is none (it rounds
more than once). What is held against it is what stands in the file that was written.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from fixtures.peft_models import (
    CASES,
    TIED_CASES,
    Case,
    TiedCase,
    make_adapter,
    save_base,
    tiny_llama,
    tiny_llama_classifier,
)
from loratools.linalg.rounding import ulp
from loratools.operations.merge import merge

Tensors = dict[str, torch.Tensor]
DTYPES = ("float32", "bfloat16", "float16")
EPSILON = {"float32": 2.0**-52, "bfloat16": 2.0**-23, "float16": 2.0**-23}
"""Of the arithmetic that the design promises for each stored dtype."""


@dataclass(frozen=True)
class Built:
    base: Path
    adapter: Path


def build(case: Case, folder: Path, dtype: str) -> Built:
    base = save_base(case.model(), folder / "base", dtype=getattr(torch, dtype))
    make_adapter(case.model(), folder / "adapter", **case.options)
    return Built(base, folder / "adapter")


def merged_by_peft(built: Built, folder: Path) -> Tensors:
    """All tensors of PEFT's own merge in float64, as transformers saves them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted(load(built.base), built.adapter).merge_and_unload().save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def load(folder: Path) -> PreTrainedModel:
    """A checkpoint as transformers loads it, in float64; fails where a tensor is missing or unknown."""
    model, found = _auto(folder).from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
    return model.eval()


def adapted(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """The model with the adapter, as PEFT loads it, in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(20).reshape(2, 10)).logits


def _auto(base: Path) -> type:
    name = json.loads((base / "config.json").read_text())["architectures"][0]
    endings = {
        "ForSequenceClassification": AutoModelForSequenceClassification,
        "ForMaskedLM": AutoModelForMaskedLM,
    }
    return next((cls for ending, cls in endings.items() if name.endswith(ending)), AutoModelForCausalLM)


def rounded_once(exact: torch.Tensor, dtype: str) -> np.ndarray:
    """Float64 to `dtype`, by numpy alone, and back: nearest even on the grid of the dtype."""
    values = exact.numpy()
    grid = ulp(values, dtype)
    with np.errstate(invalid="ignore"):
        near = np.rint(values / grid) * grid  # exact: the grid is a power of two
    return np.where(np.isfinite(values), near, values)


def room(built: Built, name: str, weight: torch.Tensor, epsilon: float) -> np.ndarray:
    """(r + 2) eps (|W| + |s||B||A|), from the adapter's file alone; zero for what has no factors."""
    held = load_file(built.adapter / "adapter_model.safetensors")
    for key, A in held.items():
        module = key.removeprefix("base_model.model.").partition(".lora_")[0]
        if (".lora_A." not in key and ".lora_embedding_A" not in key) or not _is_of(name, module):
            continue
        B = held[key.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
        product = B.double().abs() @ A.double().abs()  # (out, in)
        if product.shape != weight.shape or "embedding" in key or "h." in name:
            product = product.T
        scale = _largest_scaling(built) * product
        return ((len(A) + 2) * epsilon * (weight.double().abs() + scale)).numpy()
    return np.zeros(tuple(weight.shape))


def _is_of(name: str, module: str) -> bool:
    stem = name.removesuffix(".weight")
    return stem == module or module.endswith(f".{stem}") or stem.endswith(f".{module}")


def _largest_scaling(built: Built) -> float:
    config = json.loads((built.adapter / "adapter_config.json").read_text())
    ranks = [config["r"], *config["rank_pattern"].values()]
    alphas = [config["lora_alpha"], *config["alpha_pattern"].values()]
    return max(alphas) / min(ranks) ** (0.5 if config["use_rslora"] else 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_merge_is_that_of_peft_in_float64_with_one_rounding(case: Case, dtype: str, tmp_path: Path) -> None:
    built = build(case, tmp_path, dtype)
    report = merge(built.base, [built.adapter], tmp_path / "merged")
    exact = merged_by_peft(built, tmp_path / "exact")
    base = load_file(built.base / "model.safetensors")
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert written.keys() == exact.keys()
    changed = {row.name for row in report.modules or ()}
    assert changed
    equal = total = 0
    for name, tensor in written.items():
        assert tensor.dtype == getattr(torch, dtype)
        if name not in changed:
            assert torch.equal(tensor, base[name]), name
            assert torch.equal(exact[name].to(tensor.dtype), tensor), name
            continue
        values, want = tensor.double().numpy(), exact[name].numpy()
        bound = room(built, name, base[name], EPSILON[dtype])
        if case.options.get("use_dora"):
            bound = _with_magnitudes(bound, base[name].double().numpy(), want)
        off = np.abs(values - want) - ulp(want, dtype) / 2 - bound
        assert off.max() <= 0, f"{name}: {off.max()}"
        equal += int((values == rounded_once(exact[name], dtype)).sum())
        total += values.size
    assert equal >= 0.999 * total, f"{total - equal} of {total} elements differ from one rounding"


def _with_magnitudes(bound: np.ndarray, base: np.ndarray, want: np.ndarray) -> np.ndarray:
    """DoRA scales what was summed by m / norm, of which each rounds once more."""
    largest = np.abs(want).max() / np.abs(base).mean()
    return 4 * bound * max(1.0, largest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", TIED_CASES, ids=lambda case: case.name)
def test_a_tied_pair_is_what_its_adapter_was_trained_to_rounded_once(
    case: TiedCase, dtype: str, tmp_path: Path
) -> None:
    """Both sides' weights are read off PEFT's forward in float64, on every token and every unit vector."""
    base = save_base(tiny_llama(tied=True), tmp_path / "base", dtype=getattr(torch, dtype))
    make_adapter(
        tiny_llama(tied=True).to(getattr(torch, dtype)).float(),
        tmp_path / "adapter",
        save=case.save,
        **case.options,
    )
    trained = adapted(load(base), tmp_path / "adapter")
    with torch.no_grad():
        embedding = trained.get_input_embeddings()(torch.arange(48))
        head = trained.get_output_embeddings()(torch.eye(32, dtype=torch.float64)).T
    merge(base, [tmp_path / "adapter"], tmp_path / "merged")
    written = load_file(tmp_path / "merged" / "model.safetensors")
    exact = {"model.embed_tokens.weight": embedding, "lm_head.weight": head}
    weight = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    equal = total = 0
    for name, want in exact.items():
        values = written.get(name, written["model.embed_tokens.weight"]).double().numpy()
        bound = room(Built(base, tmp_path / "adapter"), name, weight, EPSILON[dtype])
        bound = np.maximum(
            bound, room(Built(base, tmp_path / "adapter"), _OTHER[name], weight, EPSILON[dtype])
        )
        if case.options.get("use_dora"):
            bound = _with_magnitudes(bound, weight.double().numpy(), want.numpy())
        assert (np.abs(values - want.numpy()) - ulp(want.numpy(), dtype) / 2 - bound).max() <= 0, name
        equal += int((values == rounded_once(want, dtype)).sum())
        total += values.size
    assert equal >= 0.999 * total, f"{total - equal} of {total} elements differ from one rounding"


_OTHER = {"model.embed_tokens.weight": "lm_head.weight", "lm_head.weight": "model.embed_tokens.weight"}


@pytest.mark.parametrize("case", TIED_CASES, ids=lambda case: case.name)
def test_a_merged_tied_model_computes_what_its_adapter_was_trained_to(case: TiedCase, tmp_path: Path) -> None:
    """As transformers loads it from the files; PEFT's own merge does so only where `peft_agrees`."""
    base = save_base(tiny_llama(tied=True), tmp_path / "base")
    make_adapter(tiny_llama(tied=True), tmp_path / "adapter", save=case.save, **case.options)
    trained = logits(adapted(load(base), tmp_path / "adapter"))
    merge(base, [tmp_path / "adapter"], tmp_path / "merged")
    model = load(tmp_path / "merged")
    assert model.config.tie_word_embeddings is case.stays_tied
    torch.testing.assert_close(logits(model), trained, rtol=1e-5, atol=1e-5)
    theirs = logits(adapted(load(base), tmp_path / "adapter").merge_and_unload())
    assert torch.allclose(theirs, trained, rtol=1e-5, atol=1e-5) is case.peft_agrees


@pytest.mark.parametrize("case", TIED_CASES, ids=lambda case: case.name)
def test_a_tied_model_that_is_written_apart_computes_the_same(case: TiedCase, tmp_path: Path) -> None:
    base = save_base(tiny_llama(tied=True), tmp_path / "base")
    make_adapter(tiny_llama(tied=True), tmp_path / "adapter", save=case.save, **case.options)
    merge(base, [tmp_path / "adapter"], tmp_path / "auto")
    merge(base, [tmp_path / "adapter"], tmp_path / "apart", tied="untie")
    apart = load(tmp_path / "apart")
    assert not apart.config.tie_word_embeddings
    torch.testing.assert_close(logits(apart), logits(load(tmp_path / "auto")))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_vocabulary_that_grew_has_the_adapter_s_rows_rounded_once(dtype: str, tmp_path: Path) -> None:
    base = save_base(tiny_llama(), tmp_path / "base", dtype=getattr(torch, dtype))
    grown = tiny_llama()
    grown.resize_token_embeddings(51)
    make_adapter(
        grown, tmp_path / "adapter", target_modules=["q_proj"], r=4, save={"save_embedding_layers": True}
    )
    merge(base, [tmp_path / "adapter"], tmp_path / "merged")
    held = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    written = load_file(tmp_path / "merged" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        values = held[f"base_model.model.{name}"].double()
        assert values.shape == (51, 32)
        assert np.array_equal(written[name].double().numpy(), rounded_once(values, dtype)), name


def test_a_vocabulary_that_grew_loads_with_its_rows(tmp_path: Path) -> None:
    base = save_base(tiny_llama(), tmp_path / "base")
    grown = tiny_llama()
    grown.resize_token_embeddings(51)
    make_adapter(
        grown, tmp_path / "adapter", target_modules=["q_proj"], r=4, save={"save_embedding_layers": True}
    )
    merge(base, [tmp_path / "adapter"], tmp_path / "merged")
    model = load(tmp_path / "merged")
    assert model.config.vocab_size == 51
    reference = load(base)
    reference.resize_token_embeddings(51)
    torch.testing.assert_close(
        logits(model), logits(adapted(reference, tmp_path / "adapter")), rtol=1e-5, atol=1e-5
    )


def test_the_head_of_another_task_comes_with_its_class(tmp_path: Path) -> None:
    base = save_base(tiny_llama(), tmp_path / "base")
    model = tiny_llama_classifier(labels=3)
    model.model.load_state_dict(tiny_llama().model.state_dict())
    make_adapter(model, tmp_path / "adapter", target_modules=["q_proj"], r=4, task_type="SEQ_CLS")
    merge(base, [tmp_path / "adapter"], tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "merged", dtype=torch.float64, pad_token_id=0
        )
        reference = tiny_llama_classifier(labels=3).double()
        reference.model.load_state_dict(tiny_llama().model.state_dict())
        trained = logits(PeftModel.from_pretrained(reference, tmp_path / "adapter").double().eval())
    assert loaded.config.num_labels == 3
    torch.testing.assert_close(logits(loaded.eval()), trained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_adapters_and_weights_are_one_sum(dtype: str, tmp_path: Path) -> None:
    """Against PEFT's own adapters, scaled, in float64; PEFT in the base's dtype rounds after each of them."""
    base = save_base(tiny_llama(), tmp_path / "base", dtype=getattr(torch, dtype))
    for seed, name in enumerate(("one", "two"), 1):
        make_adapter(tiny_llama(), tmp_path / name, seed=seed, target_modules=["q_proj", "up_proj"], r=4)
    weights = {"one": 0.75, "two": -1.5}
    merge(base, [f"{tmp_path / name}={weight}" for name, weight in weights.items()], tmp_path / "merged")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = adapted(load(base), tmp_path / "one")
        both.load_adapter(tmp_path / "two", "two", autocast_adapter_dtype=False)
        for module in both.modules():
            if isinstance(module, LoraLayer):
                module.scaling["default"] *= weights["one"]
                module.scaling["two"] *= weights["two"]
        exact = both.merge_and_unload(adapter_names=["default", "two"]).state_dict()
    before = load_file(base / "model.safetensors")
    equal = total = 0
    for name, tensor in load_file(tmp_path / "merged" / "model.safetensors").items():
        values, want = tensor.double().numpy(), exact[name].numpy()
        bound = sum(
            max(1.0, abs(weight)) * 2 * room(Built(base, tmp_path / one), name, before[name], EPSILON[dtype])
            for one, weight in weights.items()
        )
        assert (np.abs(values - want) - ulp(want, dtype) / 2 - bound).max() <= 0, name
        equal += int((values == rounded_once(exact[name], dtype)).sum())
        total += values.size
    assert equal >= 0.999 * total, f"{total - equal} of {total} elements differ from one rounding"
