"""--max-memory: fewer jobs at once, the same bytes; what is too little is refused with what would do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import loratools
from fixtures.fault_runs import tree
from fixtures.lora_files import decoder, exact_sum, lora_factors, write_adapter, write_decoder
from loratools.cli.app import application
from loratools.engine import foresight
from loratools.engine.admission import Admission
from loratools.errors import LoratoolsError, UsageError

Verb = Callable[..., loratools.Report]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base, its fine-tune and an adapter, whose jobs are large enough to tell one from two."""
    folder = tmp_path_factory.mktemp("inputs")
    tensors = decoder(dtype=torch.bfloat16, layers=2, hidden=512, ffn=1024)
    factors = lora_factors(tensors, modules=["up_proj", "down_proj", "q_proj"])
    changed = {name: value.bfloat16() for name, value in exact_sum(tensors, (factors, 1.0)).items()}
    places = {
        "base": write_decoder(folder / "base", tensors),
        "tuned": write_decoder(folder / "tuned", changed),
        "adapter": write_adapter(folder / "adapter", factors),
    }
    return {name: str(path) for name, path in places.items()}


RUNS = {
    "extract": lambda at, **more: loratools.extract(at["base"], at["tuned"], rank=4, **more),
    "merge": lambda at, **more: loratools.merge(at["base"], at["adapter"], **more),
    "merge --undo": lambda at, **more: loratools.merge(at["base"], at["adapter"], undo=True, **more),
    "resize": lambda at, **more: loratools.resize(at["adapter"], rank=2, **more),
    "combine": lambda at, **more: loratools.combine([at["adapter"], at["adapter"]], **more),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_bytes_are_the_same_with_room_for_one_job(
    name: str, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RUNS[name]
    run(inputs, output=tmp_path / "free", workers=4)
    rooms: list[Admission] = []
    made = Admission.of.__func__

    def noted(*words: object) -> Admission:
        rooms.append(made(Admission, *words))
        return rooms[-1]

    monkeypatch.setattr(Admission, "of", noted)
    with pytest.raises(LoratoolsError) as refused:
        run(inputs, output=tmp_path / "out", workers=4, max_memory=1)
    least = re.search(r"--max-memory (\d+MB)", str(refused.value.hint))
    assert least is not None
    run(inputs, output=tmp_path / "tight", workers=4, max_memory=least[1])
    assert any(room.scarce for room in rooms) or name in ("resize", "combine")
    assert tree(tmp_path / "tight") == tree(tmp_path / "free")
    assert not (tmp_path / "out").exists()


def test_the_refusal_is_one_line_and_nothing_is_written(inputs: dict[str, str], tmp_path: Path) -> None:
    words = ["merge", inputs["base"], inputs["adapter"], "-o", str(tmp_path / "out"), "--max-memory", "1MB"]
    done = CliRunner().invoke(application, words, prog_name="loratools")
    assert done.exit_code == 1
    assert re.fullmatch(
        r"Error: 1 MB of memory are too few for merge, of which the least takes [\d,]+ MB; "
        r"--max-memory \d+MB would do\n",
        done.stderr,
    )
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["much", "-1", "0", "1.5 apples"])
def test_what_is_no_size_is_wrong_usage(size: str, inputs: dict[str, str]) -> None:
    words = ["merge", inputs["base"], inputs["adapter"], "--dry-run", "--max-memory", size]
    assert CliRunner().invoke(application, words, prog_name="loratools").exit_code == 2


@pytest.mark.parametrize("size", [0, -5, "much"])
def test_so_it_is_from_python(size: int | str, inputs: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        loratools.merge(inputs["base"], inputs["adapter"], dry_run=True, max_memory=size)


def test_a_dry_run_tells_what_a_limit_does(inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foresight, "anonymous_bytes", lambda: 30_000_000)

    def plan(**more: object) -> dict[str, object]:
        report = loratools.merge(inputs["base"], inputs["adapter"], dry_run=True, workers=3, **more)
        found: dict[str, object] = json.loads(json.dumps(report.to_json()["plan"]))
        return found

    free = plan()
    assert free["workers"] == 3
    tight = plan(max_memory=free["least_memory_bytes"])
    assert tight["workers"] < 3
    assert tight["memory_bytes"] <= free["least_memory_bytes"] < free["memory_bytes"] + 10_000_000
    assert tight["estimated_seconds"] > 0


def test_weights_are_foretold_to_the_byte_and_the_rest_at_most(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    plan = loratools.merge(inputs["base"], inputs["adapter"], dry_run=True).to_json()["plan"]
    loratools.merge(inputs["base"], inputs["adapter"], tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    weights = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    written = sum(path.stat().st_size for path in files)
    assert (plan["weight_bytes"], plan["weights_written"]) == (weights, "exactly")
    assert plan["written"] == "at most"
    assert written <= plan["write_bytes"] < written + 20_000


def test_one_file_is_foretold_to_the_byte(inputs: dict[str, str], tmp_path: Path) -> None:
    base = Path(inputs["base"]) / "model.safetensors"
    out = tmp_path / "merged.safetensors"
    plan = loratools.merge(base, inputs["adapter"], out, dry_run=True).to_json()["plan"]
    loratools.merge(base, inputs["adapter"], out)
    assert (plan["write_bytes"], plan["written"]) == (out.stat().st_size, "exactly")


@pytest.mark.parametrize("undo", [True, False], ids=["by its record", "by subtraction"])
def test_an_unmerge_is_foretold(undo: bool, inputs: dict[str, str], tmp_path: Path) -> None:
    loratools.merge(inputs["base"], inputs["adapter"], tmp_path / "merged", undo=undo)
    adapters = [] if undo else [inputs["adapter"]]
    plan = loratools.unmerge(tmp_path / "merged", adapters, dry_run=True).to_json()["plan"]
    loratools.unmerge(tmp_path / "merged", adapters, tmp_path / "out")
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written <= plan["write_bytes"] < written + 20_000
