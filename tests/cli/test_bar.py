"""The progress bar: what it shows of a run, and where it is not drawn."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from loratools.cli import bar as bar_module
from loratools.cli.bar import Bar, Countdown
from loratools.cli.options import Invocation
from loratools.cli.render import watch


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=160, color_system=None)


def drawn(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_bytes_and_pieces_are_counted() -> None:
    console = terminal()
    with Bar(console) as bar:
        bar.start("factoring [1]", 4, 8_000_000)
        bar.advance("one", 2_000_000)
        bar.advance("two", 4_000_000)
        bar._rich.refresh()
        bar.finish()
    text = drawn(console)
    assert "factoring [1]" in text
    assert "6.0/8.0 MB" in text
    assert "2/4" in text
    assert "/s" in text


def test_phases_follow_one_another() -> None:
    console = terminal()
    with Bar(console) as bar:
        for what in ("reading", "writing"):
            bar.start(what, 1, 100)
            bar.advance("one", 100)
            bar.finish()
        bar._rich.refresh()
    text = drawn(console)
    assert "reading" in text
    assert "writing" in text


def test_a_run_without_work_draws_nothing() -> None:
    console = terminal()
    with Bar(console):
        pass
    assert drawn(console) == ""


def test_an_error_ends_the_bar() -> None:
    console = terminal()
    bar = Bar(console)
    with pytest.raises(ValueError, match="mine"), bar:
        bar.start("reading", 1, 100)
        raise ValueError("mine")
    assert not bar._rich.live.is_started


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def invocation(*, quiet: bool = False, as_json: bool = False) -> Invocation:
    made = Invocation()
    made.quiet, made.as_json = quiet, as_json
    return made


@pytest.mark.parametrize(
    ("stderr", "made", "is_drawn"),
    [
        (Terminal(), invocation(), True),
        (io.StringIO(), invocation(), False),
        (Terminal(), invocation(quiet=True), False),
        (Terminal(), invocation(as_json=True), False),
    ],
    ids=["terminal", "pipe", "quiet", "json"],
)
def test_it_is_drawn_on_a_terminal_only(
    stderr: io.StringIO, made: Invocation, is_drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    with watch(made) as progress:
        assert (progress is not None) == is_drawn


def test_the_time_left_is_that_of_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(bar_module.time, "monotonic", lambda: now[0])
    console = terminal()
    with Bar(console) as bar:
        bar.start("reading", 2, 100)
        bar.left(3725.0)
        bar._rich.refresh()
        assert "1:02:05 left" in drawn(console)


def test_the_time_left_counts_down_and_never_leaps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(bar_module.time, "monotonic", lambda: now[0])
    countdown = Countdown()
    assert countdown.seconds() is None
    countdown.expect(100.0)
    now[0] = 10.0
    assert countdown.seconds() == 90.0
    countdown.expect(290.0)  # three times as long as it looked: shown by and by
    assert countdown.seconds() == 150.0
    now[0] = 1000.0
    assert countdown.seconds() == 0.0


def test_without_a_forecast_no_time_is_told() -> None:
    console = terminal()
    with Bar(console) as bar:
        bar.start("reading", 2, 100)
        bar.advance("one", 50)
        bar._rich.refresh()
    assert "left" not in drawn(console)
