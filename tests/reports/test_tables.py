"""Reports as tables: whole names, nothing cut, many modules summed up, fates explained."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.engine.forecast import Forecast
from loratools.engine.plan import Plan, Written
from loratools.reports import words
from loratools.reports.columns import Column, table
from loratools.reports.modules import MANY, families
from loratools.reports.report import (
    ExtractedModule,
    HeldoutLoss,
    InspectedItem,
    MergedModule,
    Report,
    Totals,
)
from loratools.reports.tables import pages


def printed(report: Report, *, full: bool, width: int = 100_000) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    for page in pages(report, full=full):
        console.print(page)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def extracted(name: str, *, residual: float = 0.25, rank: int = 8) -> ExtractedModule:
    return ExtractedModule(
        name=name,
        shape=(192, 96),
        dtype="bfloat16",
        rank=rank,
        alpha=float(rank),
        method="krylov",
        norm=1.5,
        energy=1 - residual**2,
        residual=residual,
        excess=1e-4,
        storage_error=1e-7,
        failure_probability=1e-8,
        parameters=2304,
        bytes=9216,
        seconds=0.01,
    )


def report_of(*modules: ExtractedModule | MergedModule, rows: tuple[CoverageRow, ...] = ()) -> Report:
    return Report(
        command="extract",
        version="1",
        output=Path("out"),
        coverage=Coverage.of(rows),
        warnings=(),
        seconds=1.25,
        peak_bytes=250_000_000,
        modules=modules,  # type: ignore[arg-type]
        totals=Totals.of(2304, 9216, 1_870_000, 3_740_000),
    )


LAYERS = tuple(
    extracted(f"model.layers.{layer}.mlp.{kind}_proj", residual=0.001 * layer, rank=4 + layer)
    for layer in range(MANY)
    for kind in ("up", "down")
)


def test_few_modules_have_a_row_each() -> None:
    text = printed(report_of(*LAYERS[:MANY]), full=False)
    for row in LAYERS[:MANY]:
        assert text.count(row.name) == 1


def test_many_modules_are_families_and_the_worst() -> None:
    text = printed(report_of(*LAYERS), full=False)
    up = next(line for line in text.splitlines() if "model.layers.*.mlp.up_proj" in line)
    assert " ".join(up.split()) == "model.layers.*.mlp.up_proj 40 4 to 43 0 to 0.039 0.0001 369 kB"
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("model.layers.3")]
    assert listed == [
        "model.layers.39.mlp.up_proj",
        "model.layers.39.mlp.down_proj",
        "model.layers.38.mlp.up_proj",
        "model.layers.38.mlp.down_proj",
        "model.layers.37.mlp.up_proj",
    ]


def test_all_modules_are_listed_when_asked_for() -> None:
    text = printed(report_of(*LAYERS), full=True)
    assert all(text.count(f"{row.name} ") == 1 for row in LAYERS)


def test_a_family_is_a_name_without_its_numbers() -> None:
    names = ("h.1.w", "h.11.w", "h.1.w2", "1.w", "conv1.0")
    assert [family.name for family in families([extracted(name) for name in names])] == [
        "h.*.w",
        "h.*.w2",
        "*.w",
        "conv1.*",
    ]


def test_names_are_folded_and_never_cut() -> None:
    name = "model." + "x" * 150 + ".weight"
    text = printed(report_of(extracted(name)), full=False, width=80)
    column = [line.split(" ")[0] for line in text.splitlines()]
    assert name in "".join(column)
    assert "…" not in text


def test_a_hostile_name_reaches_the_terminal_escaped() -> None:
    text = printed(report_of(extracted("w\x1b[31m\n")), full=False)
    assert "w\\x1b[31m\\n" in text
    assert "\x1b" not in text


ROWS = (
    CoverageRow("base", "a", Action.UNCHANGED, "equal in both", 10),
    *(CoverageRow("tuned", f"norm.{i}", Action.SAVED, "a norm that changed", 100) for i in range(5)),
    CoverageRow("tuned", "w", Action.FACTORED, "changed", 1000),
    CoverageRow("tuned", "inv_freq", Action.DROPPED, "a buffer", 4),
)


def test_coverage_is_counted_for_each_input() -> None:
    lines = printed(report_of(rows=ROWS), full=False).splitlines()
    assert "base: 1 unchanged" in lines
    assert "tuned: 1 factored, 5 saved, 1 dropped" in lines


def test_what_was_saved_or_dropped_is_explained() -> None:
    text = printed(report_of(rows=ROWS), full=False)
    assert "saved: 5 of tuned, 500 B: a norm that changed\n    norm.*\n" in text
    assert "dropped: 1 of tuned, 4 B: a buffer\n    inv_freq\n" in text
    assert "equal in both" not in text


def test_the_same_tensors_of_two_inputs_are_told_once() -> None:
    rows = [CoverageRow(side, "n", Action.SAVED, "why", size) for side, size in (("base", 1), ("tuned", 2))]
    assert "saved: 1 of base, tuned, 2 B: why" in printed(report_of(rows=tuple(rows)), full=False)


def test_every_name_is_there_when_asked_for() -> None:
    text = printed(report_of(rows=ROWS), full=True)
    assert "    norm.0, norm.1, norm.2, norm.3, norm.4\n" in text


FORECAST = Forecast(
    seconds=90.0,
    phases={},
    memory_bytes=3_000_000_000,
    least_bytes=1_000_000_000,
    jobs_bytes=2_000_000_000,
    budget=None,
    workers=2,
    runs=1,
    alike=False,
)


@pytest.mark.parametrize("full", [False, True])
def test_a_dry_run_tells_every_fate_and_the_work(full: bool) -> None:
    plan = Plan("extract", Path("out"), ((), ()), Coverage.of(ROWS), 1_000_000, 2_000)
    text = printed(Report.of_plan(plan, FORECAST, version="1", seconds=0.5, peak_bytes=None), full=full)
    for reason in {row.reason for row in ROWS}:
        assert reason in text
    assert "2 jobs would read 1 MB, write at most 2 kB and hold about 3 GB, in about 90.5 s on 2 work" in text
    assert "(as 1 run of other settings on this machine told)" in text
    assert "the least that --max-memory may be is 1 GB" in text
    assert "weights" not in text
    assert "nothing was written to out" in text


def test_a_dry_run_in_full_has_a_row_for_every_tensor() -> None:
    plan = Plan("extract", Path("out"), (), Coverage.of(ROWS), 0, 0)
    text = printed(Report.of_plan(plan, FORECAST, version="1", seconds=0.1, peak_bytes=None), full=True)
    for row in ROWS:
        assert any(row.tensor in line.split() and row.action.value in line for line in text.splitlines())


def test_a_plan_says_in_json_what_it_foretells() -> None:
    plan = Plan("extract", Path("out"), (1,), Coverage.of(()), 1, 2, weight_bytes=1)
    made = Report.of_plan(plan, FORECAST, version="1", seconds=0.5, peak_bytes=None).to_json()
    assert made["dry_run"] is True
    assert made["plan"] == {
        "jobs": 1,
        "read_bytes": 1,
        "write_bytes": 2,
        "memory_bytes": 3_000_000_000,
        "estimated_seconds": 90.5,
        "weight_bytes": 1,
        "written": "at most",
        "weights_written": "at most",
        "least_memory_bytes": 1_000_000_000,
        "workers": 2,
        "calibration_runs": 1,
        "calibrated": "similar",
    }


BASES = {
    "no": ({"runs": 0}, "(not calibrated: no run on this machine has told yet)"),
    "alike": ({"runs": 3, "alike": True}, "(as 3 runs on this machine told)"),
}


@pytest.mark.parametrize(("known", "told"), BASES.values(), ids=BASES)
def test_a_plan_says_what_stands_behind_it(known: dict[str, int], told: str) -> None:
    plan = Plan(
        "merge", None, (1,), Coverage.of(()), 1, 2, weight_bytes=1234, weights_written=Written.EXACTLY
    )
    forecast = replace(FORECAST, workers=1, **known)
    text = printed(Report.of_plan(plan, forecast, version="1", seconds=0.5, peak_bytes=None), full=False)
    assert f"in about 90.5 s on 1 worker {told}" in text
    assert "of what is written, weights are exactly 1,234 bytes" in text


def test_totals_and_the_last_line() -> None:
    lines = printed(report_of(), full=False).splitlines()
    assert lines[-2] == (
        "2,304 parameters, 9.22 kB; the base has 812 times as many parameters and 406 times the bytes"
    )
    assert lines[-1] == "extract: wrote out, 1.2 s, 250 MB of memory at most"


def test_what_was_saved_whole_is_told_with_what_to_do() -> None:
    made = replace(report_of(), details={"rest_bytes": 9_000, "rest_share": 0.9})
    assert "what was saved whole takes 9 kB of it, 90 %; --rest drop leaves it out\n" in printed(
        made, full=False
    )


@pytest.mark.parametrize("chance", [0.0, 1e-8], ids=["exact", "krylov"])
def test_the_chance_of_a_bound_is_told_where_there_is_one(chance: float) -> None:
    module = replace(extracted("w"), failure_probability=chance)
    made = replace(report_of(module), details={"failure_probability": 1e-6})
    assert ("but for a chance of 1e-06" in printed(made, full=False)) == bool(chance)


def test_nothing_measured_is_a_dash() -> None:
    module = MergedModule("w", (4, 4), "float32", "replace", None, None, 1.0)
    text = printed(replace(report_of(module), command="merge", totals=None), full=False)
    row = next(line for line in text.splitlines() if line.startswith("w "))
    assert row.split() == ["w", "4", "x", "4", "float32", "replace", "-", "-", "100", "%", "-"]


def test_unmerge_tells_how_far_each_tensor_may_be_off() -> None:
    modules = (
        MergedModule("w", (4, 4), "float32", "lora", 1.0, 2.0, 1.0, True, 0.0),
        MergedModule("x", (4, 4), "float32", "lora", 1.0, 2.0, 1.0, 0.0131, 1e-4),
    )
    text = printed(replace(report_of(*modules), command="unmerge", totals=None), full=False)
    lines = {line.split()[0]: line for line in text.splitlines() if line[:2] in {"w ", "x "}}
    assert "may be off" in text
    assert lines["w"].split()[-2:] == ["none", "0"]
    assert lines["x"].split()[-3:] == ["1.31", "%", "0.0001"]


def test_items_and_their_warnings() -> None:
    item = InspectedItem(
        reference="some/adapter",
        kind="adapter",
        format="peft",
        dtype="bfloat16",
        tensors=56,
        parameters=123_456,
        bytes=246_912,
        rank=[4, 8],
        alpha=16.0,
        targets=["q_proj", "v_proj"],
        warnings=["the config names no base"],
    )
    made = Report("inspect", "1", None, None, (), 0.01, None, items=(item,))
    text = printed(made, full=False)
    assert text.startswith(
        "some/adapter\n"
        "    adapter, peft, bfloat16\n"
        "    56 tensors, 123,456 parameters, 247 kB\n"
        "    rank 4, 8, alpha 16\n"
        "    targets q_proj, v_proj\n"
        "    note: the config names no base\n"
    )


def test_losses_of_the_demo() -> None:
    losses = (HeldoutLoss("base", None, None, 4.2401), HeldoutLoss("LoRA, trained", 8, 1_000_000, 3.5412))
    made = Report("demo", "1", Path("out"), None, (), 30.0, None, details={"steps": (), "losses": losses})
    text = printed(made, full=False)
    assert any(line.split() == ["base", "-", "-", "4.240"] for line in text.splitlines())
    assert any(" ".join(line.split()) == "LoRA, trained 8 1 MB 3.541" for line in text.splitlines())
    assert made.to_json()["losses"][1] == {
        "model": "LoRA, trained",
        "rank": 8,
        "bytes": 1_000_000,
        "loss": 3.5412,
    }


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (1_234_567, "1.23 MB"),
        (350 * 10**9, "350 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0 %"), (0.5, "50 %"), (2.1e-5, "0.0021 %")])
def test_shares(value: float | None, text: str) -> None:
    assert words.share(value) == text


@pytest.mark.parametrize(
    "cells",
    [[("a", "1"), ("b" * 30, "22"), ("", "")], [("漢字", "1"), ("x\x1b", "é")], []],
    ids=["plain", "wide-and-escaped", "no-rows"],
)
@pytest.mark.parametrize("title", ["", "A title, longer than what stands below it, as titles are"])
def test_lines_are_what_rich_draws_where_there_is_room(cells: list[tuple[str, str]], title: str) -> None:
    columns = (
        Column[tuple[str, str]]("name", lambda row: row[0], text=True),
        Column[tuple[str, str]]("figure", lambda row: row[1]),
        Column[tuple[str, str]]("why", lambda row: row[0] * 2, text=True),
    )
    drawn = table(title, columns, cells)
    console = Console(file=io.StringIO(), width=100_000, markup=False, highlight=False, emoji=False)
    console.print(drawn)
    assert isinstance(console.file, io.StringIO)
    assert drawn.lines() == console.file.getvalue().removesuffix("\n")
