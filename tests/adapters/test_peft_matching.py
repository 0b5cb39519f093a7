"""Names in adapter_config.json against PEFT's own matching functions."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from loratools.adapters.peft_matching import kept_from, rank_patterns, saved_with, target_names

parts = st.sampled_from(["a", "b", "ab", "proj", "q_proj", "layers", "1", "11", "norm", "xnorm"])
names = st.lists(parts, min_size=1, max_size=4).map(".".join)
modules = st.sets(names, min_size=1, max_size=12)


@given(modules, st.data())
def test_targets_mean_exactly_the_wanted_modules(all_modules: set[str], data: st.DataObject) -> None:
    wanted = data.draw(st.sets(st.sampled_from(sorted(all_modules)), min_size=1))
    config = LoraConfig(target_modules=target_names(wanted, all_modules))
    assert {name for name in all_modules if check_target_module_exists(config, name)} == wanted


@given(st.dictionaries(names, st.integers(1, 4), min_size=1, max_size=12))
def test_each_module_gets_its_own_rank(ranks: dict[str, int]) -> None:
    default, patterns = rank_patterns(ranks)
    for name, rank in ranks.items():
        assert patterns.get(get_pattern_key(list(patterns), name), default) == rank


@given(
    st.dictionaries(
        names.map(lambda name: name.replace("norm", "n.rm")) | names, st.integers(1, 2), min_size=2
    )
)
def test_patterns_are_plain_names_where_no_other_is_meant(ranks: dict[str, int]) -> None:
    _, patterns = rank_patterns(ranks)
    for name in ranks:
        alone = [other for other in ranks if re.match(rf"(.*\.)?({name})$", other)] == [name]
        assert name not in patterns or alone
        assert f"^{re.escape(name)}" not in patterns or not alone


def test_layer_1_is_not_layer_11() -> None:
    ranks = {f"model.layers.{layer}.q_proj": 4 for layer in range(12)} | {"model.layers.1.q_proj": 9}
    default, patterns = rank_patterns(ranks)
    assert (default, patterns) == (4, {"model.layers.1.q_proj": 9})


def test_a_name_that_ends_another_is_anchored() -> None:
    default, patterns = rank_patterns({"q_proj": 9, "x.q_proj": 4, "y.q_proj": 4})
    assert (default, patterns) == (4, {"^q_proj": 9})


def test_short_names_where_they_suffice_and_full_ones_elsewhere() -> None:
    known = {"l.0.q", "l.1.q", "l.0.k", "l.1.k", "l", "l.0", "l.1"}
    assert target_names({"l.0.q", "l.1.q", "l.0.k"}, known) == ["l.0.k", "q"]
    assert target_names({"q"}, {"q", "x.q"}) == "q"
    assert target_names(set(), known) == []


def test_names_to_save_take_their_namesakes_along() -> None:
    known = ["norm", "layers.0.input_layernorm", "layers.0.q_proj"]
    assert saved_with("norm", known) == {"norm", "layers.0.input_layernorm"}
    assert saved_with("layers.0.input_layernorm", known) == {"layers.0.input_layernorm"}


@given(modules, names)
def test_modules_that_a_saved_name_keeps_from_lora(all_modules: set[str], name: str) -> None:
    config = LoraConfig(target_modules=sorted(all_modules), modules_to_save=[name])
    kept = {module for module in all_modules if not check_target_module_exists(config, module)}
    assert kept_from(name, all_modules) == kept


@pytest.mark.parametrize("name", ["model.(a+)+", "model.norm(", "model.[", "model.a|b"])
def test_a_saved_name_that_is_a_pattern_keeps_all_from_lora(name: str) -> None:
    """PEFT takes it as one: it may match anything, or nothing, or never end."""
    assert kept_from(name, ["layers.0.q_proj", "layers.1.q_proj"]) == {"layers.0.q_proj", "layers.1.q_proj"}
