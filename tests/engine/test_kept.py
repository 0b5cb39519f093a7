"""Memory that jobs of one thread use one after another, and its end."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from loratools.engine import errand
from loratools.engine.kept import kept_array, kept_bytes, let_go, let_go_everywhere


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    let_go()


def test_each_thread_has_memory_of_its_own() -> None:
    mine = kept_array("a", (4, 8), "float32")
    mine[:] = 1
    theirs: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: theirs.append(kept_array("a", (4, 8), "float32")))
    thread.start()
    thread.join()
    theirs[0][:] = 2
    assert (mine == 1).all()
    again = kept_array("a", (2, 3), "uint16")
    assert again.shape == (2, 3)
    assert np.shares_memory(again, mine)
    assert not np.shares_memory(kept_array("b", (2, 3), "uint16"), mine)


def test_a_larger_one_takes_the_place_of_the_smaller() -> None:
    kept_array("a", (10,), "uint8")
    larger = kept_array("a", (3, 7), "float64")
    assert larger.ctypes.data % 64 == 0
    assert kept_bytes() == larger.nbytes == 168


def test_the_end_of_a_run_frees_what_threads_of_a_worker_keep() -> None:
    kept, ended = threading.Event(), threading.Event()
    found: list[int] = []

    def work() -> None:
        kept_array("a", (10,), "uint8")
        kept.set()
        ended.wait(30)
        found.append(kept_bytes())

    thread = threading.Thread(target=work)
    thread.start()
    kept.wait(30)
    with errand._counted("another run"):
        assert errand.under_way("a run") == 0
        assert errand.under_way("another run") == 1
        kept_array("b", (10,), "uint8")
        assert kept_bytes() == 10, "let go while a run is at work"
        assert errand.under_way("a run") == 0
        assert kept_bytes() == 10
    assert errand.under_way("another run") == 0
    ended.set()
    thread.join(30)
    assert found == [0]
    assert kept_bytes() == 0


def test_an_array_in_use_outlives_its_letting_go() -> None:
    mine = kept_array("a", (1000,), "float64")
    mine[:] = 3
    let_go_everywhere()
    other = kept_array("a", (1000,), "float64")
    other[:] = 4
    assert (mine == 3).all()
