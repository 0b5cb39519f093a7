"""What `verify` says of formats: rules of adapters, files that must lie beside, what is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures import hostile
from fixtures.hostile_adapters import ADAPTERS
from fixtures.hostile_case import Hostile
from fixtures.hostile_configs import MEASURES, QUANTISED
from fixtures.hostile_gguf import GGUF
from fixtures.hostile_records import RECORDS
from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder
from loratools import LoratoolsError, UsageError, extract, merge, verify
from loratools.errors import UnsupportedError
from loratools.reports.report import Report
from loratools.reports.verification import Check

TENSORS = decoder(layers=1)


def wrong(report: Report) -> list[Check]:
    return [check for check in report.details["checks"] if check.ok is False]


def row(report: Report, name: str) -> Check:
    (found,) = (check for check in report.details["checks"] if check.check == name)
    return found


BEYOND_US = (
    "a method with an escape sequence",
    "a method that is a list",
    "an initialisation with an escape sequence",
    "factors of one axis",
    "an unknown key",
)
"""Attacks on adapters that could as well be of a kind that is not known here: they are not called broken."""

BEYOND = [case for case in ADAPTERS if case.name.endswith(BEYOND_US)]
BROKEN_FILES = [*hostile.CHECKPOINTS, *RECORDS, *(case for case in ADAPTERS if case not in BEYOND)]


@pytest.mark.parametrize("case", BROKEN_FILES, ids=lambda case: case.name)
def test_whatever_is_broken_is_found_and_is_no_traceback(case: Hostile, tmp_path: Path) -> None:
    """Exit 3 for all that is broken; 1 only for what is whole, and of a format that is not read."""
    reference = case.make(tmp_path)
    try:
        found = wrong(verify(reference))
    except LoratoolsError as error:
        assert type(error).__name__ == "UnsupportedError"
        assert case.refusal in error.message
        return
    assert any(case.refusal in check.detail for check in found), found
    assert all(check.file for check in found)


@pytest.mark.parametrize("case", BEYOND, ids=lambda case: case.name)
def test_what_is_not_known_is_said_to_be_so(case: Hostile, tmp_path: Path) -> None:
    check = row(verify(case.make(tmp_path)), "pairs")
    assert check.ok is None and case.refusal in check.detail


@pytest.mark.parametrize("case", GGUF, ids=lambda case: case.name)
def test_a_format_that_is_not_read_is_refused_before_a_look_into_it(case: Hostile, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="a GGUF file can be inspected"):
        verify(case.make(tmp_path))


@pytest.mark.parametrize("case", [*MEASURES, QUANTISED], ids=lambda case: case.name)
def test_a_model_of_odd_measures_is_whole_all_the_same(case: Hostile, tmp_path: Path) -> None:
    """What its config says of sizes or of a quantisation is no matter of files that are whole."""
    assert not wrong(verify(case.make(tmp_path)))


def spoil(folder: Path, **config: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def without(folder: Path, ending: str) -> None:
    path = folder / "adapter_model.safetensors"
    held = load_file(path)
    del held[next(name for name in held if name.endswith(ending))]
    save_file(held, path)


BROKEN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "half a pair": (lambda at: without(at, "q_proj.lora_B.weight"), "pairs", "has no lora_B"),
    "another rank": (lambda at: spoil(at, r=3), "pairs", "rank 4 where the config says 3"),
    "alpha that is no number": (lambda at: spoil(at, lora_alpha="8"), "pairs", "lora_alpha is '8'"),
    "no config": (lambda at: (at / "adapter_config.json").unlink(), "config", "alpha"),
    "a config that is no JSON": (lambda at: (at / "adapter_config.json").write_text("{"), "format", "JSON"),
    "no weights": (
        lambda at: (at / "adapter_model.safetensors").unlink(),
        "format",
        "without adapter weights",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_adapter_is_found(case: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", lora_factors(TENSORS))
    assert verify(adapter).ok
    do, check, told = BROKEN[case]
    do(adapter)
    (found,) = wrong(verify(adapter))
    assert (found.check, told in found.detail) == (check, True), found


@pytest.mark.parametrize("config", [{"use_qalora": True}, {"peft_type": "LOHA"}], ids=str)
def test_an_adapter_of_another_kind_is_not_called_broken(config: dict[str, Any], tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", lora_factors(TENSORS))
    spoil(adapter, **config)
    report = verify(adapter)
    assert report.ok
    assert row(report, "pairs").ok is None


def test_a_folder_without_a_config_is_told(tmp_path: Path) -> None:
    base = write_decoder(tmp_path / "base", TENSORS)
    (base / "config.json").unlink()
    report = verify(base)
    assert report.ok and row(report, "config").ok is None
    assert verify(base / "model.safetensors").ok


def test_values_without_arithmetic_are_read_and_hashed(tmp_path: Path) -> None:
    tensors = {**TENSORS, "scaled": torch.zeros(8, dtype=torch.float8_e4m3fn)}
    report = verify(write_decoder(tmp_path / "base", tensors))
    assert report.ok
    told = [check.detail for check in report.details["checks"] if check.check == "values"]
    assert told == [
        f"{len(TENSORS)} tensors were read, and every value is finite",
        "1 tensors of F8_E4M3 were read, but not as numbers",
    ]


def test_what_is_not_there_is_an_error_not_a_finding(tmp_path: Path) -> None:
    base = write_decoder(tmp_path / "base", TENSORS)
    with pytest.raises(LoratoolsError, match="no such file") as error:
        verify([base, tmp_path / "absent"])
    assert error.value.exit_code == 1
    with pytest.raises(UsageError, match="named twice"):
        verify([base, base])


ASKED: dict[str, dict[str, Any]] = {
    "a text": {"text": __file__},
    "an agreement": {"min_agreement": 0.5},
    "a window": {"window": 8},
}


@pytest.mark.parametrize("asked", ASKED)
def test_outputs_of_nothing_cannot_be_asked_for(asked: str, tmp_path: Path) -> None:
    base = write_decoder(tmp_path / "base", TENSORS)
    with pytest.raises(UsageError, match="nothing is there to compare"):
        verify(base, **ASKED[asked])


NONSENSE: dict[str, dict[str, Any]] = {
    "agreement above 1": {"min_agreement": 1.5},
    "agreement that is no number": {"min_agreement": float("nan")},
    "an empty window": {"window": 0},
    "an empty batch": {"batch": 0},
}


@pytest.mark.parametrize("asked", NONSENSE)
def test_nonsense_is_wrong_usage(asked: str) -> None:
    with pytest.raises(UsageError):
        verify("loratools-sample/base", **NONSENSE[asked])


def test_a_weight_is_for_comparisons(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", lora_factors(TENSORS))
    with pytest.raises(UsageError, match="a weight means nothing here"):
        verify(f"{adapter}=0.5")


class TestOrigins:
    """References that are named together, and were made from one another or were not."""

    @pytest.fixture(scope="class")
    def made(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("made")
        tuned = {name: value + 0.01 for name, value in TENSORS.items()}
        other = {name: value + 0.02 for name, value in TENSORS.items()}
        base = write_decoder(folder / "base", TENSORS)
        extract(base, write_decoder(folder / "tuned", tuned), folder / "extracted", rank=2)
        write_decoder(folder / "other", other)
        write_adapter(folder / "adapter", lora_factors(TENSORS))
        write_adapter(folder / "stranger", lora_factors(TENSORS, seed=5))
        merge(base, [folder / "adapter"], folder / "merged")
        return folder

    @pytest.mark.parametrize(
        ("names", "told"),
        [
            (("extracted", "base"), "base is the base that it was made from"),
            (("base", "extracted"), "base is the base that it was made from"),
            (("tuned", "extracted"), "tuned is the tuned that it was made from"),
            (("merged", "adapter"), "adapter is the adapter that it was made from"),
            (("merged", "base"), "base is the base that it was made from"),
        ],
        ids=" ".join,
    )
    def test_what_it_was_made_from_is_known_by_hash(
        self, names: tuple[str, ...], told: str, made: Path
    ) -> None:
        report = verify([made / name for name in names])
        assert report.ok
        assert told in row(report, "made from").detail

    @pytest.mark.parametrize(
        "names", [("extracted", "other"), ("merged", "stranger"), ("stranger", "merged")], ids=" ".join
    )
    def test_a_stranger_is_found(self, names: tuple[str, ...], made: Path) -> None:
        (found,) = wrong(verify([made / name for name in names]))
        assert found.check == "made from" and "is none of what it was made from" in found.detail

    def test_where_nothing_is_known_it_is_said(self, made: Path) -> None:
        report = verify([made / "base", made / "adapter"])
        assert report.ok and row(report, "made from").ok is None

    def test_another_alpha_is_another_adapter(self, made: Path, tmp_path: Path) -> None:
        """The tensors of an adapter are not all of it: its config is hashed by what was made with it."""
        adapter = write_adapter(tmp_path / "adapter", lora_factors(TENSORS))
        assert verify([made / "merged", adapter]).ok
        spoil(adapter, lora_alpha=9)
        (found,) = wrong(verify([made / "merged", adapter]))
        assert "the config of" in found.detail
