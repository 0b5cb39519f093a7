"""Bombs through every verb that would read them: refused in a line, in seconds, and within 512 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.hostile_adapters import write_adapter
from fixtures.hostile_bombs import BOMBS, Bomb
from fixtures.hostile_configs import write_base

MOST_MEMORY = 512_000_000

Meter = Callable[[list[str]], dict[str, Any]]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


@pytest.fixture(scope="module")
def meter() -> Iterator[Meter]:
    command = [sys.executable, "-m", "fixtures.hostile_meter"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:

        def measured(words: list[str]) -> dict[str, Any]:
            assert running.stdin is not None and running.stdout is not None
            print(json.dumps(words), file=running.stdin, flush=True)
            found: dict[str, Any] = json.loads(running.stdout.readline())
            return found

        yield measured
        assert running.stdin is not None
        running.stdin.close()


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.name)
def test_a_bomb_takes_neither_memory_nor_time(bomb: Bomb, meter: Meter, tmp_path: Path) -> None:
    home, room = tmp_path / "home", tmp_path / "room"
    home.mkdir()
    places = {
        "BOMB": bomb.make(home),
        "BASE": write_base(tmp_path / "base"),
        "ADAPTER": write_adapter(tmp_path / "adapter"),
        "OUT": room / "out",
    }
    for verb in bomb.verbs:
        found = meter([str(places.get(word, word)) for word in verb])
        assert "code" in found, f"{verb[0]} hangs or was killed: {found}"
        lines = [line for line in found["stderr"].splitlines() if not line.startswith("Warning: ")]
        assert "unexpected" not in found["stderr"] and len(found["stderr"]) < 20_000
        if bomb.refusal is not None:
            assert found["code"] == 1, found
            assert len(lines) == 1 and bomb.refusal in lines[0], lines
            assert not room.exists()
        assert found["memory"] < MOST_MEMORY, found
        print(f"{bomb.name}: {verb[0]} {found['memory'] / 1e6:.0f} MB")
