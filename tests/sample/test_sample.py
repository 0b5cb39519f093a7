"""The sample as it ships: it opens, it is small, it names no machine, and its card tells the truth."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from loratools import sample

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
safetensors = pytest.importorskip("safetensors")

FOLDER = sample.HELDOUT.parent
MODELS = [name for name in sample.names() if name not in sample.adapters()]
MOST_BYTES = 12_000_000
RANKS = {"lora-r4": 4, "lora-r8": 8, "lora-r8-seed2": 8, "lora-r16": 16, "lora-r64": 64}


def shipped_files() -> list[Path]:
    return sorted(file for file in FOLDER.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Run on one thread: windows this small gain little from more, and lose much beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def loss(name: str) -> float:
    from loratools.sample.heldout import heldout_loss

    if name in sample.adapters():
        return heldout_loss(sample.path("base"), sample.path(name))
    return heldout_loss(sample.path(name))


@cache
def recorded() -> dict[str, float]:
    losses: dict[str, float] = json.loads(sample.LOSSES.read_text(encoding="utf-8"))["heldout"]
    return losses


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no 'lora-r5'; it has base, tuned, lora-r4"):
        sample.path("lora-r5")


def test_importing_the_sample_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, loratools.sample, loratools.sample.heldout; print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_heldout_loss_names_the_extra_when_a_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from loratools.sample.heldout import heldout_loss

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'loratools\[transformers\]'"):
        heldout_loss(sample.path("base"))


@pytest.mark.parametrize("name", MODELS)
def test_checkpoint_opens_whole(name: str) -> None:
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        sample.path(name), output_loading_info=True, local_files_only=True
    )
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("name", MODELS)
def test_tokenizer_round_trips_the_heldout_text(name: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(sample.path(name), local_files_only=True)
    text = sample.HELDOUT.read_text(encoding="utf-8").split("\f")[0]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == 1536


@pytest.mark.parametrize("name", sample.adapters())
def test_adapter_opens_on_the_base(name: str) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(sample.path("base"), local_files_only=True)
    model = peft.PeftModel.from_pretrained(base, sample.path(name), autocast_adapter_dtype=False)
    factors = {key: weight for key, weight in model.named_parameters() if "lora_" in key}
    assert len(factors) == 4 * 7 * 2  # layers, linear layers of each, A and B
    assert {weight.dtype for weight in factors.values()} == {torch.bfloat16}
    assert all(weight.any() for weight in factors.values()), "a factor of zeros was never trained or loaded"
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (RANKS[name], 2 * RANKS[name])
    stored = json.loads((sample.path(name) / "adapter_config.json").read_text(encoding="utf-8"))
    assert stored["base_model_name_or_path"] == sample.BASE_NAME


def test_every_stored_tensor_is_finite_bfloat16() -> None:
    files = [file for file in shipped_files() if file.suffix == ".safetensors"]
    assert len(files) == len(sample.names())
    for file in files:
        with safetensors.safe_open(file, framework="pt") as tensors:
            for key in list(tensors.keys()):
                tensor = tensors.get_tensor(key)
                assert tensor.dtype == torch.bfloat16, f"{file.name}: {key}"
                assert tensor.isfinite().all(), f"{file.name}: {key}"


def test_the_sample_is_small() -> None:
    assert sum(file.stat().st_size for file in shipped_files()) <= MOST_BYTES


def test_no_training_leftovers() -> None:
    expected = {".py", ".txt", ".json", ".md", ".safetensors"}
    assert {file.suffix for file in shipped_files()} == expected
    assert [file for file in shipped_files() if file.suffix == ".md"] == [FOLDER / "README.md"]


def test_no_file_names_a_machine() -> None:
    machine = re.compile(r"/(root|home/\w+|tmp|work|Users|mnt|opt)/|[A-Z]:\\\\|More Information Needed")
    # heldout.txt and tokenizer.json are CPython's text, whose examples may hold any path
    texts = [
        file
        for file in shipped_files()
        if file.suffix in {".json", ".md", ".py"} and file.name != "tokenizer.json"
    ]
    found = {
        str(file.relative_to(FOLDER)): hit.group()
        for file in texts
        if (hit := machine.search(file.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize("name", sample.names())
def test_recorded_loss_is_reproduced(name: str) -> None:
    assert loss(name) == pytest.approx(recorded()[name], abs=0.01)


def test_the_fine_tune_learnt_the_task() -> None:
    assert loss("tuned") < loss("base") - 0.3


@pytest.mark.parametrize("name", sample.adapters())
def test_adapter_lies_between_base_and_fine_tune(name: str) -> None:
    assert loss("tuned") - 0.03 < loss(name) < loss("base") - 0.1


def test_more_rank_learns_more() -> None:
    losses = [loss(name) for name in ("lora-r4", "lora-r8", "lora-r16", "lora-r64")]
    assert losses == sorted(losses, reverse=True)


def test_the_base_levelled_off() -> None:
    curve = json.loads(sample.LOSSES.read_text(encoding="utf-8"))["base_curve"]
    losses = [point["heldout_loss"] for point in curve]
    assert len(losses) >= 15
    assert abs(losses[-2] - losses[-1]) < 0.02
    assert losses[0] - losses[-1] > 1.0


@pytest.mark.parametrize("name", sample.names())
def test_card_tells_the_recorded_loss(name: str) -> None:
    rows = [line for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines() if "|" in line]
    (row,) = [line for line in rows if line.startswith(f"| {name} |")]
    assert float(row.split("|")[-2]) == recorded()[name]
