"""Who loads a merged folder takes its weights and no record: transformers by running, servers by their rules.

The rules are what the sources of vLLM (`default_loader.py`, `repo_utils.py`, at 00b5ad07 and 01775b5e) and of
llama.cpp (`convert_hf_to_gguf.py`, at a458664f) do to find weights, without the code that does it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder
from fixtures.peft_models import make_adapter, save_base, tiny_llama
from loratools.operations.merge import merge


def vllm_weights(folder: Path) -> set[Path]:
    """Any of the patterns of its formats, in the folder itself."""
    return {path for kind in ("safetensors", "bin", "pt") for path in folder.glob(f"*.{kind}")}


def vllm_consolidated(folder: Path) -> set[Path]:
    """At any depth, by base name: one such file turns the whole folder into Mistral's format."""
    return set(folder.rglob("consolidated*.safetensors"))


def llama_cpp_parts(folder: Path) -> set[Path]:
    """By prefix and suffix, in the folder itself."""
    found = {path for path in folder.iterdir() if path.name.startswith(("model", "consolidated"))}
    return {path for path in found if path.suffix == ".safetensors"}


@pytest.fixture(scope="module", params=[1, 3], ids=["one file", "shards"])
def merged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged")
    tensors = decoder(hidden=64, ffn=96)
    base = write_decoder(folder / "base", tensors, shards=request.param)
    for place, name in enumerate(("one", "two")):
        adapter = write_adapter(folder / name, lora_factors(tensors, size=0.1, seed=place))
        merge(base, [adapter], folder / f"merged {name}", undo=True)
        base = folder / f"merged {name}"
    return base


@pytest.mark.parametrize("rule", [vllm_weights, llama_cpp_parts])
def test_a_server_s_rule_finds_the_weights_alone(merged: Path, rule: Callable[[Path], set[Path]]) -> None:
    records = list(merged.rglob("loratools-undo/*"))
    weights = set(merged.glob("model*.safetensors"))
    assert len(records) == 2 and weights and rule(merged) == weights


def test_no_record_looks_like_a_model_of_another_format(merged: Path) -> None:
    assert not vllm_consolidated(merged)
    (merged / "loratools-undo" / "consolidated.safetensors").touch()
    try:
        assert vllm_consolidated(merged), "the rule looks into folders"
    finally:
        (merged / "loratools-undo" / "consolidated.safetensors").unlink()


def test_transformers_loads_the_merged_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = save_base(tiny_llama(), tmp_path / "base")
    make_adapter(tiny_llama(), tmp_path / "adapter", target_modules=["q_proj"], r=4)
    merged = tmp_path / "merged"
    merge(base, [tmp_path / "adapter"], merged, undo=True)
    loaded, info = AutoModelForCausalLM.from_pretrained(merged, output_loading_info=True)
    assert not any(info.values())
    written = load_file(merged / "model.safetensors")
    assert (merged / "loratools-undo").is_dir()
    assert all(torch.equal(loaded.state_dict()[name], written[name]) for name in written)
