"""Outputs as `verify` measures them, against transformers and PEFT run plainly, with losses in numpy float64.

base + adapter is PEFT's own forward here, which merges nothing.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

from loratools import LoratoolsError, Report, UsageError, sample, verify
from loratools.operations.verification import comparison, outputs, text
from loratools.reports.verification import ModelOutputs, OutputKind

WINDOW = 96


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two documents, some 350 tokens."""
    path = tmp_path_factory.mktemp("text") / "held-out.txt"
    path.write_text(sample.HELDOUT.read_text()[:600] + "\f" + sample.HELDOUT.read_text()[5000:5500])
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sample's base and fine-tune in float32, so that a merge rounds nothing that can be seen."""
    folder = tmp_path_factory.mktemp("float32")
    for name in ("base", "tuned"):
        shutil.copytree(sample.path(name), folder / name)
        file = folder / name / "model.safetensors"
        save_file({key: value.float() for key, value in load_file(file).items()}, file, {"format": "pt"})
        config = json.loads((folder / name / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    return folder / "base", folder / "tuned"


def models(report: Report) -> dict[str, ModelOutputs]:
    return {row.model: row for row in report.details["outputs"].models}


def causal(folder: Path, adapter: Path | None = None) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()


def log_probabilities(model: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    """(tokens - 1, vocabulary) in float64, window by window."""
    found = []
    for first in range(0, len(tokens) - 1, WINDOW):
        window = torch.tensor([tokens[first : min(first + WINDOW, len(tokens) - 1)]])
        with torch.no_grad():
            logits = model(input_ids=window).logits[0].double().numpy()
        found.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    return np.concatenate(found)


def test_causal_outputs_are_those_of_peft(pair: tuple[Path, Path], held_out: Path) -> None:
    base, tuned = pair
    adapter = sample.path("lora-r8")
    report = verify([base, tuned, adapter], text=held_out, window=WINDOW, batch=3)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = [
        token for part in held_out.read_text().split("\f") for token in [*tokenizer(part)["input_ids"], 0]
    ]
    goal = log_probabilities(causal(tuned), tokens)
    expected = {"base": causal(base), "base + adapter": causal(base, adapter), "tuned": causal(tuned)}
    assert list(models(report)) == list(expected)
    for name, model in expected.items():
        mine = log_probabilities(model, tokens)
        row = models(report)[name]
        assert row.loss == pytest.approx(-mine[np.arange(len(mine)), tokens[1:]].mean(), rel=1e-5)
        assert row.kl == pytest.approx((np.exp(goal) * (goal - mine)).sum(axis=1).mean(), rel=1e-4, abs=1e-7)
        same = (mine.argmax(axis=1) == goal.argmax(axis=1)).mean()
        assert row.agreement == pytest.approx(same, abs=1.5 / len(goal))
        assert row.distance is None
    assert report.details["outputs"].tokens == len(tokens) - 1
    assert report.details["outputs"].kind is OutputKind.CAUSAL


def test_batches_do_not_change_what_is_measured(
    pair: tuple[Path, Path], held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*pair, sample.path("lora-r4")]
    first = models(verify(line, text=held_out, window=64, batch=1))
    monkeypatch.setattr(outputs, "_POSITIONS", 7)
    monkeypatch.setattr(text, "PIECE_CHARACTERS", 4096)
    second = models(verify(line, text=held_out, window=64, batch=9, workers=1))
    for name, row in second.items():
        assert row.loss == pytest.approx(first[name].loss, rel=1e-6)
        assert row.kl == pytest.approx(first[name].kl, rel=1e-5, abs=1e-7)


def test_two_models_are_in_memory_at_a_time(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, loaded = outputs.load_model, []

    def load(folder: Path, kind: OutputKind) -> torch.nn.Module:
        gc.collect()
        assert sum(model() is not None for model in loaded) <= 1
        model = real(folder, kind)
        loaded.append(weakref.ref(model))
        return model

    (tmp_path / "text").write_text("A few words.")
    monkeypatch.setattr(outputs, "load_model", load)
    verify([*pair, sample.path("lora-r4")], text=tmp_path / "text")
    assert len(loaded) == 3


@pytest.mark.parametrize(("least", "ok"), [(0.3, True), (0.99, False)])
def test_an_agreement_that_is_asked_for(
    least: float, ok: bool, pair: tuple[Path, Path], held_out: Path
) -> None:
    report = verify([*pair, sample.path("lora-r8")], text=held_out, min_agreement=least)
    assert report.ok is ok
    agreement = models(report)["base + adapter"].agreement
    assert 0.3 < agreement < 0.99
    (row,) = (check for check in report.details["checks"] if check.check == "agreement")
    assert row.ok is ok and f"{100 * agreement:.4g} %" in row.detail


def test_a_trained_adapter_is_nearer_in_outputs_though_not_in_weights(
    pair: tuple[Path, Path], held_out: Path
) -> None:
    line = [*pair, str(sample.path("lora-r8"))]
    alone = verify(line)
    assert not alone.ok and "worse than no adapter" in alone.details["verdict"]
    report = verify(line, text=held_out)
    assert report.ok and "brings base nearer to tuned" in report.details["verdict"]
    worse = verify([*line[:2], f"{line[2]}=-1"], text=held_out)
    assert not worse.ok and "is worse than no adapter: it agrees with tuned on" in worse.details["verdict"]


class TestEncoders:
    """Models without a next token: their last hidden states."""

    @pytest.fixture(scope="class")
    def made(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("encoder")
        torch.manual_seed(0)
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=1536,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                max_position_embeddings=128,
            )
        )
        model.save_pretrained(folder / "base")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(sample.path("base") / name, folder / "base" / name)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "query" in name or "value" in name:
                    value += 0.3 * torch.randn_like(value)
        model.save_pretrained(folder / "tuned")
        base = BertForMaskedLM.from_pretrained(folder / "base")
        adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["query", "value"]))
        with torch.no_grad():
            for name, value in adapted.named_parameters():
                if "lora_B" in name:
                    value += 0.1 * torch.randn_like(value)
        adapted.save_pretrained(folder / "adapter")
        return folder

    def test_hidden_states_are_those_of_peft(self, made: Path, held_out: Path) -> None:
        report = verify(
            [made / "base", made / "tuned", made / "adapter"], text=held_out, window=WINDOW, batch=4
        )
        tokenizer = AutoTokenizer.from_pretrained(made / "base")
        base = AutoModel.from_pretrained(made / "base").eval()
        tuned = AutoModel.from_pretrained(made / "tuned").eval()
        headed = BertForMaskedLM.from_pretrained(made / "base")
        adapted = PeftModel.from_pretrained(headed, made / "adapter").eval().base_model.model.bert
        lines = [line for line in held_out.read_text().splitlines() if line.strip("\f ")]
        distances: dict[str, list[float]] = {"base": [], "base + adapter": []}
        for line in held_out.read_text().split("\n"):
            if not line.strip():
                continue
            tokens = torch.tensor([tokenizer(line.strip())["input_ids"][:WINDOW]])
            with torch.no_grad():
                goal = tuned(tokens).last_hidden_state[0].double().numpy()
                for name, model in (("base", base), ("base + adapter", adapted)):
                    mine = model(tokens).last_hidden_state[0].double().numpy()
                    cosine = (
                        (goal * mine).sum(1) / np.linalg.norm(goal, axis=1) / np.linalg.norm(mine, axis=1)
                    )
                    distances[name] += list(1 - cosine)
        found = models(report)
        assert report.details["outputs"].kind is OutputKind.HIDDEN and lines
        assert report.details["outputs"].tokens == len(distances["base"])
        for name, expected in distances.items():
            assert found[name].distance == pytest.approx(np.mean(expected), rel=1e-4)
            assert found[name].agreement == pytest.approx(1 - np.mean(expected), rel=1e-6)
            assert found[name].loss is found[name].kl is None
        assert found["tuned"].distance == 0


class TestRefusals:
    """What cannot be measured is refused in one line, and runs nothing."""

    def test_a_missing_extra_is_named(self, held_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        line = [f"loratools-sample/{name}" for name in ("base", "tuned", "lora-r4")]
        monkeypatch.setattr(outputs, "find_spec", lambda name: None)
        monkeypatch.setattr(comparison, "find_spec", lambda name: None)
        with pytest.raises(LoratoolsError, match=r"pip install 'loratools\[transformers\]'"):
            verify(line, text=held_out)
        with pytest.raises(LoratoolsError, match=r"pip install 'loratools\[transformers\]'"):
            verify(line, min_agreement=0.1)
        (said,) = verify(line).warnings
        assert "outputs were not measured" in said

    def test_code_of_a_checkpoint_is_not_run(
        self, pair: tuple[Path, Path], held_out: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(pair[1], tmp_path / "tuned")
        config = json.loads((tmp_path / "tuned" / "config.json").read_text())
        config.update(model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"})
        (tmp_path / "tuned" / "config.json").write_text(json.dumps(config))
        (tmp_path / "tuned" / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
        with pytest.raises(LoratoolsError, match="transformers cannot load the model") as error:
            verify([pair[0], tmp_path / "tuned", sample.path("lora-r4")], text=held_out)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "ran").exists()

    def test_weights_that_would_be_random_are_not_measured(
        self, pair: tuple[Path, Path], held_out: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(pair[1], tmp_path / "tuned")
        file = tmp_path / "tuned" / "model.safetensors"
        held = load_file(file)
        del held["model.norm.weight"]
        save_file(held, file, {"format": "pt"})
        with pytest.raises(LoratoolsError, match="begin weights at random") as error:
            verify([pair[0], tmp_path / "tuned", sample.path("lora-r4")], text=held_out)
        assert error.value.tensor == "model.norm.weight"

    @pytest.mark.parametrize(
        ("content", "told"),
        [(b"", "too short"), (b"\xff\xfe", "not UTF-8")],
        ids=["empty", "not UTF-8"],
    )
    def test_a_text_that_is_none(
        self, content: bytes, told: str, pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        (tmp_path / "text").write_bytes(content)
        with pytest.raises(LoratoolsError, match=told):
            verify([*pair, sample.path("lora-r4")], text=tmp_path / "text")
        with pytest.raises(LoratoolsError, match="cannot open"):
            verify([*pair, sample.path("lora-r4")], text=tmp_path / "absent")

    def test_a_window_that_is_too_long(self, pair: tuple[Path, Path], held_out: Path) -> None:
        with pytest.raises(UsageError, match="more than the model's 128 positions"):
            verify([*pair, sample.path("lora-r4")], text=held_out, window=129)

    def test_a_tokenizer_of_another_model(
        self, pair: tuple[Path, Path], held_out: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(pair[0], tmp_path / "base")
        file = tmp_path / "base" / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["zzz"], vocabulary["e"] = vocabulary["e"], 5000
        file.write_text(json.dumps(tokenizer))
        with pytest.raises(LoratoolsError, match="cannot take the text") as error:
            verify([tmp_path / "base", pair[1], sample.path("lora-r4")], text=held_out)
        assert "\n" not in str(error.value)

    def test_weight_files_alone_have_no_outputs(self, pair: tuple[Path, Path], held_out: Path) -> None:
        files = [folder / "model.safetensors" for folder in pair]
        with pytest.raises(LoratoolsError, match="transformers needs a folder"):
            verify([*files, sample.path("lora-r4")], text=held_out)

    def test_an_agreement_needs_a_text(self, pair: tuple[Path, Path]) -> None:
        with pytest.raises(UsageError, match="--text FILE"):
            verify([*pair, sample.path("lora-r4")], min_agreement=0.5)


def test_weights_alone_need_neither_torch_nor_transformers(pair: tuple[Path, Path]) -> None:
    import subprocess

    code = (
        "import sys, loratools; "
        f"loratools.verify([{str(pair[0])!r}, {str(pair[1])!r}, 'loratools-sample/lora-r4']); "
        "print({'torch', 'transformers', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
