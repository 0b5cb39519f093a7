"""What runs teach is kept, smoothed and told apart by machine; a file of any kind never fails a run."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from importlib import metadata
from pathlib import Path

import pytest

from loratools.engine import calibration
from loratools.engine.calibration import Calibration, Learnt


def test_what_is_saved_is_found_again(own_cache: Path) -> None:
    assert calibration.load() == Calibration({})
    calibration.save({"merge/seconds/merging/2": 0.5})
    calibration.save({"merge/seconds/merging/2": 1.5, "merge/memory/2": 3e7})
    found = calibration.load()
    assert found.values == {"merge/seconds/merging/2": Learnt(1.0, 2), "merge/memory/2": Learnt(3e7, 1)}
    assert [path.name for path in own_cache.iterdir()] == ["calibration.json"]


def test_a_busy_run_does_not_spoil_what_many_taught() -> None:
    learnt = Learnt(1.0, 1)
    for _ in range(20):
        learnt = learnt.after(1.0)
    assert learnt.after(3.0).value == pytest.approx(1.6)
    for _ in range(20):
        learnt = learnt.after(3.0)
    assert learnt.value == pytest.approx(3.0, rel=1e-2)  # a machine that changed is learnt anew


def test_the_nearest_key_stands_in() -> None:
    known = Calibration(
        {
            "extract/seconds/factoring/16/2": Learnt(1.0, 3),
            "extract/seconds/factoring/16/1": Learnt(2.0, 1),
            "extract/seconds/reading/16/2": Learnt(9.0, 1),
            "merge/seconds/merging/2": Learnt(7.0, 1),
        }
    )
    assert known.find("extract/seconds/factoring/16/2") == Learnt(1.0, 3)
    assert known.find("extract/seconds/factoring/16/4") == Learnt(1.5, 4)
    assert known.find("extract/seconds/factoring/64/1") == Learnt(1.5, 4)
    assert known.find("analyze/seconds/factoring/16/2") is None
    assert known.find("extract/memory/16/2") is None


def test_other_machines_are_left_alone(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration.save({"a/b/c": 1.0})
    mine = calibration.machine()
    monkeypatch.setattr(calibration, "machine", lambda: "another")
    assert calibration.load() == Calibration({})
    calibration.save({"a/b/c": 2.0})
    assert calibration.load().values["a/b/c"] == Learnt(2.0, 1)
    monkeypatch.setattr(calibration, "machine", lambda: mine)
    assert calibration.load().values["a/b/c"] == Learnt(1.0, 1)
    for number in range(40):
        monkeypatch.setattr(calibration, "machine", lambda number=number: str(number))
        calibration.save({f"a/b/{number}": 2.0})
    assert len(json.loads((own_cache / "calibration.json").read_text())["machines"]) <= 16


def test_the_fingerprint_is_short_and_says_nothing() -> None:
    assert len(calibration.machine()) == 32
    assert set(calibration.machine()) <= set("0123456789abcdef")


def test_versions_are_those_that_are_installed() -> None:
    found = calibration._versions()
    for package in ("numpy", "blake3", "torch"):
        assert found[package] == metadata.version(package)


def test_keys_are_bounded(own_cache: Path) -> None:
    calibration.save({f"a/b/{number}": 1.0 for number in range(1000)})
    assert len(calibration.load().values) <= 400
    assert "a/b/999" in calibration.load().values


MACHINE = calibration.machine()
HOSTILE = {
    "empty": "",
    "no JSON": "{",
    "deep": "[" * 100_000,
    "a list": "[]",
    "another version": json.dumps({"version": 2, "machines": {MACHINE: {"a/b/c": [1.0, 1]}}}),
    "machines as a list": json.dumps({"version": 1, "machines": []}),
    "a machine as a number": json.dumps({"version": 1, "machines": {MACHINE: 3}}),
    "NaN": json.dumps({"version": 1, "machines": {MACHINE: {"a/b/c": [math.nan, 1]}}}),
    "infinite": json.dumps({"version": 1, "machines": {MACHINE: {"a/b/c": [math.inf, 1]}}}),
    "huge": json.dumps({"version": 1, "machines": {MACHINE: {"a/b/c": [10**400, 1]}}}),
    "words": json.dumps({"version": 1, "machines": {MACHINE: {"a/b/c": ["one", "two"], "d": None}}}),
    "no runs": json.dumps({"version": 1, "machines": {MACHINE: {"a/b/c": [1.0, 0], "a/b/d": [1.0, True]}}}),
    "too large": json.dumps({"version": 1, "machines": {}}) + " " * 2**20,
    "no text": "\udcff\udcfe",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_file_is_as_if_there_were_none(text: str, own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / "calibration.json").write_text(text, errors="surrogateescape")
    assert calibration.load() == Calibration({})
    calibration.save({"a/b/c": 1.0})
    assert calibration.load().values == {"a/b/c": Learnt(1.0, 1)}


def test_sound_values_beside_damaged_ones_are_kept(own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    held = {"a/b/c": [1.0, 1], "a/b/d": [None, 1], "a/b/e": [1, 2, 3]}
    (own_cache / "calibration.json").write_text(json.dumps({"version": 1, "machines": {MACHINE: held}}))
    assert calibration.load().values == {"a/b/c": Learnt(1.0, 1)}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_in_its_place_is_not_waited_for(own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    os.mkfifo(own_cache / "calibration.json")
    assert calibration.load() == Calibration({})


def test_a_folder_that_cannot_be_written_is_no_matter(own_cache: Path) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text("a file where the folder would be")
    calibration.save({"a/b/c": 1.0})
    assert calibration.load() == Calibration({})
    own_cache.unlink()
    (own_cache / "calibration.json").mkdir(parents=True)
    calibration.save({"a/b/c": 1.0})
    assert calibration.load() == Calibration({})
    assert len(list(own_cache.iterdir())) == 1  # nothing unfinished is left


def test_values_that_mean_nothing_are_not_kept(own_cache: Path) -> None:
    calibration.save({"a/b/c": float("nan"), "a/b/d": float("inf"), "a/b/e": 1e300})
    assert not own_cache.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_nobody_else_reads_the_folder(own_cache: Path) -> None:
    calibration.save({"a/b/c": 1.0})
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700


PLACES = {
    "off": ("linux", {"LORATOOLS_CALIBRATION": "OFF", "LORATOOLS_CACHE": "/own", "HOME": "/home/me"}, None),
    "own": ("linux", {"LORATOOLS_CACHE": "/own", "HOME": "/home/me"}, "/own/calibration.json"),
    "xdg": (
        "linux",
        {"XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"},
        "/xdg/loratools/calibration.json",
    ),
    "relative xdg": (
        "linux",
        {"XDG_CACHE_HOME": "xdg", "HOME": "/home/me"},
        "/home/me/.cache/loratools/calibration.json",
    ),
    "home": ("linux", {"HOME": "/home/me"}, "/home/me/.cache/loratools/calibration.json"),
    "no home": ("linux", {}, None),
    "mac": ("darwin", {"HOME": "/me"}, "/me/Library/Caches/loratools/calibration.json"),
    "windows": ("win32", {"LOCALAPPDATA": "/local"}, "/local/loratools/calibration.json"),
    "windows without": ("win32", {"HOME": "/home/me"}, None),
}


@pytest.mark.parametrize(("platform", "variables", "place"), PLACES.values(), ids=PLACES)
def test_where_it_lies(
    platform: str, variables: dict[str, str], place: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LORATOOLS_CALIBRATION", "LORATOOLS_CACHE", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert calibration.file() == (None if place is None else Path(place))


def test_off_is_off(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATOOLS_CALIBRATION", "off")
    calibration.save({"a/b/c": 1.0})
    assert not own_cache.exists()
