"""Presets: the counts that they have to come to, here and in transformers; their sources; their names."""

from __future__ import annotations

import re

import pytest

from fixtures.meta_models import meta_model, parameters_of
from loratools.errors import UsageError
from loratools.reports.costs.presets import architecture, names, preset, preset_rows
from loratools.reports.costs.targets import choose


@pytest.mark.parametrize("name", names())
def test_a_preset_has_the_parameters_that_transformers_builds(name: str) -> None:
    chosen = preset(name)
    made = architecture(chosen)
    assert made.parameters == chosen.parameters
    assert made.counted is not None
    assert parameters_of(meta_model(made.counted, chosen.config)) == chosen.parameters


def test_gpt3_has_the_parameters_of_the_papers_formula() -> None:
    layers, d, vocabulary, positions = 96, 12288, 50257, 2048
    formula = 12 * layers * d**2 + 13 * layers * d + (vocabulary + positions + 2) * d
    assert architecture(preset("gpt3-175b")).parameters == formula == 174_604_259_328


WANTED = {
    "gpt3-175b", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "bert-base", "roberta-base", "roberta-large",
    "deberta-base", "deberta-large", "deberta-xxl", "t5-base", "llama-2-7b", "llama-2-13b", "llama-2-70b",
    "llama-3-8b", "llama-3-70b", "llama-3.2-1b", "mistral-7b", "mixtral-8x7b", "qwen2-7b", "qwen2.5-7b",
    "qwen3-8b", "gemma-2b", "gemma-7b", "gemma-2-9b", "phi-2",
}  # fmt: skip


def test_the_table_has_them_all_with_their_sources() -> None:
    rows = preset_rows()
    assert {row.preset for row in rows} >= WANTED
    assert len({row.preset for row in rows}) == len(rows) >= 20
    for row in rows:
        assert re.search(
            r"arXiv \d{4}\.\d{5}|config\.json of [\w.-]+/[\w.-]+ on the Hugging Face hub", row.source
        )
        assert row.parameters > 0 and row.layers > 0 and row.title


def test_the_papers_models_adapt_query_and_value() -> None:
    matrices = {}
    for name in names():
        chosen = preset(name)
        if chosen.targets:
            found = choose(architecture(chosen), chosen.targets, given=False)
            matrices[name] = (found.count, found.choice)
    assert matrices == {
        "gpt3-175b": (192, "as in the paper"),
        "gpt2-medium": (48, "as in the paper"),
        "gpt2-large": (72, "as in the paper"),
        "roberta-base": (24, "as in the paper"),
        "roberta-large": (48, "as in the paper"),
        "deberta-xxl": (96, "as in the paper"),
    }


def test_names_are_found_whatever_their_case_and_guessed_where_misspelt() -> None:
    assert preset("GPT3-175B").name == "gpt3-175b"
    with pytest.raises(UsageError, match=r"there is no preset 'llama2-7b'; did you mean llama-2-7b\?"):
        preset("llama2-7b")
    with pytest.raises(UsageError, match="--preset list shows them all"):
        preset("zzz")
