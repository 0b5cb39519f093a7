"""The paper's figures: each row's value and whether it follows, written down here apart from the code."""

from __future__ import annotations

import pytest

from loratools.reports.costs.methods import method_rows
from loratools.reports.costs.paper import figures, figures_of, printed_beside
from loratools.reports.costs.presets import architecture, preset
from loratools.reports.costs.rows import Method
from loratools.reports.costs.targets import choose
from loratools.reports.costs.yardstick import Yardstick

L, D = 96, 12288
M24, M36 = 24 * 1024, 36 * 1280
GPT3 = {
    ("175,255.8M", "fine-tuning"): (174_604_259_328, False),
    ("14.2M", "BitFit"): (11 * L * D, False),
    ("0.4M", "PreEmbed, l_p = 32, l_i = 8"): (D * 40, False),
    ("0.9M", "PreEmbed, l_p = 64, l_i = 8"): (D * 72, True),
    ("1.7M", "PreEmbed, l_p = 128, l_i = 8"): (D * 136, True),
    ("3.2M", "PreEmbed, l_p = 256, l_i = 8"): (3_244_032, True),
    ("6.4M", "PreEmbed, l_p = 512, l_i = 8"): (D * 520, True),
    ("5.1M", "PreLayer, l_p = 2, l_i = 2"): (L * D * 4, False),
    ("10.1M", "PreLayer, l_p = 8, l_i = 0"): (L * D * 8, False),
    ("20.2M", "PreLayer, l_p = 8, l_i = 8"): (18_874_368, False),
    ("44.1M", "PreLayer, l_p = 32, l_i = 4"): (L * D * 36, False),
    ("76.1M", "PreLayer, l_p = 64, l_i = 0"): (L * D * 64, False),
    ("7.1M", "Adapter-H, r = 1"): (7_078_080, True),
    ("21.2M", "Adapter-H, r = 4"): (192 * (2 * D * 4 + 4 + D), True),
    ("40.1M", "Adapter-H, r = 8"): (40_109_568, True),
    ("77.9M", "Adapter-H, r = 16"): (192 * (2 * D * 16 + 16 + D), True),
    ("304.4M", "Adapter-H, r = 64"): (192 * (2 * D * 64 + 64 + D), True),
    ("4.7M", "v at r = 2"): (4_718_592, True),
    ("4.7M", "q, v at r = 1"): (4_718_592, True),
    ("9.4M", "q, v at r = 2"): (9_437_184, True),
    ("9.4M", "q, k, v, o at r = 1"): (9_437_184, True),
    ("18.8M", "q, v at r = 4"): (18_874_368, False),
    ("18.8M", "q, k, v, o at r = 2"): (18_874_368, False),
    ("37.7M", "q, v at r = 8"): (37_748_736, True),
    ("37.7M", "q, k, v, o at r = 4"): (37_748_736, True),
    ("301.9M", "q, v at r = 64"): (301_989_888, False),
    ("603.8M", "q, k, v, o at r = 64"): (603_979_776, False),
    ("37.8M", "q, v at r = 8 and PreEmbed 8 + 4"): (37_748_736 + D * 12, False),
    ("151.1M", "q, v at r = 32 and PreEmbed 8 + 4"): (150_994_944 + D * 12, True),
    ("302.1M", "q, v at r = 64 and PreEmbed 8 + 4"): (301_989_888 + D * 12, True),
    ("52.8M", "q, v at r = 8 and PreLayer 8 + 4"): (37_748_736 + L * D * 12, False),
    ("350GB", "a checkpoint in 16 bits"): (349_208_518_656, True),
    ("35MB", "q, v at r = 4, in 16 bits"): (37_748_736, False),
    ("10,000x", "350 GB over 35 MB, as printed"): (10_000, True),
    ("1.2TB", "training memory of full fine-tuning with Adam"): (8 * 174_604_259_328, False),
    ("350GB", "training memory of LoRA"): (2 * 174_604_259_328 + 16 * 18_874_368, True),
    ("25%", "43.1 against 32.5 tokens/s for a V100"): (32.6154, False),
    ("21.5x", "amplification of W_q in layer 48 at r = 4"): (21.59375, False),
}
OTHERS = {
    ("gpt2-medium", "354.92M", "fine-tuning"): (354_823_168, False),
    ("gpt2-medium", "25.19M", "fine-tuning of the last two layers"): (25_192_448, True),
    ("gpt2-medium", "0.37M", "Adapter-L, r = 6"): (368_784, True),
    ("gpt2-medium", "11.09M", "Adapter-L, r = 224"): (11_089_152, True),
    ("gpt2-medium", "11.09M", "Adapter-H, r = 112"): (2 * 24 * (2049 * 112 + 1024), False),
    ("gpt2-medium", "0.35M", "q, v at r = 4"): (393_216, False),
    ("gpt2-large", "774.03M", "fine-tuning"): (774_030_080, True),
    ("gpt2-large", "0.88M", "Adapter-L, r = 8"): (36 * (2561 * 8 + 1280) + 2 * M36, True),
    ("gpt2-large", "23.00M", "Adapter-L, r = 248"): (36 * (2561 * 248 + 1280) + 2 * M36, True),
    ("gpt2-large", "0.77M", "q, v at r = 4"): (737_280, False),
    ("roberta-base", "125.0M", "fine-tuning"): (124_645_632, False),
    ("roberta-base", "0.1M", "BitFit"): (12 * 11 * 768 + 2 * 768, True),
    ("roberta-base", "0.3M", "q, v at r = 8"): (294_912, True),
    ("roberta-large", "355.0M", "fine-tuning"): (355_359_744, False),
    ("roberta-large", "0.8M", "q, v at r = 8"): (786_432, True),
    ("roberta-large", "3.0M", "Adapter-P, r = 64"): (24 * 2049 * 64 + M24, False),
    ("roberta-large", "0.8M", "Adapter-P, r = 16"): (24 * 2049 * 16 + M24, True),
    ("roberta-large", "6.0M", "Adapter-H, r = 64"): (48 * 2049 * 64 + 2 * M24, False),
    ("roberta-large", "0.8M", "Adapter-H, r = 8"): (48 * 2049 * 8 + 2 * M24, True),
    ("deberta-xxl", "1500.0M", "fine-tuning"): (1_564_549_632, False),
    ("deberta-xxl", "4.7M", "q, v at r = 16"): (4_718_592, True),
}
EXPECTED = {("gpt3-175b", *key): row for key, row in GPT3.items()} | OTHERS
LATENCIES = {
    "+20.7%": 20.707, "+30.3%": 30.303, "+5.0%": 4.9704, "+8.4%": 8.3728, "+2.2%": 2.2492, "+3.0%": 2.9529,
}  # fmt: skip


@pytest.mark.parametrize("key", EXPECTED, ids=" ".join)
def test_a_figure_has_its_formulas_value_and_follows_or_not(key: tuple[str, str, str]) -> None:
    (row,) = (row for row in figures() if (row.model, row.printed, row.settings) == key)
    value, follows = EXPECTED[key]
    assert row.value == pytest.approx(value, rel=1e-6)
    assert row.follows is follows
    assert row.follows or row.note.startswith("does not follow"), "a difference is named"


@pytest.mark.parametrize("printed", LATENCIES)
def test_latencies_of_table_1_follow(printed: str) -> None:
    (row,) = (row for row in figures_of("gpt2-medium") if row.printed == printed)
    assert row.where == "Table 1"
    assert row.value == pytest.approx(LATENCIES[printed], rel=1e-4)
    assert row.follows


def test_there_are_no_others() -> None:
    known = {key[1] for key in EXPECTED} | set(LATENCIES)
    assert {row.printed for row in figures()} == known
    assert len(figures()) == len(EXPECTED) + len(LATENCIES)


def test_notes_carry_the_other_numbers_of_a_claim() -> None:
    notes = {row.printed: row.note for row in figures_of("gpt3-175b")}
    assert "37.7 MB, or 36.0 MiB" in notes["35MB"]
    for number in ("9,285x", "37,142x", "9,251x", "37,003x"):
        assert number in notes["10,000x"]
    assert "24.6 % less time" in notes["25%"]
    assert "175,221.8M" in notes["175,255.8M"]
    assert "11,796,672" in notes["7.1M"] and "44,828,160" in notes["40.1M"]
    assert "1.40 TB" in notes["1.2TB"] and "2.79 TB" in notes["1.2TB"]
    assert notes["20.2M"] == "does not follow: printed 7.0 % above the formula"
    assert notes["301.9M"] == "does not follow: printed 0.03 % below the formula"
    (xxl,) = (row for row in figures_of("deberta-xxl") if row.printed == "4.7M")
    assert "Table 10 says r = 8, which gives 2,359,296" in xxl.note


def test_all_prefix_layer_rows_are_printed_1_to_8_per_cent_high() -> None:
    rows = [row for row in figures_of("gpt3-175b") if row.settings.startswith("PreLayer")]
    high = [100 * (float(row.printed[:-1]) * 1e6 / (row.value or 1) - 1) for row in rows]
    assert len(rows) == 5
    assert [round(share, 1) for share in high] == [8.1, 7.0, 7.0, 3.8, 0.8]


def test_the_print_stands_beside_the_method_with_just_its_settings() -> None:
    chosen = preset("gpt3-175b")
    model = architecture(chosen)
    yardstick = Yardstick(model.parameters, 2 * model.parameters, "float16")
    rows = list(method_rows(model, choose(model, chosen.targets, given=False), (1, 4, 8), yardstick))
    beside = [
        (row.method, text) for row, text in zip(rows, printed_beside("gpt3-175b", rows), strict=True) if text
    ]
    assert beside == [
        (Method.FULL, "175,255.8M (Table 4), does not follow"),
        (Method.BITFIT, "14.2M (Table 4), does not follow"),
        (Method.LORA, "4.7M (Table 4)"),
        (Method.LORA, "18.8M (Table 15), does not follow"),
        (Method.LORA, "37.7M (Table 4)"),
        (Method.HOULSBY, "7.1M (Table 4), without norms"),
        (Method.HOULSBY, "21.2M (Table 15), without norms"),
        (Method.HOULSBY, "40.1M (Table 4), without norms"),
        (Method.PREFIX_EMBEDDING, "3.2M (Table 4)"),
        (Method.PREFIX_LAYER, "20.2M (Table 4), does not follow"),
    ]


def test_other_targets_are_not_taken_for_the_papers() -> None:
    model = architecture(preset("gpt3-175b"))
    yardstick = Yardstick(model.parameters, 2 * model.parameters, "float16")
    rows = list(method_rows(model, choose(model, ["c_proj"], given=True), (1,), yardstick))
    beside = dict(zip((row.method for row in rows), printed_beside("gpt3-175b", rows), strict=True))
    assert beside[Method.LORA] is None
