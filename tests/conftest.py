"""For every test: what runs learn of the machine goes into a folder of its own, never into the user's."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

_NUMBERS = count()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stands for the user's cache, not there yet; also for processes that a test starts."""
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(_NUMBERS)) / "loratools"
    monkeypatch.setenv("LORATOOLS_CACHE", str(folder))
    return folder
