"""Power cuts: whatever of a run reached the disk, in any order, the target is old or new, whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.fault_runs import RUNS, Run, Workplace, loratools, tree
from fixtures.power_cut import Cut, states_after_a_cut, without_flushes, wrong_with
from fixtures.system_trace import Made, Synced, Trace, Written

NEW_FOLDER = next(run for run in RUNS if run.name == "merge")
ONE_FILE = next(run for run in RUNS if run.name == "merge, one file")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = Workplace(tmp_path_factory.mktemp("power"))
    found.prepare()
    return found


def traced(workplace: Workplace, run: Run, *, swaps: bool = True) -> Trace:
    folder = workplace.place(run)
    with Trace(folder, swaps=swaps).installed() as trace:
        outcome = loratools(run.words(workplace.inputs, folder))
    assert outcome.code == 0, outcome
    return trace


def wrongs(workplace: Workplace, run: Run, states: Iterator[Cut]) -> Counter[str]:
    old, new = workplace.states[run.name]
    return Counter(filter(None, (wrong_with(state, run.target, old, new) for state in states)))


TRACED = [(run, True) for run in RUNS] + [(run, False) for run in RUNS if run.old or run is NEW_FOLDER]


@pytest.mark.parametrize(
    ("run", "swaps"), TRACED, ids=[f"{run.name}{'' if swaps else ', two renames'}" for run, swaps in TRACED]
)
def test_no_cut_leaves_anything_but_old_or_new(run: Run, swaps: bool, workplace: Workplace) -> None:
    trace = traced(workplace, run, swaps=swaps)
    assert not wrongs(workplace, run, states_after_a_cut(trace, samples=10))


@pytest.mark.parametrize("run", [NEW_FOLDER, ONE_FILE], ids=lambda run: run.name)
def test_without_flushes_of_files_the_model_finds_broken_outputs(run: Run, workplace: Workplace) -> None:
    trace = traced(workplace, run)
    without_flushes(trace, files=True, folders=False)
    found = wrongs(workplace, run, states_after_a_cut(trace, samples=40))
    assert found["the target is neither old nor whole"] > 0


def test_without_flushes_of_folders_the_model_finds_missing_files(workplace: Workplace) -> None:
    trace = traced(workplace, NEW_FOLDER)
    without_flushes(trace, files=False, folders=True)
    found = wrongs(workplace, NEW_FOLDER, states_after_a_cut(trace, samples=40))
    assert found["the target is neither old nor whole"] > 0
    assert found["the run was done, and its output is lost"] > 0


def test_without_the_last_flush_the_model_finds_what_was_said_to_be_done_lost(workplace: Workplace) -> None:
    trace = traced(workplace, NEW_FOLDER)
    last = max(place for place, done in enumerate(trace.operations) if isinstance(done, Synced))
    assert trace.operations.pop(last) == Synced(0)
    found = wrongs(workplace, NEW_FOLDER, states_after_a_cut(trace, samples=40))
    assert set(found) == {"the run was done, and its output is lost"}


@pytest.mark.parametrize(
    "run", [run for run in RUNS if run.old or "undo" in run.name], ids=lambda run: run.name
)
def test_a_replayed_trace_is_what_stands_on_the_disk(run: Run, workplace: Workplace) -> None:
    """The recorder misses nothing: all that it saw, done again, gives the same files."""
    folder = workplace.place(run)
    with Trace(folder).installed() as trace:
        assert loratools(run.words(workplace.inputs, folder)).code == 0
    first, *_ = (cut for cut in states_after_a_cut(trace, samples=0) if cut.at_the_end)
    assert first.root == tree(folder)


def test_inputs_are_not_even_opened_for_writing(workplace: Workplace) -> None:
    folder = workplace.place(NEW_FOLDER)
    with Trace(workplace.inputs).installed() as trace:
        assert loratools(NEW_FOLDER.words(workplace.inputs, folder)).code == 0
    assert trace.operations == []


def a_trace(tmp_path: Path, *operations: Any) -> Trace:
    trace = Trace(tmp_path)
    trace.operations = list(operations)
    return trace


def test_the_model_knows_what_a_disk_may_do(tmp_path: Path) -> None:
    """A file made and written without a flush may be missing, empty, torn, holed, or whole."""
    trace = a_trace(tmp_path, Made(0, "f", 1, False), Written(1, 0, b"ab"), Written(1, 2, b"cd"))
    found = {cut.root.get("f") for cut in states_after_a_cut(trace, samples=2000)}
    assert {None, b"", b"ab", b"abcd", b"\0\0cd", b"a", b"abc"} <= found
    flushed = a_trace(tmp_path, Made(0, "f", 1, False), Written(1, 0, b"ab"), Synced(1), Synced(0))
    assert {cut.root.get("f") for cut in states_after_a_cut(flushed, samples=50) if cut.at_the_end} == {b"ab"}
