"""Real PEFT loads what `extract` wrote: it restores tuned, gives the base back when off, and merges."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from fixtures.pairs import SavedPair, add_low_rank, save_pair, tiny
from loratools.operations.extract import extract
from loratools.operations.merge import merge

Change = Callable[[Any], Any]


def nudge(parameter: torch.nn.Parameter, seed: int = 7, rows: list[int] | None = None) -> None:
    """Changes all of a parameter, or some rows."""
    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.1
    if rows is None:
        parameter.add_(noise.to(parameter.dtype))
    else:
        parameter[rows] += noise[rows].to(parameter.dtype)


def everything(model: Any) -> None:
    """Each parameter of the model changes."""
    for index, parameter in enumerate(model.parameters()):
        nudge(parameter, seed=index)


def also(*paths: str, rows: list[int] | None = None) -> Change:
    """The linear layers change, and the parameters named."""

    def change(model: Any) -> None:
        add_low_rank(model)
        only(*paths, rows=rows)(model)

    return change


def only(*paths: str, rows: list[int] | None = None) -> Change:
    def change(model: Any) -> None:
        for path in paths:
            nudge(model.get_parameter(path), rows=rows)

    return change


def head_and_rows(model: Any) -> None:
    also("lm_head.weight")(model)
    only("model.embed_tokens.weight", rows=[5])(model)


def untie(model: Any) -> None:
    add_low_rank(model)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    nudge(model.lm_head.weight)
    nudge(model.model.embed_tokens.weight, seed=3)


def grow(model: Any) -> None:
    add_low_rank(model)
    model.resize_token_embeddings(70)
    nudge(model.get_input_embeddings().weight)
    if not model.config.tie_word_embeddings:
        nudge(model.get_output_embeddings().weight, seed=3)


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    change: Change
    loader: str = "AutoModelForCausalLM"
    settings: dict[str, Any] = field(default_factory=dict)
    saved: list[str] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    resize: int | None = None
    mergeable: bool = True


TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
BOTH = ["lm_head", "model.embed_tokens"]
TOGETHER = {"ensure_weight_tying": True}
ROWS = {"trainable_token_indices": {"model.embed_tokens": [3, 9, 40]}}
CLASSIFIER = "AutoModelForSequenceClassification"
SPEECH = "AutoModelForSpeechSeq2Seq"
EMBEDDING = "model.embed_tokens.weight"

CASES = [
    Case("linear layers", "llama", add_low_rank),
    Case("conv1d layers", "gpt2", add_low_rank, config={"fan_in_fan_out": True}),
    Case("a norm", "llama", also("model.norm.weight"), saved=["model.norm"]),
    Case("all, untied", "llama", everything, settings=UNTIED),
    Case("all, tied", "llama", everything, settings=TIED, config=TOGETHER),
    Case("a tied embedding", "llama", also(EMBEDDING), settings=TIED, saved=BOTH, config=TOGETHER),
    Case("rows of a tied embedding", "llama", also(EMBEDDING, rows=[3, 9, 40]), settings=TIED, config=ROWS),
    Case("rows of an embedding", "llama", also(EMBEDDING, rows=[3, 9, 40]), settings=UNTIED, config=ROWS),
    Case("an untied head", "llama", also("lm_head.weight"), settings=UNTIED, saved=["lm_head"]),
    Case("rows beside a head", "llama", head_and_rows, settings=UNTIED, saved=["lm_head"]),
    Case("only a norm", "llama", only("model.norm.weight"), saved=["model.norm"]),
    Case(
        "a norm whose name ends others'",
        "llama-bare",
        also("norm.weight"),
        loader="AutoModel",
        saved=[
            "layers.0.input_layernorm",
            "layers.0.post_attention_layernorm",
            "layers.1.input_layernorm",
            "layers.1.post_attention_layernorm",
            "norm",
        ],
    ),
    Case("all of gpt2", "gpt2", everything, config={"lora_bias": True, **TOGETHER}),
    Case("a bias of gpt2", "gpt2", also("transformer.h.0.attn.c_attn.bias"), config={"lora_bias": True}),
    Case("only a bias", "gpt2", only("transformer.h.1.mlp.c_fc.bias"), config={"lora_bias": True}),
    Case("rows of wte", "gpt2", also("transformer.wte.weight", rows=[1, 2])),
    Case("all of a bare encoder", "bert", everything, loader="AutoModel"),
    Case("all of a masked model", "bert-mlm", everything, loader="AutoModelForMaskedLM"),
    Case("a tied head's bias", "bert-mlm", also("cls.predictions.bias"), loader="AutoModelForMaskedLM"),
    Case("all of a classifier", "bert-cls", everything, loader=CLASSIFIER, config={"task_type": "SEQ_CLS"}),
    Case("a classifier's encoder", "bert-cls", add_low_rank, loader=CLASSIFIER, config={"task_type": None}),
    Case("a llama classifier", "llama-cls", everything, loader=CLASSIFIER, config={"task_type": "SEQ_CLS"}),
    Case("all of t5", "t5", everything, loader="AutoModelForSeq2SeqLM"),
    Case("all of qwen2", "qwen2", everything, config={"lora_bias": True}, mergeable=False),
    Case(
        "a token on a module of modules",
        "vit",
        only("vit.embeddings.cls_token", "classifier.weight"),
        loader="AutoModelForImageClassification",
        saved=["classifier", "vit.embeddings"],
    ),
    Case("all of a speech model", "whisper", everything, loader=SPEECH, mergeable=False),
    Case("a grown vocabulary", "llama", grow, settings=UNTIED, saved=BOTH, resize=70),
    Case("a grown tied one", "llama", grow, settings=TIED, saved=BOTH, config=TOGETHER, resize=70),
    Case("a head that tuned unties", "llama", untie, settings=TIED, saved=BOTH),
]


def load(folder: Path, case: Case, resize: int | None = None) -> Any:
    model = getattr(transformers, case.loader).from_pretrained(folder).eval()
    if resize is not None:
        model.resize_token_embeddings(resize)
    return model


def run(model: Any) -> torch.Tensor:
    """The model's main output on some input that fits its kind."""
    config = model.config
    with torch.no_grad():
        if hasattr(config, "image_size"):
            pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
            return model(pixel_values=pixels)[0]
        if config.model_type == "whisper":
            sound = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(0))
            return model(input_features=sound, decoder_input_ids=torch.tensor([[3, 9, 40]]))[0]
        tokens = torch.tensor([[3, 9, 40, 5, 1, 2, 60, 17]])
        more = {"decoder_input_ids": tokens} if getattr(config, "is_encoder_decoder", False) else {}
        return model(input_ids=tokens, **more)[0]


def attach(base: Any, adapter: Path) -> Any:
    """The adapter on the base; PEFT must miss nothing and find nothing that it does not know."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(base, adapter).eval()
    told = [str(warning.message) for warning in caught]
    assert not [text for text in told if "missing" in text or "unexpected" in text or "inconsisten" in text]
    return model


def extracted(folder: Path, case: Case) -> tuple[SavedPair, dict[str, Any]]:
    pair = save_pair(folder, tiny(case.kind, **case.settings), case.change)
    extract(pair.base, pair.tuned, folder / "adapter", rank=64)
    return pair, json.loads((folder / "adapter" / "adapter_config.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_peft_restores_tuned_and_switches_back_to_the_base(case: Case, tmp_path: Path) -> None:
    pair, config = extracted(tmp_path, case)
    if case.saved is not None:
        assert config["modules_to_save"] == case.saved
    for key, value in case.config.items():
        assert config.get(key) == value, key

    base = load(pair.base, case, case.resize)
    before, tuned = run(base), run(load(pair.tuned, case))
    assert not torch.allclose(before, tuned, atol=1e-4)
    model = attach(base, tmp_path / "adapter")

    torch.testing.assert_close(run(model), tuned, atol=2e-5, rtol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(run(model), before, atol=0, rtol=0)
    if case.mergeable:
        torch.testing.assert_close(run(model.merge_and_unload()), tuned, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_merged_by_ourselves_it_is_tuned_again(case: Case, tmp_path: Path) -> None:
    """transformers loads what `merge` writes, config and ties included, and runs it as tuned."""
    pair, _ = extracted(tmp_path, case)
    merge(pair.base, [tmp_path / "adapter"], tmp_path / "merged")
    merged = run(load(tmp_path / "merged", case))
    torch.testing.assert_close(merged, run(load(pair.tuned, case)), atol=2e-5, rtol=1e-4)


HEADS = [
    ("llama-bare", "llama-cls", CLASSIFIER, "SEQ_CLS", ["score"]),
    ("bert", "bert-cls", CLASSIFIER, "SEQ_CLS", ["classifier"]),
    ("bert", "bert-tokens", "AutoModelForTokenClassification", "TOKEN_CLS", ["classifier"]),
    ("bert", "bert-qa", "AutoModelForQuestionAnswering", "QUESTION_ANS", ["qa_outputs"]),
]


@pytest.mark.parametrize(("base", "kind", "loader", "task", "saved"), HEADS, ids=lambda value: str(value))
def test_a_head_that_only_tuned_has(
    base: str, kind: str, loader: str, task: str, saved: list[str], tmp_path: Path
) -> None:
    """The base is a bare model; its own class with the head starts from a random one."""
    tuned = tiny(kind)
    getattr(tuned, tuned.base_model_prefix).save_pretrained(tmp_path / "base")
    with torch.no_grad():
        add_low_rank(tuned)
    tuned.save_pretrained(tmp_path / "tuned")
    report = extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "adapter", rank=64, unholdable="drop")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == (task, saved)
    assert report.coverage is not None

    case = Case(base, kind, add_low_rank, loader=loader)
    model = attach(load(tmp_path / "base", case), tmp_path / "adapter")
    torch.testing.assert_close(run(model), run(load(tmp_path / "tuned", case)), atol=2e-5, rtol=1e-4)


def test_each_module_gets_its_own_rank_among_names_that_begin_alike(tmp_path: Path) -> None:
    """Layers 1, 10 and 11 of 12, at ranks that energy chose."""

    def change(model: Any) -> None:
        for layer in range(12):
            add_low_rank(model.model.layers[layer : layer + 1], rank=1 + layer % 5, seed=layer)

    pair = save_pair(tmp_path, tiny("llama", num_hidden_layers=12, tie_word_embeddings=False), change)
    report = extract(pair.base, pair.tuned, tmp_path / "adapter", energy=0.99)
    assert report.modules is not None
    model = attach(load(pair.base, Case("", "llama", change)), tmp_path / "adapter")
    modules = dict(model.base_model.model.named_modules())
    weights = {name: (load(folder, CASES[0])).state_dict() for name, folder in vars(pair).items()}
    assert len({row.rank for row in report.modules}) > 3
    assert len(report.modules) == 12 * 7
    for row in report.modules:
        layer = modules[row.name]
        assert (layer.r["default"], layer.scaling["default"]) == (row.rank, 1.0)
        exact = (
            weights["tuned"][f"{row.name}.weight"].double() - weights["base"][f"{row.name}.weight"].double()
        )
        held = layer.get_delta_weight("default").double()
        assert float((exact - held).norm() / exact.norm()) == pytest.approx(row.residual, rel=1e-4)


def test_dropping_the_rest_gives_what_servers_take(tmp_path: Path) -> None:
    pair = save_pair(tmp_path, tiny("llama", tie_word_embeddings=True), everything)
    extract(pair.base, pair.tuned, tmp_path / "adapter", rank=8, rest="drop")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["modules_to_save"], config["rank_pattern"], config["bias"]) == (None, {}, "none")
    attach(load(pair.base, CASES[0]), tmp_path / "adapter")


def test_the_sample_s_extracted_adapter_beats_the_base(tmp_path: Path) -> None:
    """Cross entropy on held-out text: nearer to the full fine-tune than to the base."""
    from loratools import sample

    extract(sample.path("base"), sample.path("tuned"), tmp_path / "adapter", rank=64)
    text = sample.HELDOUT.read_text(encoding="utf-8")[:4000]
    tokenizer = transformers.AutoTokenizer.from_pretrained(sample.path("base"))
    tokens = torch.tensor([tokenizer(text)["input_ids"][:256]])

    def loss(model: Any) -> float:
        with torch.no_grad():
            return float(model(input_ids=tokens, labels=tokens).loss)

    def checkpoint(name: str) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(
            sample.path(name), dtype=torch.float32
        ).eval()

    base, tuned = loss(checkpoint("base")), loss(checkpoint("tuned"))
    extracted = loss(attach(checkpoint("base"), tmp_path / "adapter"))
    assert tuned < base
    assert abs(extracted - tuned) < 0.2 * (base - tuned)
