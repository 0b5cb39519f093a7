"""Real disks that refuse, and names that file systems take but programs often do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.fault_runs import RUNS, Run, Workplace, loratools, tree

ROOT = Path(__file__).parent.parent.parent


def real_disks(*words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "fixtures.real_disks", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_full_and_read_only_disks(tmp_path: Path) -> None:
    inside = ("unshare", "-Urm")
    work, disk = tmp_path / "work", tmp_path / "disk"
    work.mkdir()
    disk.mkdir()
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no user name spaces here")
    done = real_disks(str(work), str(disk), prefix=inside)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert int(done.stderr.split()[0]) > 15


def test_limited_files(tmp_path: Path) -> None:
    """What needs no name space of its own."""
    done = real_disks(str(tmp_path))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = Workplace(tmp_path_factory.mktemp("names"))
    found.prepare([run for run in RUNS if not run.old])
    return found


NAMES = {
    "spaces": " a  b ",
    "line-break": "a\nb\tc",
    "quotes": "a'b\"c;$d",
    "dashes": "--force",
    "percent": "%s%n{0}",
    "not-utf-8": os.fsdecode(b"caf\xe9\xff"),
    "255-bytes": "x" * 255,
    "255-bytes-of-two": "é" * 127,
    "255-bytes-and-a-suffix": "y" * 243 + ".safetensors",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize(
    "run",
    [run for run in RUNS if run.name in ("merge, shards", "merge, one file")],
    ids=lambda run: run.name,
)
def test_outputs_may_be_called_anything(run: Run, name: str, workplace: Workplace, tmp_path: Path) -> None:
    if run.target.endswith(".safetensors"):
        name = name if name.endswith(".safetensors") else f"{name[:110]}.safetensors"
    elif name.endswith(".safetensors"):
        name = f"{name.removesuffix('.safetensors')}.safetensory"
    words = run.words(workplace.inputs, tmp_path)
    words[words.index("-o") + 1] = str(tmp_path / name)
    assert loratools(words).code == 0
    assert tree(tmp_path) == {name: workplace.states[run.name][1]}
    assert loratools([*words, "--force"]).code == 0
    assert tree(tmp_path) == {name: workplace.states[run.name][1]}
    again = loratools(words)
    assert again.code == 1 and not again.wrongs() and "the output exists already" in again.errors


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_inputs_may_be_called_anything(name: str, workplace: Workplace, tmp_path: Path) -> None:
    base, adapter = tmp_path / name, tmp_path / "a" / name
    shutil.copytree(workplace.inputs / "shards", base)
    shutil.copytree(workplace.inputs / "adapter", adapter)
    out, back = tmp_path / "out", tmp_path / "back"
    assert loratools(["merge", str(base), str(adapter), "-o", str(out), "--undo", "--quiet"]).code == 0
    assert loratools(["unmerge", str(out), "-o", str(back), "--quiet"]).code == 0
    weights = [path.name for path in base.iterdir() if path.suffix == ".safetensors"]
    assert weights and all((back / one).read_bytes() == (base / one).read_bytes() for one in weights)


def test_a_name_of_256_bytes_is_refused_in_one_line(workplace: Workplace, tmp_path: Path) -> None:
    words = ["merge", str(workplace.inputs / "base"), str(workplace.inputs / "adapter"), "-o"]
    outcome = loratools([*words, str(tmp_path / ("x" * 256))])
    assert outcome.code == 1 and not outcome.wrongs() and "File name too long" in outcome.errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_may_not_be_written_is_one_line(workplace: Workplace, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        words = ["merge", str(workplace.inputs / "base"), str(workplace.inputs / "adapter"), "-o"]
        outcome = loratools([*words, str(tmp_path / "out")])
    finally:
        tmp_path.chmod(0o700)
    assert outcome.code == 1 and not outcome.wrongs() and "Permission denied" in outcome.errors
