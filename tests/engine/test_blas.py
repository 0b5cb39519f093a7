"""Threads of OpenBLAS: off inside of a run, as before after it."""

from __future__ import annotations

import numpy as np
import pytest

from loratools.engine.blas import loaded, one_thread


def test_one_thread_inside_and_as_before_after() -> None:
    np.linalg.qr(np.ones((3, 2)))  # numpy's BLAS is loaded
    libraries = loaded()
    if not libraries:
        pytest.skip("no OpenBLAS is loaded here, or the system does not say")
    before = [library.threads for library in libraries]
    libraries[0].threads = 2
    try:
        with one_thread():
            assert {library.threads for library in loaded()} == {1}
        assert libraries[0].threads == 2
    finally:
        for library, count in zip(libraries, before, strict=True):
            library.threads = count
