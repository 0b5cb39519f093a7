"""`loratools report` as it is typed and read; and `merge`, which refuses what report sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from fixtures.adapter_hub import HOULSBY, write_bottleneck
from loratools.cli.app import application

BASE, LORA = "loratools-sample/base", "loratools-sample/lora-r8"


def run(*line: str) -> Result:
    return CliRunner().invoke(application, list(line), prog_name="loratools")


def done(*line: str) -> str:
    result = run(*line)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(code: int, *line: str) -> str:
    """The one line of a run that has to fail with `code`."""
    result = run(*line)
    assert result.exit_code == code, result.output
    assert result.stdout == "" and result.stderr.count("\n") == 1, result.output
    return result.stderr.rstrip("\n")


def test_the_first_five_lines_are_the_answer() -> None:
    text = done("report", "--preset", "gpt3-175b", "--rank", "1", "4", "8", "--link", "1Gbit")
    assert text.split("\n")[:6] == [
        "gpt3-175b: 174,604,259,328 parameters; a full fine-tune is 349 GB for every task",
        "LoRA at r = 1 on c_attn.q, c_attn.v as in the paper: 4,718,592 parameters, 9.44 MB, 37,003x fewer",
        "37,003 fit where one checkpoint does; over 1Gbit each moves in 75.5 ms instead of 46.6 min",
        "training holds 349 GB instead of 2.79 TB in mixed precision; merged, it is free at inference",
        "20 of the paper's 38 figures on it follow from their formulas; the others are named below",
        "",
    ]


def test_formula_and_print_stand_side_by_side() -> None:
    text = done("report", "--preset", "gpt3-175b", "--rank", "1", "4", "8")
    line = next(line for line in text.split("\n") if "q, v at r = 1 (Table 4)" in line)
    assert line.split()[:3] == ["4.7M", "4,718,592", "yes"]
    line = next(line for line in text.split("\n") if line.strip().startswith("20.2M"))
    assert line.split()[:3] == ["20.2M", "18,874,368", "NO"]
    assert "20.2M (Table 4, PreLayer, l_p = 8, l_i = 8): does not follow: printed 7.0 % above" in text
    assert "2 · 192 · 12,288 · 4" in text


def test_bare_it_reports_on_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = done("report")
    assert text.startswith("loratools-sample/base: 1,869,504 parameters; a full fine-tune is 3.74 MB")
    for name in ("lora-r4", "lora-r8", "lora-r8-seed2", "lora-r16", "lora-r64"):
        assert f"loratools-sample/{name} (lora r = " in text
    assert list(tmp_path.iterdir()) == []


def test_quiet_prints_nothing_and_verbose_more() -> None:
    assert done("report", "--quiet") == ""
    short, long = done("report", BASE, LORA), done("report", BASE, LORA, "-v")
    assert len(long) >= len(short)


def test_json_is_one_object() -> None:
    found = json.loads(done("report", BASE, LORA, "--json", "--rank", "2", "4"))
    assert found["ok"] is True and found["command"] == "report"
    assert found["methods"][0]["reference"] == LORA
    assert [row["settings"]["rank"] for row in found["methods"] if row["method"] == "lora"] == [8, 2, 4]


def test_the_list_of_presets_has_sources() -> None:
    lines = done("report", "--preset", "list").split("\n")
    assert lines[0].split() == ["preset", "model", "parameters", "layers", "width", "vocabulary", "source"]
    (line,) = (line for line in lines if line.startswith("mixtral-8x7b "))
    assert "46,702,792,704" in line and "mistralai/Mixtral-8x7B-v0.1" in line


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("--preset", "llama2-7b"), "there is no preset 'llama2-7b'; did you mean llama-2-7b?"),
        (("--rank", "9999"), "is above that of every matrix"),
        (("--targets", "nothing"), "--targets 'nothing' finds no linear layer"),
        (("--link", "fast"), "--link 'fast' is no speed; write it like 1Gbit"),
        (("--preset", "gpt2", BASE), "is a second model"),
        (("--dtype", "int8"), "'float32', 'float16', 'bfloat16'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(line: tuple[str, ...], says: str) -> None:
    assert says in refused(2, "report", *line)


def test_it_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from loratools.cli.app import application\n"
        f"try: application.main(['report', {BASE!r}, {LORA!r}], prog_name='loratools')\n"
        "except SystemExit as done: assert not done.code\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'peft'} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "[]\n"


SOFT = {
    "prefix tuning": peft.PrefixTuningConfig,
    "prompt tuning": peft.PromptTuningConfig,
    "P-tuning": peft.PromptEncoderConfig,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=30,
        max_position_embeddings=32,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", SOFT)
def test_merge_refuses_what_takes_up_the_context(name: str, base: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(base)
    options = {"encoder_hidden_size": 8} if name == "P-tuning" else {}
    config = SOFT[name](task_type="CAUSAL_LM", num_virtual_tokens=3, **options)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    line = refused(1, "merge", str(base), str(tmp_path / "adapter"), "-o", str(tmp_path / "out"))
    assert line.startswith(
        f"Error: {name} cannot be merged: it adds positions to the context, which no weight of the base can "
        "hold"
    )
    assert not (tmp_path / "out").exists()


def test_merge_refuses_a_prompt_without_its_config(base: Path, tmp_path: Path) -> None:
    save_file({"prompt_embeddings": torch.zeros(3, 16)}, tmp_path / "prompt.safetensors")
    line = refused(1, "merge", str(base), str(tmp_path / "prompt.safetensors"), "-o", str(tmp_path / "out"))
    assert "a prompt or prefix cannot be merged: it adds positions to the context" in line


@pytest.mark.parametrize("torch_file", [False, True])
@pytest.mark.parametrize("places", [HOULSBY, HOULSBY[1:]], ids=["Houlsby", "Pfeiffer"])
def test_merge_refuses_what_adds_depth(
    places: tuple[str, ...], torch_file: bool, base: Path, tmp_path: Path
) -> None:
    write_bottleneck(tmp_path / "adapter", places=places, torch_file=torch_file)
    for line in ([str(base), str(tmp_path / "adapter")], [str(tmp_path / "adapter")]):
        said = refused(1, "merge", *line, "-o", str(tmp_path / "out"))
        assert said.startswith(
            "Error: a bottleneck adapter cannot be merged: it adds layers in series, with a nonlinearity "
            "that no weight of the base can hold"
        )


def test_inspect_says_so_too(tmp_path: Path) -> None:
    write_bottleneck(tmp_path / "adapter")
    (item,) = json.loads(done("inspect", str(tmp_path / "adapter"), "--json"))["items"]
    assert (item["kind"], item["format"], item["rank"]) == ("adapter", "bottleneck", 4)
    assert any("it cannot be merged" in warning for warning in item["warnings"])
