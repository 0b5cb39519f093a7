"""`report`: presets, configs, checkpoints with their adapters, the sample; its rows and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures.adapter_hub import write_bottleneck
from loratools import LoratoolsError, Report, UsageError, open_checkpoint, report, sample
from loratools.reports.costs.memory import MIXED
from loratools.reports.costs.rows import MemoryRow, Method, MethodRow, ModelRow, PaperFigure, Saving

BASE, TUNED, LORA = "loratools-sample/base", "loratools-sample/tuned", "loratools-sample/lora-r8"


def methods(found: Report, method: Method) -> list[MethodRow]:
    rows: tuple[MethodRow, ...] = found.details["methods"]
    return [row for row in rows if row.method is method]


def saving(found: Report) -> Saving:
    made: Saving = found.details["saving"]
    return made


def model(found: Report) -> ModelRow:
    made: ModelRow = found.details["model"]
    return made


def test_gpt3_at_the_papers_ranks() -> None:
    found = report(preset="gpt3-175b", ranks=[1, 4, 8])
    assert [(row.settings["rank"], row.parameters, row.paper) for row in methods(found, Method.LORA)] == [
        (1, 4_718_592, "4.7M (Table 4)"),
        (4, 18_874_368, "18.8M (Table 15), does not follow"),
        (8, 37_748_736, "37.7M (Table 4)"),
    ]
    (full,) = methods(found, Method.FULL)
    assert (full.parameters, full.bytes) == (174_604_259_328, 349_208_518_656)
    assert model(found).dtype == "float16" and model(found).targets_choice == "as in the paper"
    figures: tuple[PaperFigure, ...] = found.details["paper"]
    assert {row.model for row in figures} == {"gpt3-175b"}
    answer = saving(found)
    assert (answer.rank, answer.parameters, answer.paper_figures) == (1, 4_718_592, len(figures))
    assert answer.paper_follows == sum(row.follows for row in figures)
    assert answer.memory_full == 16 * 174_604_259_328
    assert answer.memory == 2 * 174_604_259_328 + 16 * 4_718_592


def test_every_method_is_there_with_its_cost() -> None:
    found = report(preset="roberta-base")
    costs = {
        row.method: (row.merges, row.latency.value, row.serial_layers, row.context_positions)
        for row in found.details["methods"]
        if row.settings.get("of") is None
    }
    assert costs == {
        Method.FULL: (True, "none", 0, 0),
        Method.BITFIT: (True, "none", 0, 0),
        Method.LORA: (True, "none", 0, 0),
        Method.HOULSBY: (False, "serial depth", 48, 0),
        Method.BOTTLENECK: (False, "serial depth", 24, 0),
        Method.PREFIX_EMBEDDING: (False, "context positions", 0, 72),
        Method.PREFIX_LAYER: (False, "context positions", 0, 16),
        Method.PROMPT: (False, "context positions", 0, 64),
    }


def test_the_sample_and_its_adapters_are_sized_from_their_headers() -> None:
    found = report()
    base = open_checkpoint(sample.path("base"))
    assert (model(found).parameters, model(found).bytes) == (base.parameters, base.bytes)
    own = {row.reference: row for row in methods(found, Method.LORA) if row.reference is not None}
    assert list(own) == [f"loratools-sample/{name}" for name in sample.adapters()]
    for name in sample.adapters():
        opened = open_checkpoint(sample.path(name))
        row = own[f"loratools-sample/{name}"]
        assert (row.parameters, row.bytes) == (opened.parameters, opened.bytes)
        assert row.ratio_bytes == base.bytes / opened.bytes
    assert saving(found).reference == LORA, "the adapter of the rank that is asked for"
    assert saving(report(ranks=[64])).reference == "loratools-sample/lora-r64"
    assert found.warnings == ()


def test_a_formula_row_agrees_with_the_trained_adapter() -> None:
    found = report([BASE, LORA])
    trained, formula = methods(found, Method.LORA)
    assert trained.reference == LORA and formula.reference is None
    assert (trained.parameters, trained.evaluation) == (formula.parameters, formula.evaluation)


def test_a_full_fine_tune_is_a_row_of_its_own() -> None:
    tuned, full = methods(report([BASE, TUNED]), Method.FULL)
    assert tuned.reference == TUNED and full.reference is None
    assert tuned.bytes == open_checkpoint(sample.path("tuned")).bytes


def test_an_adapter_alone_is_compared_with_the_base_that_it_names() -> None:
    alone, both = report(LORA), report([BASE, LORA])
    assert alone.details == both.details
    assert report([LORA, BASE]).details == both.details, "in any order"


def test_an_adapter_whose_base_is_not_here_is_sized_alone(tmp_path: Path) -> None:
    parameters = write_bottleneck(tmp_path / "adapter")
    found = report(tmp_path / "adapter")
    (row,) = found.details["methods"]
    assert (row.parameters, row.ratio_bytes, row.per_checkpoint) == (parameters, None, None)
    assert list(found.details) == ["methods"]
    assert found.warnings[0].startswith("the base is not here")


def test_an_adapter_beside_a_preset(tmp_path: Path) -> None:
    parameters = write_bottleneck(tmp_path / "adapter", width=768, layers=12, bottleneck=48)
    found = report(tmp_path / "adapter", preset="bert-base")
    own, *_ = found.details["methods"]
    assert own.ratio_parameters == 109_482_240 / parameters
    assert own.model == "bert-base"


def test_a_misfit_is_warned_of_and_left_out(tmp_path: Path) -> None:
    write_bottleneck(tmp_path / "adapter", width=40)
    found = report(tmp_path / "adapter", preset="bert-base")
    assert all(row.reference is None for row in found.details["methods"])
    assert "its shapes are none of bert-base's" in found.warnings[0]


@pytest.mark.parametrize("folder", [False, True])
def test_a_config_without_weights_is_counted_as_the_checkpoint_is(folder: bool) -> None:
    path = sample.path("base") if folder else sample.path("base") / "config.json"
    found, of_checkpoint = report(config=path), report(BASE)
    assert model(found).parameters == model(of_checkpoint).parameters
    assert model(found).model == "base"
    assert [row.evaluation for row in methods(found, Method.LORA)] == [
        row.evaluation for row in methods(of_checkpoint, Method.LORA)
    ]


def test_a_folder_that_is_called_like_a_preset_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "gpt2-medium").mkdir()
    config = {"model_type": "gpt2", "n_layer": 24, "n_embd": 1024, "n_head": 16, "vocab_size": 9}
    (tmp_path / "gpt2-medium" / "config.json").write_text(json.dumps(config))
    found = report(config=tmp_path / "gpt2-medium", ranks=[4], targets=[r"c_attn\.(q|v)$"])
    assert all(row.paper is None for row in found.details["methods"]) and "paper" not in found.details


def test_dtype_is_what_bytes_are_counted_in() -> None:
    single, half = report(preset="gpt2"), report(preset="gpt2", dtype="bfloat16")
    for one, other in zip(single.details["methods"], half.details["methods"], strict=True):
        assert one.bytes == 2 * other.bytes
    assert report(BASE, dtype="float32").details["model"].bytes == 2 * report(BASE).details["model"].bytes


def test_a_link_tells_the_time_of_each() -> None:
    found = report(preset="gpt3-175b", link="1Gbit")
    for row in found.details["methods"]:
        assert row.seconds_to_move == pytest.approx(8 * row.bytes / 1e9)
    assert saving(found).base_seconds == pytest.approx(2793.668, rel=1e-6)
    assert saving(report(preset="gpt2")).seconds is None


def test_memory_has_every_rank_at_every_precision() -> None:
    rows: tuple[MemoryRow, ...] = report(preset="gpt2", ranks=[4, 16]).details["memory"]
    mixed = [(row.method, row.settings.get("rank")) for row in rows if row.precision == MIXED.name]
    assert mixed == [(Method.FULL, None), (Method.LORA, 4), (Method.LORA, 16)]


def test_targets_are_searched_for_as_extract_searches() -> None:
    (row,) = methods(report(BASE, targets=[r"layers\.[01]\..*\.(q|o)_proj"]), Method.LORA)
    assert row.settings["targets"] == ["self_attn.o_proj", "self_attn.q_proj"]
    assert row.evaluation == "2 · 4 · 192 · 8"


def test_the_list_of_presets() -> None:
    found = report(preset="list")
    assert list(found.details) == ["presets"]
    assert len(found.details["presets"]) >= 20


def test_json_has_the_keys_of_the_contract() -> None:
    plain = json.loads(json.dumps(report(preset="gpt3-175b", link="1Gbit").to_json(), allow_nan=False))
    assert plain["command"] == "report"
    for row in plain["methods"]:
        assert list(row)[:4] == ["method", "settings", "parameters", "bytes"]
        assert {"formula", "merges", "latency", "context_positions", "paper"} <= row.keys()
    assert {row["method"] for row in plain["methods"]} == {
        "full", "bitfit", "lora", "houlsby", "bottleneck", "prefix-embedding", "prefix-layer", "prompt",
    }  # fmt: skip


REFUSED = {
    "two models": ({"preset": "gpt2", "config": "config.json"}, "a preset and a config are two models"),
    "a preset and a checkpoint": ({"references": BASE, "preset": "gpt2"}, "is a second model"),
    "unknown preset": ({"preset": "gpt4"}, "there is no preset 'gpt4'; did you mean gpt2"),
    "rank 0": ({"preset": "gpt2", "ranks": [0]}, "a rank of 0 is less than 1"),
    "a rank above all": ({"preset": "gpt2", "ranks": [769]}, "768 at most"),
    "no such matrix": ({"preset": "gpt2", "targets": ["q_proj"]}, "finds no linear layer"),
    "no speed": ({"preset": "gpt2", "link": "fast"}, "is no speed"),
    "no dtype": ({"preset": "gpt2", "dtype": "int8"}, "bytes cannot be counted in 'int8'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_usage(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        report(**options)  # type: ignore[arg-type]


def test_two_models_that_are_no_pair(tmp_path: Path) -> None:
    from fixtures.lora_files import decoder, decoder_config
    from fixtures.pairs import write_checkpoint

    tensors = decoder(hidden=16, layers=1)
    write_checkpoint(tmp_path / "other", tensors, config=decoder_config(tensors))
    with pytest.raises(UsageError, match="is no fine-tune of"):
        report([BASE, str(tmp_path / "other")])


def test_what_is_not_there() -> None:
    with pytest.raises(LoratoolsError, match="no such file or folder"):
        report("nowhere/at/all")
    with pytest.raises(LoratoolsError, match="cannot open"):
        report(config="nowhere.json")
