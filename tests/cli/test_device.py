"""`--device` on the command line: what is said where there is no such device, and what is never imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from fixtures.layers import PACKAGE
from loratools import Report
from loratools.cli.app import application
from loratools.reports.columns import Page
from loratools.reports.tables import pages

LINES = {
    "extract": ("extract", "loratools-sample/base", "loratools-sample/tuned"),
    "merge": ("merge", "loratools-sample/base", "loratools-sample/lora-r8"),
    "unmerge": ("unmerge", "loratools-sample/base", "loratools-sample/lora-r8"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: False)
    yield tmp_path


def run(*line: str) -> Result:
    return CliRunner().invoke(application, list(line), prog_name="loratools")


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_device_that_is_not_there_is_one_line(line: tuple[str, ...], dry: tuple[str, ...]) -> None:
    for device, said in {
        "cuda": "torch finds no CUDA device; see what nvidia-smi and CUDA_VISIBLE_DEVICES say, or run with "
        "--device cpu",
        "cuda:7": "torch finds no CUDA device; see what nvidia-smi and CUDA_VISIBLE_DEVICES say, or run with "
        "--device cpu",
        "mps": "torch was built without Metal (mps); mps is there on Macs with Apple silicon; name another "
        "device, or run with --device cpu",
    }.items():
        result = run(*line, "-o", "out", "--device", device, *dry)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"Error: {said}\n"
    assert not Path("out").exists()


def test_a_word_that_is_no_device_is_wrong_usage() -> None:
    result = run(*LINES["merge"], "-o", "out", "--device", "gpu")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: there is no device 'gpu'; say auto, cpu, cuda, cuda:N or mps\n"


@pytest.mark.parametrize("verb", ["extract", "merge"])
def test_json_says_what_was_taken_and_why(verb: str) -> None:
    done = run(*LINES[verb], "-o", "out", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["devices"] == {
        "asked": "auto",
        "taken": ["cpu"],
        "why": "no CUDA device was found",
    }


def lines(devices: dict[str, object]) -> list[Page]:
    report = Report(
        command="merge",
        version="0",
        output=None,
        coverage=None,
        warnings=(),
        seconds=1.0,
        peak_bytes=None,
        details={"devices": devices},
    )
    return [page for page in pages(report, full=False) if isinstance(page, str) and "computed" in page]


def test_the_table_says_so_where_that_is_news() -> None:
    saving = "they save more than the transfers cost"
    assert lines({"asked": "auto", "taken": ["cuda:0", "cuda:1"], "why": saving}) == [
        "computed on cuda:0, cuda:1 (--device auto: they save more than the transfers cost)"
    ]
    assert lines({"asked": "cuda:1", "taken": ["cuda:1"], "why": "asked for"}) == [
        "computed on cuda:1 (--device cuda:1)"
    ]
    assert lines({"asked": "cuda", "taken": ["cpu"], "why": "no job here can use cuda"}) == [
        "computed on cpu (--device cuda: no job here can use cuda)"
    ]
    assert lines({"asked": "cpu", "taken": ["cpu"], "why": "asked for"}) == []
    assert lines({"asked": "auto", "taken": ["cpu"], "why": "no CUDA device was found"}) == []


@pytest.mark.parametrize("device", [(), ("--device", "cpu"), ("--device", "auto")], ids=str)
@pytest.mark.parametrize("seen", [0, 8], ids="{} devices seen".format)
def test_a_merge_on_the_processor_never_imports_torch(
    device: tuple[str, ...], seen: int, folder: Path
) -> None:
    """Not even where a driver counts devices, if they do not pay."""
    code = (
        "import sys\n"
        "from loratools.engine import device\n"
        f"device.cuda_seen_by_driver.__code__ = (lambda: {seen}).__code__\n"
        "from loratools.cli.app import application\n"
        f"try: application.main({[*LINES['merge'], '-o', str(folder / 'out'), *device]!r})\n"
        "except SystemExit as done: assert not done.code\n"
        "assert 'numpy' in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert (folder / "out").exists()
