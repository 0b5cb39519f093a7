"""Every kind of update against real PEFT in float64: the same weights, or where ties matter the same outputs.

PEFT's merge of the untied kinds is the formula itself. Where a pair is tied PEFT's merge and its own forward
disagree in many cases; what the adapter was trained to do is the forward, and that is the oracle here.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from fixtures.bound_weights import bound_weights
from fixtures.peft_models import (
    ATTENTION,
    CASES,
    TIED_CASES,
    Case,
    TiedCase,
    make_adapter,
    move,
    save_base,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_llama_classifier,
)
from loratools.adapters.bind import Tied, bind
from loratools.adapters.binding import Binding
from loratools.adapters.peft import read_adapter
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.reference import open_checkpoint
from loratools.errors import LoratoolsError

TOKENS = torch.arange(20).reshape(2, 10)


def peft_model(model: PreTrainedModel, *folders: Path) -> PeftModel:
    """The model in float64 with adapters `0`, `1`, ... as PEFT loads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = PeftModel.from_pretrained(model.double(), folders[0], adapter_name="0")
        for place, folder in enumerate(folders[1:], 1):
            adapted.load_adapter(folder, str(place))
    return adapted.double().eval()


def merged(model: PeftModel, adapters: list[str] | None = None) -> PreTrainedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.merge_and_unload(adapter_names=adapters)


def bound(
    base: Path, *adapters: tuple[Path, float], tied: Tied = Tied.AUTO
) -> tuple[Checkpoint, Binding, dict[str, torch.Tensor]]:
    """Our merge in float64, without rounding."""
    opened = open_checkpoint(base)
    binding = bind(
        [(read_adapter(open_checkpoint(path)), weight) for path, weight in adapters], opened, tied=tied
    )
    return opened, binding, bound_weights(opened, binding)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def assert_same_weights(
    ours: dict[str, torch.Tensor], theirs: PreTrainedModel, before: PreTrainedModel, *, changed: set[str]
) -> None:
    """Equal in float64, and exactly `changed` are not what they were."""
    reference = {name: value for name, value in theirs.state_dict().items() if name in ours}
    assert reference.keys() == ours.keys()
    for name, value in reference.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-13, atol=1e-13, msg=name)
    old = before.double().state_dict()
    assert {name for name, value in reference.items() if not torch.equal(value, old[name])} == changed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_update_is_pefts_merge(case: Case, tmp_path: Path) -> None:
    base = save_base(case.model(), tmp_path / "base")
    make_adapter(case.model(), tmp_path / "adapter", **case.options)
    _, binding, ours = bound(base, (tmp_path / "adapter", 1.0))
    theirs = merged(peft_model(case.model(), tmp_path / "adapter"))
    assert_same_weights(ours, theirs, case.model(), changed=set(binding.tensors))
    assert not binding.unmatched


@pytest.mark.parametrize("case", TIED_CASES, ids=lambda case: case.name)
def test_tied_pair_computes_what_the_adapter_was_trained_to(case: TiedCase, tmp_path: Path) -> None:
    base = save_base(tiny_llama(tied=True), tmp_path / "base")
    make_adapter(tiny_llama(tied=True), tmp_path / "adapter", save=case.save, **case.options)
    adapted = peft_model(tiny_llama(tied=True), tmp_path / "adapter")
    trained = logits(adapted)
    _, binding, ours = bound(base, (tmp_path / "adapter", 1.0))
    assert binding.tie_word_embeddings is (None if case.stays_tied else False)
    assert ("lm_head.weight" in ours) is not case.stays_tied
    torch.testing.assert_close(logits(_load(ours)), trained, rtol=1e-12, atol=1e-12)
    assert torch.allclose(logits(merged(adapted)), trained, rtol=1e-9, atol=1e-9) is case.peft_agrees


@pytest.mark.parametrize("case", TIED_CASES, ids=lambda case: case.name)
def test_tie_is_pefts_merge(case: TiedCase, tmp_path: Path) -> None:
    """`--tied tie` changes the one tensor as PEFT's merge does, but for what is tied already, which PEFT adds
    twice, and for what PEFT itself unties."""
    base = save_base(tiny_llama(tied=True), tmp_path / "base")
    make_adapter(tiny_llama(tied=True), tmp_path / "adapter", save=case.save, **case.options)
    if case.name == "saved both":
        with pytest.raises(LoratoolsError, match="tied in the base but differ in the adapter"):
            bound(base, (tmp_path / "adapter", 1.0), tied=Tied.TIE)
        return
    _, binding, ours = bound(base, (tmp_path / "adapter", 1.0), tied=Tied.TIE)
    assert binding.tie_word_embeddings is None
    assert "lm_head.weight" not in ours
    theirs = merged(peft_model(tiny_llama(tied=True), tmp_path / "adapter"))
    side = "lm_head" if case.name == "saved head" else "model.embed_tokens"
    reference = theirs.get_submodule(side).weight.detach()
    if case.name == "kept tied":
        original = tiny_llama(tied=True).double().model.embed_tokens.weight.detach()
        reference = original + (reference - original) / 2
    torch.testing.assert_close(ours["model.embed_tokens.weight"], reference, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("case", TIED_CASES[:8], ids=lambda case: case.name)
def test_untie_computes_the_same(case: TiedCase, tmp_path: Path) -> None:
    base = save_base(tiny_llama(tied=True), tmp_path / "base")
    make_adapter(tiny_llama(tied=True), tmp_path / "adapter", save=case.save, **case.options)
    _, binding, ours = bound(base, (tmp_path / "adapter", 1.0), tied=Tied.UNTIE)
    assert binding.tie_word_embeddings is False
    trained = logits(peft_model(tiny_llama(tied=True), tmp_path / "adapter"))
    torch.testing.assert_close(logits(_load(ours)), trained, rtol=1e-12, atol=1e-12)


def _load(weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A tiny Llama in float64 that is tied if the head is not among the weights."""
    tied = "lm_head.weight" not in weights
    model = tiny_llama(tied=tied).double()
    rows = len(weights["model.embed_tokens.weight"])
    if rows != model.config.vocab_size:
        model.resize_token_embeddings(rows)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    model.tie_weights()
    return model.eval()


def test_gpt2_and_bert_are_written_apart_whole(tmp_path: Path) -> None:
    """Heads of other names, and BERT's decoder bias, which is tied too: all is there once the tie is off."""
    for make, targets in ((tiny_gpt2, ["wte", "c_attn"]), (tiny_bert, ["word_embeddings", "query"])):
        folder = tmp_path / make.__name__
        base = save_base(make(), folder / "base")
        make_adapter(make(), folder / "adapter", r=4, lora_alpha=8, target_modules=targets)
        trained = logits(peft_model(make(), folder / "adapter"))
        _, binding, ours = bound(base, (folder / "adapter", 1.0))
        assert binding.tie_word_embeddings is False
        config = make().config
        config.tie_word_embeddings = False
        model = type(make())(config).double().eval()
        missing, unexpected = model.load_state_dict(ours, strict=False)
        assert not missing and not unexpected
        torch.testing.assert_close(logits(model), trained, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [50, 3]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
    ids=["saved", "rows", "factors"],
)
def test_grown_vocabulary(options: dict[str, object], tied: bool, tmp_path: Path) -> None:
    """PEFT saves embedding and head whole where the vocabulary has grown; both come out with its rows."""
    base = save_base(tiny_llama(tied=tied), tmp_path / "base")

    def grown() -> PreTrainedModel:
        model = tiny_llama(tied=tied)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model.resize_token_embeddings(51)
        return model

    save = {"save_embedding_layers": True}
    make_adapter(grown(), tmp_path / "adapter", r=4, lora_alpha=8, save=save, **options)
    trained = logits(peft_model(grown(), tmp_path / "adapter"))
    if options["target_modules"] == ["q_proj", "embed_tokens"] and not tied:
        _, _, ours = bound(base, (tmp_path / "adapter", 1.0))
        assert ours["model.embed_tokens.weight"].shape[0] == 51
        assert ours["lm_head.weight"].shape[0] == 48, "PEFT saves the head of a targeted embedding never"
        return
    _, _, ours = bound(base, (tmp_path / "adapter", 1.0))
    torch.testing.assert_close(logits(_load(ours)), trained, rtol=1e-12, atol=1e-12)


def test_several_adapters_with_weights(tmp_path: Path) -> None:
    """Each adds its own update times its weight; PEFT's scalings, times the weights, are the reference."""
    base = save_base(tiny_llama(bias=True), tmp_path / "base")
    plain = {"target_modules": ATTENTION, "r": 4, "lora_alpha": 8}
    make_adapter(tiny_llama(bias=True), tmp_path / "one", seed=1, **plain)
    make_adapter(tiny_llama(bias=True), tmp_path / "two", seed=2, lora_bias=True, **plain)
    _, _, ours = bound(base, (tmp_path / "one", 0.75), (tmp_path / "two", -1.5))
    adapted = peft_model(tiny_llama(bias=True), tmp_path / "one", tmp_path / "two")
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.scaling["0"] *= 0.75
            module.scaling["1"] *= -1.5
    theirs = merged(adapted, ["0", "1"])
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-13, atol=1e-13, msg=name)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2], ids=["rows", "columns"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1, 2)], ids=["lora dora", "dora lora", "dora dora"])
def test_dora_beside_another_adapter(make, order: tuple[int, int], tmp_path: Path) -> None:
    """DoRA's norms are those of the weight it was trained on, whatever was merged before."""
    base = save_base(make(), tmp_path / "base")
    targets = ["q_proj", "down_proj"] if make is tiny_llama else ["c_attn", "c_proj"]
    for place, dora in enumerate((False, True, True)):
        options = {"target_modules": targets, "r": 4, "lora_alpha": 8, "use_dora": dora}
        make_adapter(make(), tmp_path / str(place), seed=place, **options)
    folders = [tmp_path / str(place) for place in order]
    _, _, ours = bound(base, *((folder, 1.0) for folder in folders))
    theirs = merged(peft_model(make(), *folders), ["0", "1"])
    for name, value in theirs.state_dict().items():
        if name in ours:
            torch.testing.assert_close(ours[name], value, rtol=1e-13, atol=1e-13, msg=name)


def test_rows_of_two_adapters_stand_side_by_side(tmp_path: Path) -> None:
    base = save_base(tiny_llama(), tmp_path / "base")
    for place, rows in enumerate(([1, 5], [7], [5])):
        options = {"target_modules": ["q_proj"], "r": 4, "trainable_token_indices": rows}
        make_adapter(tiny_llama(), tmp_path / str(place), seed=place, **options)
    _, _, ours = bound(base, (tmp_path / "0", 1.0), (tmp_path / "1", 1.0))
    theirs = merged(peft_model(tiny_llama(), tmp_path / "0", tmp_path / "1"), ["0", "1"])
    torch.testing.assert_close(ours["model.embed_tokens.weight"], theirs.model.embed_tokens.weight.detach())
    with pytest.raises(LoratoolsError, match=r"two adapters replace model\.embed_tokens\.weight"):
        bound(base, (tmp_path / "0", 1.0), (tmp_path / "2", 1.0))


def test_head_of_another_task_is_added(tmp_path: Path) -> None:
    """An adapter for classification on the base of a language model brings its head."""
    base = save_base(tiny_llama(), tmp_path / "base")
    options = {"target_modules": ["q_proj"], "r": 4, "task_type": "SEQ_CLS"}
    model = tiny_llama_classifier()
    model.model.load_state_dict(tiny_llama().model.state_dict())
    make_adapter(model, tmp_path / "adapter", **options)
    _, binding, ours = bound(base, (tmp_path / "adapter", 1.0))
    assert binding.tensors["score.weight"].source is None
    assert binding.decisions == ("score.weight is added: the base has no such head",)
    reference = tiny_llama_classifier()
    reference.model.load_state_dict(tiny_llama().model.state_dict())
    theirs = merged(peft_model(reference, tmp_path / "adapter"))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-13, atol=1e-13, msg=name)


def test_adapter_of_the_bare_model(tmp_path: Path) -> None:
    """Trained on the model without its head, merged into the checkpoint with one; and the reverse."""
    whole = tiny_gpt2()
    base = save_base(whole, tmp_path / "base")
    make_adapter(tiny_gpt2().transformer, tmp_path / "bare", r=4, target_modules=["c_attn", "c_fc"])
    _, _, ours = bound(base, (tmp_path / "bare", 1.0))
    theirs = merged(peft_model(tiny_gpt2().transformer, tmp_path / "bare"))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours[f"transformer.{name}"], value, rtol=1e-13, atol=1e-13, msg=name)

    bare = save_base(tiny_gpt2().transformer, tmp_path / "bare base")
    make_adapter(tiny_gpt2(), tmp_path / "whole", r=4, target_modules=["c_attn", "c_fc"])
    _, _, ours = bound(bare, (tmp_path / "whole", 1.0))
    theirs = merged(peft_model(tiny_gpt2(), tmp_path / "whole"))
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs.transformer.state_dict()[name], rtol=1e-13, atol=1e-13, msg=name
        )


def test_torch_file_and_adapter_names_in_keys(tmp_path: Path) -> None:
    """adapter_model.bin, and keys with the adapter's name or without PEFT's prefix, mean the same."""
    base = save_base(tiny_llama(), tmp_path / "base")
    options = {"target_modules": ATTENTION, "r": 4, "lora_alpha": 8, "modules_to_save": ["lm_head"]}
    make_adapter(tiny_llama(), tmp_path / "adapter", **options)
    make_adapter(tiny_llama(), tmp_path / "bin", save={"safe_serialization": False}, **options)
    assert (tmp_path / "bin" / "adapter_model.bin").exists()
    keys = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    variants = {
        "named": {
            key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): value
            for key, value in keys.items()
        },
        "wrapped": {
            key.replace("lm_head.", "lm_head.modules_to_save.default."): value for key, value in keys.items()
        },
        "bare": {key.removeprefix("base_model.model."): value for key, value in keys.items()},
    }
    for name, tensors in variants.items():
        (tmp_path / name).mkdir()
        config = (tmp_path / "adapter" / "adapter_config.json").read_bytes()
        (tmp_path / name / "adapter_config.json").write_bytes(config)
        save_file(tensors, tmp_path / name / "adapter_model.safetensors")
    _, _, reference = bound(base, (tmp_path / "adapter", 1.0))
    for name in ("bin", *variants):
        _, _, ours = bound(base, (tmp_path / name, 1.0))
        assert all(torch.equal(ours[key], value) for key, value in reference.items()), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_block_arithmetic_keeps_its_bound(dtype: str, tmp_path: Path) -> None:
    """Each element of a plain update lies within (r + 2)·eps·(|W| + |s|·|B||A|) of float64's."""
    base = save_base(tiny_llama(), tmp_path / "base", dtype=getattr(torch, dtype))
    make_adapter(
        tiny_llama(), tmp_path / "adapter", r=4, lora_alpha=3, target_modules=["q_proj", "down_proj"]
    )
    opened = open_checkpoint(base)
    adapter = read_adapter(open_checkpoint(tmp_path / "adapter"))
    binding = bind([(adapter, 0.7)], opened)
    narrow = torch.float64 if dtype == "float32" else torch.float32
    ours = bound_weights(opened, binding, narrow)
    exact = bound_weights(opened, binding)
    before = bound_weights(opened, bind([(adapter, 0.0)], opened))
    eps = torch.finfo(narrow).eps
    for name, one in binding.tensors.items():
        (update,) = one.updates
        A, B = (value.tensor(torch.float64).abs() for value in (update.A, update.B))
        limit = (4 + 2) * eps * (before[name].abs() + update.scaling * (B @ A))
        assert ((ours[name].double() - exact[name]).abs() <= limit).all()


def test_move_leaves_nothing_at_its_start(tmp_path: Path) -> None:
    """The adapters of these tests are not right by being zero."""
    adapted = make_adapter(tiny_llama(), tmp_path / "adapter", r=4, target_modules=["q_proj"])
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(bool(value.abs().min() > 0) for value in tensors.values())
    before = {name: value.clone() for name, value in adapted.named_parameters() if value.requires_grad}
    move(adapted, seed=5)
    assert all(
        (value != before[name]).all() for name, value in adapted.named_parameters() if value.requires_grad
    )
