"""A picture in a file: whole or not at all, in the formats that its name can say, and never over an input."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.analysis_rows import report_of, similarity
from loratools.checkpoints import system
from loratools.errors import LoratoolsError, UsageError
from loratools.operations import plot as module
from loratools.operations.plot import SUFFIXES, check_plot, plot

ROWS, MEANS = similarity()
REPORT = report_of(similarity=ROWS, similarity_means=MEANS)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_a_picture_is_written_and_the_report_names_it(suffix: str, tmp_path: Path) -> None:
    target = tmp_path / "deep" / f"picture{suffix}"
    assert plot(REPORT, target).output == target
    assert target.stat().st_size > 1000
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_suffix_in_capitals_will_do(tmp_path: Path) -> None:
    plot(REPORT, tmp_path / "A.PNG")
    assert (tmp_path / "A.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["picture", "picture.jpg", "picture.png.txt", ".png"])
def test_other_names_are_wrong_usage(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot draw a .* file .*end its name in .png, .svg or .pdf"):
        check_plot(tmp_path / name)


def test_a_picture_that_exists_is_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "a.svg"
    target.write_text("mine")
    with pytest.raises(LoratoolsError, match=r"exists already.*--force"):
        plot(REPORT, target)
    assert target.read_text() == "mine"
    plot(REPORT, target, force=True)
    assert target.read_text().startswith("<?xml")
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]


def test_a_folder_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.mkdir()
    (target / "config.json").write_text("{}")
    with pytest.raises(LoratoolsError, match="a folder's"):
        plot(REPORT, target, force=True)


def test_a_picture_is_not_put_into_an_input(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    with pytest.raises(LoratoolsError, match="lies inside an input"):
        check_plot(adapter / "a.png", inputs=[str(adapter), "not/a/path"])
    picture = tmp_path / "b.png"
    picture.write_bytes(b"")
    with pytest.raises(LoratoolsError, match="is an input"):
        check_plot(picture, force=True, inputs=[picture])


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(LoratoolsError, match=r"pip install 'loratools\[plot\]'"):
        check_plot(tmp_path / "a.png")


def test_a_report_without_anything_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoratoolsError, match="nothing to draw"):
        plot(report_of(), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: memoryview, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(system.calls, "write_at", full)
    with pytest.raises(LoratoolsError, match="No space left on device"):
        plot(REPORT, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
