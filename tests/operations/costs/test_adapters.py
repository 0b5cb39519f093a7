"""A user's own adapters, sized to the parameter: PEFT's own, AdapterHub's layout, and other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from fixtures.adapter_hub import HOULSBY, PFEIFFER, write_bottleneck
from loratools.checkpoints.reference import open_checkpoint
from loratools.errors import LoratoolsError
from loratools.operations.costs.adapters import adapter_row
from loratools.operations.costs.measured import measured
from loratools.reports.costs.rows import Latency, Method, MethodRow
from loratools.reports.costs.yardstick import Yardstick

YARDSTICK = Yardstick(1_000_000, 4_000_000, "float32", 1000.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, vocab_size=90, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def row(folder: Path) -> MethodRow:
    return adapter_row(open_checkpoint(folder), YARDSTICK, None)


def trained(base: Path, folder: Path, kind: Any, **options: Any) -> tuple[MethodRow, int]:
    """The row of what PEFT saves, and how many parameters it has, as safetensors counts them."""
    model = peft.get_peft_model(
        LlamaForCausalLM.from_pretrained(base), kind(task_type="CAUSAL_LM", **options)
    )
    model.save_pretrained(folder)
    return row(folder), open_checkpoint(folder).parameters


SOFT = {
    "prefix": (peft.PrefixTuningConfig, {}, Method.PREFIX_LAYER, "6 · 2 · 2 · 16", 6 * 2 * 2 * 16),
    "projected prefix": (
        peft.PrefixTuningConfig,
        {"prefix_projection": True, "encoder_hidden_size": 8},
        Method.PREFIX_LAYER,
        "6 · 2 · 2 · 16",
        6 * 2 * 2 * 16,
    ),
    "prompt": (peft.PromptTuningConfig, {}, Method.PROMPT, "6 · 32", 6 * 32),
    "p-tuning": (peft.PromptEncoderConfig, {"encoder_hidden_size": 8}, Method.PROMPT, "6 · 32", 6 * 32),
}


@pytest.mark.parametrize("case", SOFT)
def test_prefixes_and_prompts_of_peft(case: str, base: Path, tmp_path: Path) -> None:
    kind, options, method, evaluation, parameters = SOFT[case]
    found, held = trained(base, tmp_path, kind, num_virtual_tokens=6, **options)
    assert found.parameters == held == parameters
    assert (found.method, found.evaluation, found.note) == (method, evaluation, None)
    assert found.context_positions == 6 and found.serial_layers == 0
    assert (found.merges, found.latency) == (False, Latency.CONTEXT_POSITIONS)
    assert found.settings["tokens"] == 6
    assert found.bytes == 4 * parameters


LORAS: dict[str, tuple[dict[str, Any], str, int]] = {
    "plain": ({"r": 4, "target_modules": ["q_proj"]}, "2 · L_lora · d · r", 0),
    "several sides": ({"r": 4, "target_modules": ["q_proj", "up_proj"]}, "r · Σ (in + out)", 0),
    "mixed ranks": (
        {"r": 4, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}},
        "Σ r · (in + out)",
        0,
    ),
    "saved head": (
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        "2 · L_lora · d · r + the rest",
        90 * 32,
    ),
    "DoRA": (
        {"r": 4, "target_modules": ["q_proj"], "use_dora": True},
        "2 · L_lora · d · r + the rest",
        2 * 32,
    ),
    "embedding": (  # PEFT saves the base's own beside its factors
        {"r": 4, "target_modules": ["embed_tokens"]},
        "r · Σ (in + out) + the rest",
        90 * 32,
    ),
}


@pytest.mark.parametrize("case", LORAS)
def test_loras_of_peft(case: str, base: Path, tmp_path: Path) -> None:
    options, formula, rest = LORAS[case]
    found, held = trained(base, tmp_path, peft.LoraConfig, **options)
    assert (found.method, found.merges, found.latency) == (Method.LORA, True, Latency.NONE)
    assert found.parameters == held
    assert found.formula == formula
    assert eval(found.evaluation.replace("·", "*").replace(",", "")) == held
    assert (found.note is None) is (rest == 0)
    if rest:
        assert found.note is not None and found.note.startswith(f"{rest:,} of its parameters")


def test_the_rank_is_told_or_its_range(base: Path, tmp_path: Path) -> None:
    plain, _ = trained(base, tmp_path / "a", peft.LoraConfig, r=4, target_modules=["q_proj"])
    assert plain.settings == {"rank": 4, "targets": ["self_attn.q_proj"]}
    mixed, _ = trained(
        base,
        tmp_path / "b",
        peft.LoraConfig,
        r=4,
        target_modules=["q_proj"],
        rank_pattern={"layers.0.self_attn.q_proj": 2},
    )
    assert mixed.settings["rank"] == "2 to 4"


BOTTLENECKS = {
    "Houlsby": ({"places": HOULSBY}, Method.HOULSBY, 4, 0),
    "Pfeiffer": ({"places": PFEIFFER}, Method.BOTTLENECK, 2, 0),
    "with norms": ({"places": PFEIFFER, "norm": True}, Method.BOTTLENECK, 2, 2),
    "torch file": ({"places": HOULSBY, "torch_file": True}, Method.HOULSBY, 4, 0),
}


@pytest.mark.parametrize("case", BOTTLENECKS)
def test_bottleneck_adapters_of_adapterhub(case: str, tmp_path: Path) -> None:
    options, method, adapters, norms = BOTTLENECKS[case]
    parameters = write_bottleneck(tmp_path / "adapter", **options)  # type: ignore[arg-type]
    opened = open_checkpoint(tmp_path / "adapter")
    assert opened.format == "bottleneck" and opened.kind.value == "adapter"
    found = row(tmp_path / "adapter")
    assert (found.method, found.parameters) == (method, parameters)
    assert found.settings == {"bottleneck": 4, "adapters": adapters, "norms": norms}
    assert eval(found.evaluation.replace("·", "*")) == parameters
    assert (found.merges, found.latency, found.serial_layers) == (False, Latency.SERIAL_DEPTH, 2 * adapters)
    if case == "torch file":
        assert opened.warnings == ("pytorch_model_head.bin beside pytorch_adapter.bin is not read",)


def test_ratios_and_times_are_against_the_yardstick(tmp_path: Path) -> None:
    parameters = write_bottleneck(tmp_path / "adapter")
    found = row(tmp_path / "adapter")
    assert found.ratio_parameters == 1_000_000 / parameters
    assert found.ratio_bytes == 4_000_000 / (4 * parameters)
    assert found.per_checkpoint == 4_000_000 // (4 * parameters)
    assert found.seconds_to_move == 4 * parameters / 1000


def test_other_formats_of_lora(tmp_path: Path) -> None:
    kohya = {
        "lora_unet_mid_attn_to_q.lora_down.weight": torch.zeros(4, 20),
        "lora_unet_mid_attn_to_q.lora_up.weight": torch.zeros(30, 4),
        "lora_unet_mid_attn_to_q.alpha": torch.tensor(4.0),
        "lora_unet_mid_conv.lora_down.weight": torch.zeros(4, 5, 3, 3),
        "lora_unet_mid_conv.lora_up.weight": torch.zeros(6, 4, 1, 1),
    }
    save_file(kohya, tmp_path / "kohya.safetensors")
    found = row(tmp_path / "kohya.safetensors")
    assert found.parameters == 4 * (20 + 30) + 4 * (45 + 6) + 1
    assert found.settings["rank"] == 4
    loralib = {"h.0.attn.c_attn.lora_A": torch.zeros(4, 8), "h.0.attn.c_attn.lora_B": torch.zeros(8, 4)}
    save_file(loralib, tmp_path / "loralib.safetensors")
    assert row(tmp_path / "loralib.safetensors").evaluation == "2 · 1 · 8 · 4"


def test_what_report_does_not_compare_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    with pytest.raises(LoratoolsError, match="IA3 is of no method that report compares"):
        trained(base, tmp_path, peft.IA3Config, target_modules=["v_proj"], feedforward_modules=[])


def test_compacter_is_refused_by_name(tmp_path: Path) -> None:
    key = "bert.encoder.layer.0.output.adapters.task"
    tensors = {
        f"{key}.adapter_down.0.W_left": torch.zeros(4, 8, 1),
        f"{key}.adapter_up.W_left": torch.zeros(4, 1, 1),
    }
    save_file(tensors, tmp_path / "adapter.safetensors")
    with pytest.raises(LoratoolsError, match="Compacter"):
        row(tmp_path / "adapter.safetensors")


def test_another_models_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    model = measured(open_checkpoint(base))
    write_bottleneck(tmp_path / "fits", width=32)
    assert adapter_row(open_checkpoint(tmp_path / "fits"), YARDSTICK, model).model == str(base)
    write_bottleneck(tmp_path / "wider", width=40)
    with pytest.raises(LoratoolsError, match="its shapes are none of"):
        adapter_row(open_checkpoint(tmp_path / "wider"), YARDSTICK, model)
    lora = {"h.0.c.lora_A": torch.zeros(4, 7), "h.0.c.lora_B": torch.zeros(9, 4)}
    save_file(lora, tmp_path / "lora.safetensors")
    with pytest.raises(LoratoolsError, match="its shapes are none of"):
        adapter_row(open_checkpoint(tmp_path / "lora.safetensors"), YARDSTICK, model)
