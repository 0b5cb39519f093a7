"""What is recognised but cannot be computed with, and by which name it is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loratools.checkpoints.foreign import quantisation, require_computable
from loratools.checkpoints.reference import open_checkpoint
from loratools.errors import LoratoolsError

BYTES = torch.zeros(4, 4, dtype=torch.uint8)
INTEGERS = torch.zeros(4, 4, dtype=torch.int32)
FLOATS = torch.zeros(4)
FP8 = torch.zeros(4, 4).to(torch.float8_e4m3fn)

QUANTISED = {
    "nf4": ({"l.weight": BYTES, "l.weight.quant_state.bitsandbytes__nf4": BYTES}, "4-bit"),
    "int8": ({"l.weight": BYTES.to(torch.int8), "l.SCB": FLOATS}, "bitsandbytes 8-bit"),
    "gptq": ({"l.qweight": INTEGERS, "l.scales": FLOATS.half(), "l.g_idx": INTEGERS}, "GPTQ or AWQ"),
    "awq": ({"l.qweight": INTEGERS, "l.qzeros": INTEGERS, "l.scales": FLOATS.half()}, "GPTQ or AWQ"),
    "fp8": ({"l.weight": FP8, "l.weight_scale_inv": FLOATS}, "fp8 weights with scales"),
    "fp8 without scales": ({"l.weight": FP8}, "F8_E4M3 values"),
    "compressed": ({"l.weight_packed": INTEGERS, "l.weight_scale": FLOATS}, "compressed-tensors"),
    "mxfp4": ({"l.gate_up_proj_blocks": BYTES, "l.gate_up_proj_scales": BYTES}, "MXFP4"),
    "complex": ({"l.weight": FLOATS, "freqs": torch.zeros(2, dtype=torch.complex64)}, "C64 values"),
}  # fmt: skip


def save_copies(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)


@pytest.mark.parametrize("case", QUANTISED.values(), ids=QUANTISED)
def test_quantised_weights_open_but_are_refused_by_name(
    case: tuple[dict[str, torch.Tensor], str], tmp_path: Path
) -> None:
    tensors, what = case
    save_copies(tensors, tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path / "model.safetensors")
    assert list(opened) == sorted(tensors)
    with pytest.raises(LoratoolsError, match=f"{what}.*cannot be computed with") as refusal:
        require_computable(opened)
    assert refusal.value.tensor in tensors
    assert "unquantised" in (refusal.value.hint or "")


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "fp8", None])
def test_a_config_that_declares_it_is_enough(method: str | None, tmp_path: Path) -> None:
    save_file({"weight": FLOATS}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"quantization_config": {"quant_method": method, "bits": 4}})
    )
    with pytest.raises(LoratoolsError, match=f"quantised by {method or 'an unnamed method'}"):
        require_computable(open_checkpoint(tmp_path))


def test_plain_checkpoints_pass_whatever_they_call_their_tensors(tmp_path: Path) -> None:
    tensors = {
        "norm.scales": FLOATS,
        "attention_scales": FLOATS,
        "blocks.weight_scale": FLOATS,
        "embeddings.position_ids": torch.arange(4),
        "gate.weight_scale": FLOATS.bfloat16(),
    }
    save_copies(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"quantization_config": null}')
    opened = open_checkpoint(tmp_path)
    require_computable(opened)
    assert quantisation(opened) is None


def test_an_adapter_of_a_quantised_base_is_not_quantised(tmp_path: Path) -> None:
    save_file({"base_model.model.x.lora_A.weight": torch.ones(1, 2)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "quantization_config": {"a": 1}}')
    require_computable(open_checkpoint(tmp_path))


def test_a_trainers_folder_beside_frameworks_files_is_a_checkpoint(tmp_path: Path) -> None:
    save_file({"weight": FLOATS}, tmp_path / "model.safetensors")
    (tmp_path / "global_step10").mkdir()
    (tmp_path / ".metadata").touch()
    assert list(open_checkpoint(tmp_path)) == ["weight"]


def test_a_frameworks_shard_named_by_itself_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"module": {}}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(LoratoolsError, match=r"DeepSpeed.*zero_to_fp32\.py"):
        open_checkpoint(tmp_path / "mp_rank_00_model_states.pt")
