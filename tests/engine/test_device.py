"""Devices: what `--device` may say, what `auto` takes, and what is said where a device is not there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from loratools.engine import device
from loratools.engine.device import Asked, Device, Kind
from loratools.engine.execution import Execution
from loratools.engine.payoff import RATES, Work, device_seconds, pays, processor_seconds, total
from loratools.engine.placement import NO_DEVICE, choose
from loratools.errors import LoratoolsError, UsageError

TWO = (Device(Kind.CUDA, 0), Device(Kind.CUDA, 1))


@pytest.mark.parametrize(
    ("word", "meant"),
    {
        "auto": Asked(None),
        "cpu": Asked(Kind.CPU),
        "cuda": Asked(Kind.CUDA),
        "cuda:0": Asked(Kind.CUDA, 0),
        "cuda:12": Asked(Kind.CUDA, 12),
        "mps": Asked(Kind.MPS),
    }.items(),
)
def test_words(word: str, meant: Asked) -> None:
    assert Asked.parse(word) == meant
    assert str(meant) == word


@pytest.mark.parametrize(
    "word", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda:²", "cpu:0", "mps:0", "auto:1"]
)
def test_words_that_mean_nothing(word: str) -> None:
    with pytest.raises(UsageError, match=r"there is no device .*; say auto, cpu, cuda, cuda:N or mps"):
        Asked.parse(word)


def machine(
    monkeypatch: pytest.MonkeyPatch, *, built: bool = True, count: int = 0, mps: bool = False
) -> None:
    """A torch that says so."""
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: mps)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("word", "there", "said"),
    [
        (
            "cuda",
            {"built": False},
            "torch .* was built without CUDA; install a build of torch for CUDA, or run",
        ),
        ("cuda", {}, "torch finds no CUDA device; see what nvidia-smi and CUDA_VISIBLE_DEVICES say, or run"),
        ("cuda:7", {}, "torch finds no CUDA device; "),
        (
            "cuda:7",
            {"count": 1},
            "there is no cuda:7: this machine has only cuda:0; name one of",
        ),
        ("cuda:2", {"count": 2}, "there is no cuda:2: this machine has cuda:0 to cuda:1; "),
        ("mps", {}, r"torch was built without Metal \(mps\); mps is there on Macs with Apple silicon; name"),
        ("mps", {"mps": True}, "this Mac has no device for Metal; "),
    ],
)
def test_devices_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, word: str, there: dict[str, int], said: str
) -> None:
    machine(monkeypatch, **there)
    with pytest.raises(LoratoolsError, match=said) as refused:
        Execution(device=word).engine(None)
    assert str(refused.value).endswith("or run with --device cpu")
    assert "\n" not in str(refused.value)


def test_devices_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, count=2)
    assert Asked.parse("cuda").devices() == TWO
    assert Asked.parse("cuda:1").devices() == TWO[1:]
    assert Asked.parse("cpu").devices() == Asked.parse("auto").devices() == ()


@dataclass(frozen=True)
class Heavy:
    """A job of an hour on one core, of a second on a device; of nothing on Metal."""

    name: str = "heavy"
    bytes: int = 10**9
    multiplications: float = 3600 * RATES.processor_multiplications

    def device_work(self, kind: Kind) -> Work | None:
        return None if kind is Kind.MPS else Work(self.bytes, self.bytes, self.multiplications, 1)

    def run_on(self, lease: object, workspace: Path) -> None: ...

    def run(self, workspace: Path) -> None: ...


@dataclass(frozen=True)
class Plain:
    """A job that knows of no device."""

    name: str = "plain"
    bytes: int = 10**12

    def run(self, workspace: Path) -> None: ...


def not_asked() -> tuple[Device, ...]:
    raise AssertionError("torch was asked in vain")


def test_auto_takes_all_where_that_pays() -> None:
    choice = choose(Asked(None), [Heavy(), Plain()], workers=2, seen=lambda: 2, usable=lambda: TWO)
    assert (choice.devices, choice.kind) == (TWO, Kind.CUDA)
    assert choice.details() == {
        "asked": "auto",
        "taken": ["cuda:0", "cuda:1"],
        "why": "they save more than the transfers cost",
    }


@pytest.mark.parametrize(
    ("jobs", "seen", "why"),
    [
        ([Heavy()], 0, NO_DEVICE),
        ([Plain()], 2, "no job here can use a device"),
        ([], 2, "no job here can use a device"),
        ([Heavy(multiplications=1e9)], 2, "the transfers would cost more than a device saves"),
    ],
)
def test_auto_stays_on_the_processor_and_does_not_import_torch_for_it(
    jobs: list[Heavy | Plain], seen: int, why: str
) -> None:
    choice = choose(Asked(None), jobs, workers=2, seen=lambda: seen, usable=not_asked)
    assert choice.details() == {"asked": "auto", "taken": ["cpu"], "why": why}


def test_a_driver_without_a_torch_for_it() -> None:
    choice = choose(Asked(None), [Heavy()], workers=2, seen=lambda: 1, usable=lambda: ())
    assert not choice.devices
    assert choice.why == "there is a CUDA device, but this build of torch cannot use it"


def test_what_was_named_is_taken_unless_no_job_can_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, count=2)
    small = Heavy(multiplications=1.0)
    assert choose(Asked(Kind.CUDA, 1), [small], workers=2).devices == TWO[1:]
    assert choose(Asked(Kind.CUDA), [Plain()], workers=2).why == "no job here can use cuda"
    assert not choose(Asked(Kind.CPU), [Heavy()], workers=2, seen=lambda: 2).devices


def test_the_driver_that_is_not_there_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(device.ctypes, "CDLL", missing)
    assert device.cuda_seen_by_driver() == 0


@pytest.mark.parametrize(("status", "counted"), [(0, 3), (100, 0)], ids=["devices", "no device"])
def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, status: int, counted: int) -> None:
    class Driver:
        def __init__(self, name: str) -> None: ...

        def cuInit(self, flags: int) -> int:  # noqa: N802
            return status

        def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
            count._obj.value = 3  # type: ignore[attr-defined]
            return 0

    monkeypatch.setattr(device.ctypes, "CDLL", Driver)
    assert device.cuda_seen_by_driver() == counted


def test_the_estimate_by_hand() -> None:
    """10 GB moved and as many passed, 3e12 multiplications in 100 blocks; two cores, one device or two."""
    work = total([Work(10**10, 10**10, 2e12, 60), Work(0, 0, 1e12, 40)])
    assert processor_seconds(work, 2) == pytest.approx((10**10 / 5e8 + 3e12 / 1.5e10) / 2)
    assert device_seconds(work, 1) == pytest.approx(4.0 + 1.0 + 3.0 + 0.1)
    assert device_seconds(work, 2) == pytest.approx(4.0 + 2.05)
    assert pays(work, workers=2, devices=1)
    assert not pays(work, workers=64, devices=1)


def test_the_estimate_of_what_users_run() -> None:
    """Extraction of an 8B model pays even beside 16 cores; that of a toy never, nor a merge beside many."""
    extraction = Work(32 * 10**9, 32 * 10**9, 12.0 * 8e9 * 24, 1000)
    assert pays(extraction, workers=16, devices=1)
    assert not pays(Work(2**20, 2**20, 12.0 * 2**19 * 24, 20), workers=1, devices=8)
    merge = Work(32 * 10**9, 32 * 10**9, 16.0 * 8e9, 1000)
    assert pays(merge, workers=2, devices=1)
    assert not pays(merge, workers=32, devices=1)
