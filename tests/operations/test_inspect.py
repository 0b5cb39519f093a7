"""`inspect` beside what the libraries that wrote the files say of them."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from loratools.checkpoints.gguf import read_gguf
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.inspect import inspect
from loratools.reports.report import InspectedItem


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=32
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def item(path: Path) -> InspectedItem:
    (only,) = inspect([str(path)]).items or ()
    return only


def saved(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def test_a_checkpoint_of_transformers(model_folder: Path) -> None:
    report = inspect([str(model_folder)])
    model = LlamaForCausalLM.from_pretrained(model_folder)
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    assert report.items == (
        InspectedItem(
            reference=str(model_folder),
            kind="checkpoint",
            format="safetensors",
            dtype="bfloat16",
            tensors=len(state),
            parameters=sum(tensor.numel() for tensor in state.values()),
            bytes=sum(tensor.numel() * 2 for tensor in state.values()),
            rank=None,
            alpha=None,
            targets=[],
            warnings=[],
        ),
    )
    assert report.coverage is None and report.peak_bytes is None and report.output is None
    (contents,) = report.details["contents"]
    assert contents["architectures"] == ["LlamaForCausalLM"]
    assert contents["dtypes"] == {"bfloat16": len(state)}


def peft_adapter(model_folder: Path, folder: Path, **options: Any) -> InspectedItem:
    model = LlamaForCausalLM.from_pretrained(model_folder)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **options})
    peft.get_peft_model(model, config).save_pretrained(folder)
    return item(folder)


def test_an_adapter_of_peft(model_folder: Path, tmp_path: Path) -> None:
    seen = peft_adapter(model_folder, tmp_path)
    assert (seen.kind, seen.format, seen.dtype) == ("adapter", "peft", "float32")
    assert (seen.rank, seen.alpha, seen.targets, seen.warnings) == (4, 8, ["q_proj", "v_proj"], [])
    assert seen.parameters == 2 * 2 * (4 * 16 + 16 * 4)


def test_patterns_make_lists(model_folder: Path, tmp_path: Path) -> None:
    seen = peft_adapter(
        model_folder,
        tmp_path,
        rank_pattern={"layers.1.self_attn.q_proj": 2},
        alpha_pattern={"layers.1.self_attn.q_proj": 2},
    )
    assert (seen.rank, seen.alpha, seen.warnings) == ([2, 4], [2, 8], [])


def test_experts_and_embeddings_have_their_configs_rank(model_folder: Path, tmp_path: Path) -> None:
    seen = peft_adapter(model_folder, tmp_path, target_modules=["embed_tokens"])
    assert (seen.rank, seen.targets) == (4, ["embed_tokens"])
    (tmp_path / "experts").mkdir()
    stacked = {
        "base_model.model.layers.0.experts.lora_A.weight": torch.ones(3 * 4, 8),
        "base_model.model.layers.0.experts.lora_B.weight": torch.ones(6, 3 * 4),
    }
    saved(stacked, tmp_path / "experts" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_parameters": ["experts.down_proj"]}
    (tmp_path / "experts" / "adapter_config.json").write_text(json.dumps(config))
    seen = item(tmp_path / "experts")
    assert (seen.rank, seen.warnings) == (4, [])


def test_a_rank_that_the_config_does_not_give_is_said(model_folder: Path, tmp_path: Path) -> None:
    peft_adapter(model_folder, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "r": 16}))
    assert item(tmp_path).warnings == ["modules of rank 4, where the config says 16"]


def test_a_bare_adapter_has_no_alpha(model_folder: Path, tmp_path: Path) -> None:
    peft_adapter(model_folder, tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    seen = item(tmp_path / "adapter_model.safetensors")
    assert (seen.kind, seen.rank, seen.alpha) == ("adapter", 4, None)
    assert "alpha" in seen.warnings[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64], ids=str)
def test_kohya_keeps_alpha_beside_its_factors(dtype: torch.dtype, tmp_path: Path) -> None:
    names = ("lora_unet_down_blocks_0_attn1_to_q", "lora_te_layers_11_mlp_fc1")
    tensors = {}
    for name, alpha in zip(names, (4, 2), strict=True):
        tensors[f"{name}.lora_down.weight"] = torch.ones(8, 4, dtype=torch.float16)
        tensors[f"{name}.lora_up.weight"] = torch.ones(6, 8, dtype=torch.float16)
        tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=dtype)
    seen = item(saved(tensors, tmp_path / "lora.safetensors"))
    assert (seen.kind, seen.format, seen.rank, seen.alpha) == ("adapter", "kohya", 8, [2, 4])
    assert seen.targets == ["attn1_to_q", "mlp_fc1"]


def test_other_formats(tmp_path: Path) -> None:
    down, up = torch.ones(4, 8), torch.ones(8, 4)
    unet, attention, bottleneck = "unet.a.to_out.0", "h.0.attn.q", "layer.0.output.adapter"
    cases: dict[str, tuple[dict[str, torch.Tensor], int | None, list[str]]] = {
        "diffusers": ({f"{unet}.lora_A.weight": down, f"{unet}.lora_B.weight": up}, 4, ["to_out.0"]),
        "loralib": (
            {f"{attention}.lora_A": down, f"{attention}.lora_B": up, f"{attention}.weight": up @ down},
            4,
            ["q"],
        ),
        "bottleneck": (
            {f"{bottleneck}.adapter_down.0.weight": down, f"{bottleneck}.adapter_up.weight": up},
            4,
            ["adapter"],
        ),
        "prompt": ({"prompt_embeddings": torch.ones(5, 8)}, None, []),
    }
    for form, (tensors, rank, targets) in cases.items():
        seen = item(saved(tensors, tmp_path / f"{form}.safetensors"))
        assert (seen.kind, seen.format, seen.rank, seen.targets) == ("adapter", form, rank, targets)
        assert any("cannot be merged" in warning for warning in seen.warnings) == (
            form in ("bottleneck", "prompt")
        )


def test_dtypes_are_the_weights(tmp_path: Path) -> None:
    position_ids = {"position_ids": torch.arange(100)}
    weights = {"a": torch.ones(9).bfloat16(), "b": torch.ones(2)}
    assert item(saved({"a": weights["a"], **position_ids}, tmp_path / "a.safetensors")).dtype == "bfloat16"
    mixed = item(saved({**weights, **position_ids}, tmp_path / "b.safetensors"))
    assert mixed.dtype == "mixed: bfloat16, float32"
    assert item(saved(position_ids, tmp_path / "c.safetensors")).dtype == "int64"


def test_quantised_weights_are_listed_with_a_warning(tmp_path: Path) -> None:
    tensors = {"l.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "l.weight_scale_inv": torch.ones(1)}
    report = inspect([str(saved(tensors, tmp_path / "a.safetensors"))])
    (seen,) = report.items or ()
    assert (seen.dtype, seen.bytes) == ("mixed: F8_E4M3, float32", 20)
    assert seen.warnings == ["fp8 weights with scales (l.weight_scale_inv): no other verb takes them"]
    assert report.warnings == (f"{seen.reference}: {seen.warnings[0]}",)


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_bytes(*, kind: str, tensors: dict[str, tuple[tuple[int, ...], int]]) -> bytes:
    """A GGUF header of version 3 with metadata of every sort: strings, numbers, arrays of both."""
    metadata = [
        gguf_string("general.type") + struct.pack("<I", 8) + gguf_string(kind),
        gguf_string("adapter.lora.alpha") + struct.pack("<If", 6, 32.0),
        gguf_string("tokenizer.tokens") + struct.pack("<IIQ", 9, 8, 2) + gguf_string("a") + gguf_string("bc"),
        gguf_string("scores") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3),
        gguf_string("flag") + struct.pack("<I?", 7, True),
    ]
    content = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata)
    for name, (dimensions, ggml_type) in tensors.items():
        content += gguf_string(name) + struct.pack("<I", len(dimensions))
        content += struct.pack(f"<{len(dimensions)}QIQ", *dimensions, ggml_type, 0)
    return content


def test_a_gguf_adapter_and_a_gguf_model(tmp_path: Path) -> None:
    factors = {"blk.0.attn_q.weight.lora_a": ((64, 8), 0), "blk.0.attn_q.weight.lora_b": ((8, 32), 1)}
    (tmp_path / "a.gguf").write_bytes(gguf_bytes(kind="adapter", tensors=factors))
    seen = item(tmp_path / "a.gguf")
    assert (seen.kind, seen.format, seen.rank, seen.alpha, seen.targets) == (
        "adapter",
        "gguf",
        8,
        32,
        ["attn_q"],
    )
    assert (seen.dtype, seen.bytes) == ("mixed: float32, float16", 64 * 8 * 4 + 8 * 32 * 2)
    (tmp_path / "m.gguf").write_bytes(
        gguf_bytes(kind="model", tensors={"token_embd.weight": ((256, 32), 12)})
    )
    seen = item(tmp_path / "m.gguf")
    assert (seen.kind, seen.dtype, seen.parameters, seen.bytes) == ("checkpoint", "Q4_K", 256 * 32, 32 * 144)
    assert "inspected only" in seen.warnings[0]


def test_broken_gguf_headers_are_refused(tmp_path: Path) -> None:
    honest = gguf_bytes(kind="model", tensors={"x": ((4,), 0)})
    path = tmp_path / "x.gguf"
    for cut in range(4, len(honest)):
        path.write_bytes(honest[:cut])
        with pytest.raises(LoratoolsError):
            read_gguf(path)
    for broken in (
        honest.replace(b"GGUF\x03", b"GGUF\x01"),
        honest[:8] + struct.pack("<Q", 2**60) + honest[16:],
        gguf_bytes(kind="model", tensors={"\x1b[2J": ((4,), 0)}),
        gguf_bytes(kind="model", tensors={"x": ((4,), 999)}),
        gguf_bytes(kind="model", tensors={"x": ((2**62, 2**62), 0)}),
    ):
        path.write_bytes(broken)
        with pytest.raises(LoratoolsError):
            inspect([str(path)])


def test_references_keep_their_order_and_may_carry_a_weight(model_folder: Path, tmp_path: Path) -> None:
    adapter = saved({"base_model.model.x.lora_A.weight": torch.ones(1, 2)}, tmp_path / "a.safetensors")
    items = inspect([f"{adapter}=0.5", model_folder, str(adapter)]).items or ()
    assert [seen.reference for seen in items] == [str(adapter), str(model_folder), str(adapter)]


def test_nothing_is_wrong_usage() -> None:
    with pytest.raises(UsageError):
        inspect([])


def test_odd_configs_are_no_tracebacks(tmp_path: Path) -> None:
    saved({"base_model.model.x.lora_A.weight": torch.ones(2, 2)}, tmp_path / "adapter_model.safetensors")
    for config in (
        {"r": "8", "lora_alpha": [1], "alpha_pattern": 3, "rank_pattern": [1]},
        {"r": None, "lora_alpha": True, "alpha_pattern": {"x": "y"}, "rank_pattern": {"x": [1]}},
        {"r": 2, "architectures": 5, "base_model_name_or_path": {}, "target_parameters": 1},
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        json.dumps(inspect([str(tmp_path)]).to_json(), allow_nan=False)


def test_safetensors_are_inspected_without_torch_or_numpy(model_folder: Path, tmp_path: Path) -> None:
    adapter = saved({"base_model.model.x.lora_A.weight": torch.ones(1, 2)}, tmp_path / "a.safetensors")
    torch.save({"weight": torch.ones(2)}, tmp_path / "b.bin")
    code = (
        "import sys; from loratools.operations.inspect import inspect;"
        f"report = inspect({[str(model_folder), str(adapter), str(tmp_path / 'b.bin')]!r});"
        "assert len(report.items) == 3;"
        "loaded = {'torch', 'numpy', 'scipy', 'safetensors', 'huggingface_hub'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
