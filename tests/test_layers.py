"""Imports run downwards only, and what has to start fast imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import loratools
from fixtures.layers import PACKAGE, ROOMS, imports, module_of, room_of, sources

BELOW = {
    "": {"errors", "checkpoints", "operations", "reports", "cli"},
    "errors": set(),
    "patterns": {"errors"},
    "sample": set(),
    "linalg": set(),
    "checkpoints": {"errors", "linalg", "sample"},
    "adapters": {"errors", "patterns", "linalg", "checkpoints"},
    "engine": {"errors", "checkpoints"},
    "reports": {"errors", "patterns", "engine"},
    "operations": {
        *("", "errors", "patterns", "sample", "linalg", "checkpoints", "adapters", "engine", "reports"),
    },
    "cli": {"", "errors", "engine", "reports", "operations"},
}
"""Which rooms each room may import from; `""` is the package itself, whose verbs are imported lazily."""

HEAVY = {
    "torch", "numpy", "scipy", "transformers", "peft", "safetensors", "huggingface_hub", "dask", "matplotlib",
    "distributed",
}  # fmt: skip


FILES = sources()


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_imports_run_downwards(path: Path) -> None:
    here = room_of(module_of(path))
    for name in imports(path):
        there = room_of(name)
        assert there == here or there in BELOW[here], f"{here or 'loratools'} may not import {name}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if "linalg" in path.parts], ids=lambda path: path.name
)
def test_linalg_knows_arrays_and_nothing_else(path: Path) -> None:
    assert {room_of(name) for name in imports(path)} <= {"linalg"}


def test_the_rooms_are_stacked() -> None:
    assert set(ROOMS) == BELOW.keys() - {""}
    for height, name in enumerate(ROOMS):
        assert BELOW[name] - {""} <= set(ROOMS[height + 1 :]), f"{name} looks up"


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    assert folders <= set(ROOMS)


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules), file=sys.stderr)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    return {name.split(".")[0] for name in done.stderr.split()}


def help_page(*line: str) -> str:
    return (
        f"from loratools.cli.app import application\n"
        f"try: application.main({list(line)!r}, prog_name='loratools')\n"
        "except SystemExit as done: assert not done.code"
    )


STARTS = {
    "import": "import loratools",
    "help": help_page("--help"),
    "extract": help_page("extract", "--help"),
    "merge": help_page("merge", "--help"),
    "unmerge": help_page("unmerge", "--help"),
    "analyze": help_page("analyze", "--help"),
    "report": help_page("report", "--help"),
    "verify": help_page("verify", "--help"),
    "resize": help_page("resize", "--help"),
    "combine": help_page("combine", "--help"),
    "inspect": help_page("inspect", "--help"),
    "clean": help_page("clean", "--help"),
    "demo": help_page("demo", "--help"),
}


@pytest.mark.parametrize("code", STARTS.values(), ids=STARTS)
def test_help_imports_nothing_heavy(code: str) -> None:
    loaded = loaded_by(code)
    assert "loratools" in loaded
    assert not loaded & (HEAVY | {"rich"})


PAIR = ("loratools-sample/base", "loratools-sample/tuned")


def test_inspect_of_safetensors_does_not_import_torch() -> None:
    loaded = loaded_by(help_page("inspect", "loratools-sample/base", "loratools-sample/lora-r8"))
    assert not loaded & {"torch", "transformers", "peft"}


@pytest.mark.parametrize("line", [("--rank", "4", "8"), ("loratools-sample/lora-r8",)], ids=["pair", "alone"])
def test_adapters_alone_are_analysed_without_torch(line: tuple[str, ...]) -> None:
    loaded = loaded_by(help_page("analyze", *line))
    assert "numpy" in loaded
    assert not loaded & {"torch", "scipy", "transformers", "peft", "matplotlib"}


@pytest.mark.parametrize(
    "line",
    [
        ("resize", "--budget", "90kB"),
        ("combine", "--weight", "0.5", "--weight", "2"),
        ("combine", "--method", "svd"),
    ],
    ids=["resize", "combine", "combine by svd"],
)
def test_arithmetic_on_factors_does_not_import_torch(line: tuple[str, ...], tmp_path: Path) -> None:
    loaded = loaded_by(help_page(*line, "-o", str(tmp_path / "out")))
    assert (tmp_path / "out" / "adapter_config.json").exists()
    assert not loaded & {"torch", "scipy", "transformers", "peft"}


@pytest.mark.parametrize(
    "line",
    [
        ("merge", "--dry-run"),
        ("merge", "--undo", "--dry-run", "--json"),
        ("extract", "--dry-run"),
        ("extract", "--rank", "auto", "--dry-run", "--json"),
        ("analyze", *PAIR, "--dry-run"),
        ("analyze", *PAIR, "loratools-sample/lora-r8", "--dry-run", "--json"),
        ("report",),
        ("resize", "--dry-run"),
    ],
    ids=" ".join,
)
def test_plans_and_reports_are_made_without_torch(line: tuple[str, ...]) -> None:
    loaded = loaded_by(help_page(*line))
    assert not loaded & {"torch", "scipy", "transformers", "peft", "matplotlib"}
    if line[0] in ("merge", "extract"):
        assert "numpy" not in loaded


def test_the_version_is_the_one_that_was_built() -> None:
    assert loratools.__version__ == version("loratools")


def test_the_verbs_of_the_package_are_there_and_typed() -> None:
    assert {"extract", "merge", "unmerge", "inspect", "demo"} <= set(dir(loratools))
    for name in loratools.__all__:
        assert getattr(loratools, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        getattr(loratools, "analyse")  # noqa: B009
