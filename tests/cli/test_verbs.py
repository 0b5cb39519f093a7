"""Every verb through the command line on the bundled sample: what it writes, prints and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from loratools import Report, UsageError, combine, extract, merge, resize, sample, unmerge
from loratools.cli.app import application

BASE, TUNED, ADAPTER = "loratools-sample/base", "loratools-sample/tuned", "loratools-sample/lora-r8"
OTHER = "loratools-sample/lora-r8-seed2"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def run(*line: str) -> Result:
    return CliRunner().invoke(application, list(line), prog_name="loratools")


def done(*line: str) -> Result:
    """A run that has to succeed."""
    result = run(*line)
    assert result.exit_code == 0, result.stderr
    return result


def refused(code: int, *line: str) -> str:
    """The one line of a run that has to fail with `code`."""
    result = run(*line)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.removeprefix("Error: ").rstrip("\n")


def contents(folder: Path | str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


WRITTEN = {
    "extract": "adapter_model.safetensors",
    "merge": "model.safetensors",
    "unmerge": "model.safetensors",
    "resize": "adapter_model.safetensors",
    "combine": "adapter_model.safetensors",
}


@pytest.mark.parametrize(("verb", "weights"), WRITTEN.items(), ids=WRITTEN)
def test_a_bare_verb_works_on_the_sample_and_replaces_its_own(verb: str, weights: str, folder: Path) -> None:
    first = done(verb)
    target = folder / "loratools-sample" / verb
    assert (target / weights).exists()
    assert f"{verb}: wrote loratools-sample/{verb}, " in first.stdout
    before = contents(target)
    done(verb)
    assert contents(target) == before
    (target / "loratools.json").write_text("{}")
    assert refused(1, verb) == (
        f"exists, and no run without references left it (loratools-sample/{verb}); "
        "move it, name another folder with -o, or replace it with --force"
    )
    assert contents(target)["loratools.json"] == b"{}"
    done(verb, "--force")
    assert contents(target) == before


def test_a_bare_verb_may_write_elsewhere(folder: Path) -> None:
    done("merge", "-o", "mine")
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_bare_inspect_shows_the_whole_sample() -> None:
    text = done("inspect").stdout
    for name in ("base", "tuned", "lora-r4", "lora-r8", "lora-r8-seed2", "lora-r16", "lora-r64"):
        assert f"loratools-sample/{name}\n" in text


LINES = {
    "extract": ("extract", BASE, TUNED, "--rank", "2", "-o", "out"),
    "merge": ("merge", BASE, ADAPTER, "-o", "out"),
    "unmerge": ("unmerge",),
    "resize": ("resize", ADAPTER, "--energy", "0.9", "-o", "out"),
    "combine": ("combine", ADAPTER, OTHER, "--method", "svd", "-o", "out"),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_dry_run_tells_the_plan_and_writes_nothing(line: tuple[str, ...], folder: Path) -> None:
    text = done(*line, "--dry-run").stdout
    assert "jobs would read" in text
    assert "nothing was written to" in text
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("verb", ["extract", "merge", "resize", "combine"])
def test_a_dry_run_needs_no_output(verb: str, folder: Path) -> None:
    *line, _, _ = LINES[verb]
    assert "\n" + f"{verb}: nothing was written, " in done(*line, "--dry-run").stdout
    report = json.loads(done(*line, "--dry-run", "--json").stdout)
    assert (report["output"], report["dry_run"]) == (None, True)
    assert len(report["coverage"]) == len(
        json.loads(done(*LINES[verb], "--dry-run", "--json").stdout)["coverage"]
    )
    assert list(folder.iterdir()) == []


def test_a_rank_above_all_sides_does_not_swell_the_estimate(folder: Path) -> None:
    for side in ("base", "tuned"):
        weight = np.zeros((400, 500), dtype=np.float32)
        save_file({"model.layers.0.mlp.up_proj.weight": weight}, folder / f"{side}.safetensors")

    def held(rank: str) -> int:
        line = ("extract", "base.safetensors", "tuned.safetensors", "--rank", rank, "--dry-run", "--json")
        return int(json.loads(done(*line).stdout)["plan"]["memory_bytes"])

    assert held("8") < held("400") == held("100000")


def test_a_dry_run_of_unmerge_needs_no_output(folder: Path) -> None:
    done("merge", BASE, ADAPTER, "-o", "merged")
    assert "\nunmerge: nothing was written, " in done("unmerge", "merged", ADAPTER, "--dry-run").stdout
    assert [path.name for path in folder.iterdir()] == ["merged"]


@pytest.mark.parametrize(
    "call",
    [
        partial(extract, BASE, TUNED),
        partial(merge, BASE, ADAPTER),
        partial(unmerge, BASE, ADAPTER),
        partial(resize, ADAPTER, rank=2),
        partial(combine, [ADAPTER, OTHER]),
    ],
    ids=["extract", "merge", "unmerge", "resize", "combine"],
)
def test_a_dry_run_from_python_needs_no_output(call: Callable[..., Report], folder: Path) -> None:
    assert call(dry_run=True).output is None
    with pytest.raises(UsageError, match="no output was named"):
        call()
    assert list(folder.iterdir()) == []


def test_a_dry_run_on_a_terminal_tells_layers_together() -> None:
    terminal = CliRunner(env={"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "0", "NO_COLOR": "1"})
    told = terminal.invoke(application, ["merge", BASE, ADAPTER, "--dry-run"], prog_name="loratools").stdout
    assert "applied: 8 of adapter, 45.1 kB: to model.layers.*.mlp.down_proj.weight\n" in told
    assert told.count("applied: ") == 7


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_quiet_prints_nothing_but_warnings(line: tuple[str, ...]) -> None:
    result = done(*line, "--quiet")
    assert result.stdout == ""
    assert all(line.startswith("Warning: ") for line in result.stderr.splitlines())


MODULE_KEYS = {
    "extract": {"name", "shape", "dtype", "rank", "alpha", "method", "norm", "energy", "residual", "excess"},
    "merge": {"name", "shape", "dtype", "kind", "scaling", "norm", "changed"},
    "unmerge": {"name", "shape", "dtype", "kind", "scaling", "norm", "changed", "exact"},
    "resize": {"name", "shape", "dtype", "rank_before", "rank", "alpha", "norm", "energy", "residual"},
    "combine": {"name", "shape", "dtype", "rank_before", "rank", "alpha", "norm", "residual", "parts"},
}

ACTIONS = {"factored", "saved", "merged", "applied", "replaced", "added", "copied", "unchanged", "dropped"}


@pytest.mark.parametrize("verb", LINES)
def test_json_is_one_object_with_the_keys_that_scripts_rely_on(verb: str) -> None:
    result = done(*LINES[verb], "--json")
    report: dict[str, Any] = json.loads(result.stdout)
    assert result.stderr.splitlines() == [f"Warning: {warning}" for warning in report["warnings"]]
    assert {key: report[key] for key in ("schema", "command", "ok")} == {
        "schema": 1,
        "command": verb,
        "ok": True,
    }
    assert {"version", "output", "modules", "coverage", "warnings", "seconds", "peak_bytes"} <= report.keys()
    assert report["modules"]
    assert all(MODULE_KEYS[verb] <= module.keys() for module in report["modules"])
    assert {row["action"] for row in report["coverage"]} <= ACTIONS
    assert all({"input", "tensor", "action", "reason", "bytes"} == row.keys() for row in report["coverage"])
    places = [(row["input"], row["tensor"]) for row in report["coverage"]]
    assert len(set(places)) == len(places)
    assert Path(report["output"]).is_dir()


@pytest.mark.parametrize("no_color", [None, "1"], ids=["colour", "NO_COLOR"])
def test_piped_tables_keep_whole_names_and_have_no_escapes(no_color: str | None) -> None:
    result = CliRunner(env={"COLUMNS": "40", "NO_COLOR": no_color}).invoke(
        application, ["extract", BASE, TUNED, "--rank", "2", "-o", "out"], prog_name="loratools"
    )
    assert result.exit_code == 0, result.stderr
    assert "model.layers.0.self_attn.q_proj  " in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("columns", ["20", "60", "80"])
def test_a_narrow_terminal_cuts_no_figure(columns: str) -> None:
    def lines(**environment: str) -> list[str]:
        line = ["merge", BASE, ADAPTER, "-o", "out", "--force", "-v"]
        result = CliRunner(env=environment).invoke(application, line, prog_name="loratools")
        assert result.exit_code == 0, result.stderr
        return [line for line in result.stdout.splitlines() if " x " in line]

    def figures(line: str) -> list[str]:
        return line.split()[1:]

    narrow = lines(COLUMNS=columns, TTY_COMPATIBLE="1", TTY_INTERACTIVE="0", NO_COLOR="1")
    assert [figures(line) for line in narrow] == [figures(line) for line in lines()]


def test_json_of_inspect() -> None:
    report = json.loads(done("inspect", ADAPTER, "--json").stdout)
    (item,) = report["items"]
    assert item["kind"] == "adapter"
    assert (item["rank"], item["alpha"]) == (8, 16)
    assert set(item["targets"]) == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }


def test_the_order_of_base_and_adapter_does_not_matter(folder: Path) -> None:
    done("merge", BASE, ADAPTER, "-o", "one")
    done("merge", ADAPTER, BASE, "-o", "other")
    done("merge", ADAPTER, "-o", "alone")
    assert contents("one") == contents("other") == contents("alone")


def test_weights_inline_and_by_option_are_the_same() -> None:
    two = "loratools-sample/lora-r4"
    done("merge", BASE, f"{ADAPTER}=0.5", f"{two}=-2", "-o", "inline")
    done("merge", BASE, ADAPTER, two, "--weight", "0.5", "--weight", "-2", "-o", "option")
    done("merge", BASE, ADAPTER, two, "-o", "plain")
    assert contents("inline") == contents("option")
    assert contents("inline") != contents("plain")


def test_unmerge_takes_the_weight_of_the_merge() -> None:
    done("merge", BASE, f"{ADAPTER}=0.5", "-o", "merged")
    report = json.loads(done("unmerge", "merged", f"{ADAPTER}=0.5", "-o", "back", "--json").stdout)
    assert all(module["exact"] is True or module["exact"] < 0.6 for module in report["modules"])
    assert "back" in report["output"]


def test_a_merge_with_a_record_comes_off_to_the_last_bit() -> None:
    said = done("merge", BASE, ADAPTER, "-o", "once", "--undo").stdout
    assert "undo record: " in said and "hold what rounding lost" in said
    done("merge", "once", "loratools-sample/lora-r4=0.5", "-o", "twice", "--undo")
    report = json.loads(done("unmerge", "twice", "-o", "back", "--json").stdout)
    assert report["merges"] == 1 and all(module["exact"] is True for module in report["modules"])
    assert contents("back") == contents("once")
    done("unmerge", "twice", "-o", "base", "--all")
    original = sample.path("base")
    assert {path.name: path.read_bytes() for path in original.iterdir()} == {
        path.name: path.read_bytes() for path in Path("base").iterdir() if path.name != "loratools.json"
    }
    assert refused(1, "unmerge", "base", "-o", "again").startswith("no merge kept an undo record here")


def test_a_merge_that_rounds_by_chance_comes_off_too() -> None:
    line = ("merge", BASE, f"{ADAPTER}=0.01", "--rounding", "stochastic", "--undo")
    report = json.loads(done(*line, "--seed", "7", "-o", "seven", "--json").stdout)
    assert all(module["rounding_error"] > 0 for module in report["modules"])
    assert "rounding error" in done(*line, "--seed", "7", "-o", "again").stdout
    done(*line, "-o", "zero")
    assert contents("seven") == contents("again") != contents("zero")
    done("unmerge", "seven", "-o", "back")
    weights = "model.safetensors"
    assert (Path("back") / weights).read_bytes() == (sample.path("base") / weights).read_bytes()


def test_an_extracted_adapter_merges_into_the_base_that_it_names() -> None:
    done("extract", BASE, TUNED, "-o", "adapter")
    done("merge", "adapter", "-o", "merged")
    assert Path("merged/model.safetensors").exists()


def test_one_file_where_the_format_is_one_file(folder: Path) -> None:
    done("merge", BASE, ADAPTER, "-o", "merged.safetensors")
    assert [path.name for path in folder.iterdir()] == ["merged.safetensors"]


REFUSALS: dict[str, tuple[int, tuple[str, ...], str]] = {
    "no such file": (1, ("inspect", "absent/base/x"), "no such file or folder (absent/base/x)"),
    "no such base": (1, ("extract", "absent/base/x", TUNED, "-o", "out"), "absent/base/x"),
    "no such member of the sample": (
        1,
        ("merge", BASE, "loratools-sample/lora-r9", "-o", "out"),
        "the bundled sample has no such member (loratools-sample/lora-r9); it has base, tuned, lora-r4",
    ),
    "two checkpoints": (2, ("merge", BASE, TUNED, "-o", "out"), "two checkpoints were given"),
    "no adapter": (2, ("merge", BASE, "-o", "out"), "no adapter was given"),
    "nothing merged": (2, ("unmerge", ADAPTER, "-o", "out"), "no merged checkpoint was given"),
    "a weight on a checkpoint": (2, ("merge", f"{BASE}=0.5", ADAPTER, "-o", "out"), "a weight stands on"),
    "weights twice": (2, ("merge", BASE, f"{ADAPTER}=1", "--weight", "1", "-o", "out"), "use one of the two"),
    "too many weights": (2, ("merge", BASE, ADAPTER, *("--weight", "1") * 2, "-o", "out"), "2 weights for 1"),
    "rank and energy": (
        2,
        ("extract", BASE, TUNED, "--rank", "2", "--energy", "0.5", "-o", "out"),
        "--energy",
    ),
    "energy of 2": (2, ("extract", BASE, TUNED, "--energy", "2", "-o", "out"), "--energy"),
    "no pattern": (2, ("extract", BASE, TUNED, "--targets", "(", "-o", "out"), "--targets"),
    "no size": (2, ("merge", BASE, ADAPTER, "--shard-size", "many", "-o", "out"), "no shard size"),
    "an adapter for a checkpoint": (
        2,
        ("extract", BASE, ADAPTER, "-o", "out"),
        "is an adapter, not a checkpoint",
    ),
    "an adapter in one file": (2, ("extract", BASE, TUNED, "-o", "out.safetensors"), "out.safetensors"),
    "resized in one file": (2, ("resize", ADAPTER, "--rank", "2", "-o", "a.safetensors"), "needs a folder"),
    "combined in one file": (2, ("combine", ADAPTER, OTHER, "-o", "a.safetensors"), "needs a folder"),
    "a checkpoint to resize": (2, ("resize", BASE, "--rank", "2", "-o", "out"), "a checkpoint stands where"),
    "two to resize": (2, ("resize", ADAPTER, OTHER, "--rank", "2", "-o", "out"), "takes one adapter"),
    "how much to keep": (2, ("resize", ADAPTER, "-o", "out"), "exactly one of --rank, --energy and --budget"),
    "too small a budget": (
        1,
        ("resize", ADAPTER, "--budget", "1kB", "-o", "out"),
        "a budget of 1,000 bytes holds no factors: the smallest output takes",
    ),
    "no density": (2, ("combine", ADAPTER, OTHER, "--method", "ties", "-o", "out"), "needs --density"),
    "unequal ranks": (
        1,
        ("combine", ADAPTER, "loratools-sample/lora-r4", "--method", "linear", "-o", "out"),
        "needs equal ranks",
    ),
}


@pytest.mark.parametrize(("code", "line", "says"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(code: int, line: tuple[str, ...], says: str, folder: Path) -> None:
    assert says in refused(code, *line)
    assert list(folder.iterdir()) == []


def test_an_output_that_exists_is_kept(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "mine").write_text("mine")
    assert "out" in refused(1, "merge", BASE, ADAPTER, "-o", "out")
    assert contents("out") == {"mine": b"mine"}
    refused(1, "merge", BASE, ADAPTER, "-o", "out", "--force")
    assert contents("out") == {"mine": b"mine"}, "a folder that holds no model is not for --force to remove"


def test_force_puts_the_new_output_in_the_place_of_the_old(folder: Path) -> None:
    done("merge", BASE, f"{ADAPTER}=0.5", "-o", "out")
    half = contents("out")
    refused(1, "merge", BASE, ADAPTER, "-o", "out")
    assert contents("out") == half
    done("merge", BASE, ADAPTER, "-o", "out", "--force")
    done("merge", BASE, ADAPTER, "-o", "new")
    assert contents("out") == contents("new")


def test_an_output_inside_an_input_is_refused(folder: Path) -> None:
    done("merge", BASE, ADAPTER, "-o", "base")
    before = contents("base")
    refused(1, "merge", "base", ADAPTER, "-o", "base/merged", "--force")
    refused(1, "merge", "base", ADAPTER, "-o", "base", "--force")
    assert contents("base") == before


def test_failure_in_json_names_the_file() -> None:
    result = run("inspect", "absent/base/x", "--json")
    assert result.exit_code == 1
    failure = json.loads(result.stdout)
    assert failure["ok"] is False
    assert failure["error"]["file"] == "absent/base/x"


def test_workers_do_not_change_what_is_written() -> None:
    done("extract", BASE, TUNED, "--rank", "4", "-o", "one", "--workers", "1")
    done("extract", BASE, TUNED, "--rank", "4", "-o", "three", "--workers", "3")
    assert contents("one") == contents("three")


def test_resize_says_the_answer_first() -> None:
    first, *_ = done("resize", ADAPTER, "--rank", "4", "-o", "out").stdout.splitlines()
    assert first.startswith("Rank 8 became 4: 78.2 % of the update's energy is left (residual 0.467); ")
    report = json.loads(done("resize", ADAPTER, "--budget", "90kB", "-o", "fewer", "--json").stdout)
    assert report["output_bytes"] == sum(map(len, contents("fewer").values())) <= 90_000
    assert report["totals"]["base_bytes"] is None
    said = done("resize", ADAPTER, "--budget", "90kB", "-o", "again")
    assert "28 modules without factors: " in said.stdout
    assert said.stderr.startswith("Warning: model.layers.0")


def test_combine_says_the_answer_first() -> None:
    first, *_ = done(
        "combine", ADAPTER, OTHER, "--weight", "0.5", "--weight", "-2", "-o", "out"
    ).stdout.splitlines()
    assert first == f"0.5 x {ADAPTER} + -2 x {OTHER} by cat: the weighted sum, to the last bit"
    first, *_ = done("combine", f"{ADAPTER}=0.7", OTHER, "-o", "rounded").stdout.splitlines()
    assert "by cat: the weighted sum, rounded (to " in first
    first, *_ = done("combine", ADAPTER, OTHER, "--method", "linear", "-o", "linear").stdout.splitlines()
    assert first.endswith(" % of the weighted sum's norm away from it")
    report = json.loads(done("combine", ADAPTER, OTHER, "-o", "json", "--json").stdout)
    assert report["adapters"] == [{"reference": ADAPTER, "weight": 1.0}, {"reference": OTHER, "weight": 1.0}]
    assert report["modules"][0]["parts"] == [{"adapter": place, "rank": 8, "factor": 2.0} for place in (1, 2)]


def test_combined_and_resized_adapters_merge() -> None:
    done("combine", ADAPTER, OTHER, "-o", "both")
    done("resize", "both", "--rank", "8", "-o", "smaller")
    done("merge", BASE, "smaller", "-o", "merged")
    done("combine", ADAPTER, OTHER, "--method", "svd", "-o", "svd")
    one, other = (
        json.loads(done("inspect", name, "--json").stdout)["items"][0] for name in ("smaller", "svd")
    )
    assert (one["rank"], one["alpha"]) == (other["rank"], other["alpha"]) == (8, 8)
