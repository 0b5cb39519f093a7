"""Every attack through every verb that could meet it, as the command line runs it: one line, no output."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fixtures import hostile
from fixtures.hostile_adapters import ADAPTERS, write_adapter
from fixtures.hostile_case import Hostile
from fixtures.hostile_configs import CONFIG, MEASURES, QUANTISED, write_base
from fixtures.hostile_gguf import GGUF
from fixtures.hostile_records import RECORDS
from loratools.cli.app import application

Words = Sequence[str]

CHECKPOINT_VERBS: dict[str, Words] = {
    "inspect": ("inspect", "HOSTILE"),
    "merge": ("merge", "HOSTILE", "ADAPTER", "-o", "OUT"),
    "merge --undo": ("merge", "HOSTILE", "ADAPTER", "-o", "OUT", "--undo", "--json"),
    "extract, base": ("extract", "HOSTILE", "BASE", "-o", "OUT"),
    "extract, tuned": ("extract", "BASE", "HOSTILE", "-o", "OUT"),
    "unmerge": ("unmerge", "HOSTILE", "ADAPTER", "-o", "OUT"),
    "unmerge, record": ("unmerge", "HOSTILE", "-o", "OUT"),
    "analyze": ("analyze", "BASE", "HOSTILE", "--rank", "1"),
    "report": ("report", "HOSTILE", "--rank", "1"),
}
ADAPTER_VERBS: dict[str, Words] = {
    "merge": ("merge", "BASE", "HOSTILE", "-o", "OUT"),
    "merge, second": ("merge", "BASE", "ADAPTER", "HOSTILE", "-o", "OUT"),
    "unmerge": ("unmerge", "BASE", "HOSTILE", "-o", "OUT"),
    "analyze": ("analyze", "HOSTILE", "--rank", "1"),
    "analyze, base": ("analyze", "BASE", "HOSTILE", "--rank", "1"),
}
SHOWING: dict[str, Words] = {
    "inspect": ("inspect", "HOSTILE"),
    "inspect --json": ("inspect", "HOSTILE", "--json"),
    "report": ("report", "BASE", "HOSTILE", "--rank", "1"),
}
"""Verbs that show what is there without computing with it: an answer or a refusal."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("honest")
    return {"BASE": str(write_base(folder / "base")), "ADAPTER": str(write_adapter(folder / "adapter"))}


def run(words: Words, places: dict[str, str]) -> Result:
    return CliRunner().invoke(application, [places.get(word, word) for word in words])


def is_refused(result: Result, room: Path) -> str:
    """One line on stderr beside warnings, no traceback, and nothing written; returns the line."""
    assert result.exit_code in (1, 2), result.output
    (line,) = (told for told in result.stderr.splitlines() if not told.startswith("Warning: "))
    assert line.startswith("Error: ") and line.isprintable() and len(line) < 8000
    assert "unexpected" not in line and "Traceback" not in result.output
    assert not room.exists(), "nothing is written, beside the target neither"
    return line


def places_of(case: Hostile, honest: dict[str, str], tmp_path: Path) -> tuple[dict[str, str], Path]:
    home = tmp_path / "home"
    home.mkdir()
    room = tmp_path / "room"
    return {**honest, "HOSTILE": str(case.make(home)), "OUT": str(room / "out")}, room


def test_the_honest_ones_are_taken(honest: dict[str, str], tmp_path: Path) -> None:
    places = {**honest, "HOSTILE": honest["ADAPTER"], "OUT": str(tmp_path / "out")}
    for words in (*ADAPTER_VERBS.values(), *SHOWING.values()):
        result = run((*words, "--force") if "OUT" in words else words, places)
        assert result.exit_code == 0, result.stderr
    assert write_base(tmp_path / "base", CONFIG) and run(SHOWING["report"], places).exit_code == 0


@pytest.mark.parametrize("case", [*hostile.CHECKPOINTS, *GGUF], ids=lambda case: case.name)
def test_hostile_checkpoints(case: Hostile, honest: dict[str, str], tmp_path: Path) -> None:
    places, room = places_of(case, honest, tmp_path)
    for verb, words in CHECKPOINT_VERBS.items():
        result = run(words, places)
        if case.when_read:  # and what is read is the verb's own affair
            assert result.exit_code == 0 or is_refused(result, room)
            continue
        line = is_refused(result, room)
        asked_for_gguf = case.name.startswith("GGUF: ") and verb != "inspect"
        assert ("GGUF" if asked_for_gguf else case.refusal) in line, verb
    assert not Path("/tmp/never").exists(), "code of a pickle was run"


@pytest.mark.parametrize("case", [*ADAPTERS, *RECORDS], ids=lambda case: case.name)
def test_hostile_adapters(case: Hostile, honest: dict[str, str], tmp_path: Path) -> None:
    places, room = places_of(case, honest, tmp_path)
    for verb, words in ADAPTER_VERBS.items():
        if case in RECORDS and verb.startswith("analyze"):
            continue
        assert case.refusal in is_refused(run(words, places), room), verb
    for words in SHOWING.values():
        result = run(words, places)
        assert "\x1b" not in result.output
        if result.exit_code:
            is_refused(result, room)


@pytest.mark.parametrize("case", MEASURES, ids=lambda case: case.name)
def test_hostile_measures(case: Hostile, honest: dict[str, str], tmp_path: Path) -> None:
    places, room = places_of(case, honest, tmp_path)
    words = ("report", "--config", "HOSTILE", "--rank", "1", "--targets", "no_such_layer|q_proj$|v_proj")
    words = words if "unknown" not in case.name else (*words[:-1], "no_such_layer")
    assert case.refusal in is_refused(run(words, places), room)
    for words in CHECKPOINT_VERBS.values():
        result = run(words, places)
        assert "\x1b" not in result.output and "unexpected" not in result.stderr
        if "OUT" in words and not result.exit_code:
            assert (room / "out").is_dir()
            shutil.rmtree(room)


def test_a_quantisation_is_named_in_a_line(honest: dict[str, str], tmp_path: Path) -> None:
    places, room = places_of(QUANTISED, honest, tmp_path)
    for verb, words in CHECKPOINT_VERBS.items():
        result = run(words, places)
        assert "\x1b" not in result.output and len(result.output) < 10_000
        if verb not in ("inspect", "unmerge, record"):
            assert QUANTISED.refusal in is_refused(result, room)


@pytest.mark.parametrize("option", ["--targets", "--exclude"])
@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*b", "(.*a){20}", r"(.*)\1x", "(?P<a>.*)(?P=a)", ".*" * 9 + "!", "(", "[[a]"]
)
def test_hostile_patterns(pattern: str, option: str, honest: dict[str, str], tmp_path: Path) -> None:
    tuned = write_base(tmp_path / "tuned", value=2.0)
    room = tmp_path / "room"
    words = ("extract", "BASE", str(tuned), "-o", str(room / "out"), option, pattern)
    line = is_refused(run(words, honest), room)
    assert option in line or "could take too long" in line
    if option == "--targets":
        line = is_refused(run(("report", "BASE", "--rank", "1", option, pattern), honest), room)
        assert option in line or "could take too long" in line
