"""What strangers' names do to a terminal: nothing. Control characters are escaped, markup is text."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from fixtures.hostile_adapters import CONFIG as LORA
from fixtures.hostile_adapters import MODULE, write_adapter
from fixtures.hostile_configs import write_base
from fixtures.hostile_safetensors import safetensors_bytes
from loratools.cli.app import application
from loratools.errors import LONGEST, LoratoolsError, printable
from loratools.operations.inspect import inspect
from loratools.operations.merge import merge
from loratools.reports.tables import pages

ESCAPES = (
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\r",
    "\n",
    "\x08",
    "\u202e",
    "\u2066",
    "\u200b",
    "\udcff",
    "\x00",
)
MARKUP = "[bold]x[/bold][link=http://a]y[/link]:smile:"


def shown(words: list[str]) -> str:
    result = CliRunner().invoke(application, words)
    assert "unexpected" not in result.stderr, result.stderr
    return result.output


def is_plain(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


@pytest.mark.parametrize("escape", ESCAPES, ids=ascii)
def test_an_error_is_one_printable_line(escape: str) -> None:
    error = LoratoolsError(f"a{escape}b", file=f"f{escape}", tensor=f"t{escape}", hint=f"h{escape}")
    assert str(error).isprintable() and escape not in str(error)
    assert printable(escape).startswith("\\")


def test_an_error_is_no_longer_than_a_reader_s_patience() -> None:
    error = LoratoolsError("a" * 10**6, tensor="b" * 10**6, hint="c" * 10**6)
    assert len(str(error)) < 4 * LONGEST
    assert "(1,000,000 characters)" in str(error)


@pytest.mark.parametrize("escape", [e for e in ESCAPES if e not in ("\x00",)], ids=ascii)
def test_names_of_files_are_shown_escaped(escape: str, tmp_path: Path) -> None:
    home = tmp_path / f"a{escape}b"
    base, adapter = write_base(home / "base"), write_adapter(home / "adapter")
    for words in (
        ["inspect", str(base), str(adapter)],
        ["merge", str(base), str(adapter), "-o", str(home / "out")],
        ["merge", str(base), str(adapter), "-o", str(home / "out")],  # exists already
        ["unmerge", str(home / "out"), str(adapter), "-o", str(home / "back")],
        ["inspect", str(home / "absent")],
        ["report", str(base), str(adapter), "--rank", "1"],
    ):
        assert is_plain(shown(words)), words
    for path in (base, adapter):
        json.loads(shown(["inspect", str(path), "--json"]))


def test_strings_of_configs_are_shown_escaped(tmp_path: Path) -> None:
    escape = "".join(ESCAPES)
    base = write_base(
        tmp_path / "base", {"model_type": escape, "architectures": [escape], "_name_or_path": escape}
    )
    lora = {**LORA, "base_model_name_or_path": escape, "task_type": escape, escape: 1, "peft_version": escape}
    adapter = write_adapter(tmp_path / "adapter", lora)
    for words in (
        ["inspect", str(base), str(adapter)],
        ["merge", str(base), str(adapter), "-o", str(tmp_path / "out")],
        ["merge", str(adapter), "-o", str(tmp_path / "other")],
        ["extract", str(base), str(write_base(tmp_path / "tuned", value=2.0)), "-o", str(tmp_path / "lora")],
        ["analyze", str(base), str(adapter), "--rank", "1"],
        ["report", str(base), str(adapter), "--rank", "1"],
        ["report", "--config", str(base), "--rank", "1"],
    ):
        assert is_plain(shown(words)), words
    for written in (tmp_path / "out").rglob("*.json"):
        json.loads(written.read_text())


def test_markup_in_names_is_text_in_every_table(tmp_path: Path) -> None:
    base, tuned = write_base(tmp_path / "base"), tmp_path / "tuned"
    name = f"model.layers.0.{MARKUP.replace('.', '_')}.weight"
    for folder, value in ((base, b"\0\0\x80\x3f"), (tuned, b"\0\0\x80\x40")):
        folder.mkdir(exist_ok=True)
        header = {name: {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}
        (folder / "model.safetensors").write_bytes(safetensors_bytes(header, value * 16))
        (folder / "config.json").write_text('{"model_type": "llama"}')
    module = name.removesuffix(".weight")
    for words in (
        ["extract", str(base), str(tuned), "-o", str(tmp_path / "out"), "--rank", "1"],
        [
            "extract",
            str(base),
            str(tuned),
            "-o",
            str(tmp_path / "out"),
            "--rank",
            "1",
            "--dry-run",
            "--force",
        ],
        ["analyze", str(base), str(tuned), "--rank", "1", "-v"],
        ["merge", str(base), str(tmp_path / "out"), "-o", str(tmp_path / "merged")],
    ):
        assert module.split(".", 3)[-1] in shown(words), words


def test_on_a_terminal_too(tmp_path: Path) -> None:
    """With colours on: the only escape sequences are rich's own, and none is a stranger's."""
    home = tmp_path / MARKUP.split("/")[0].replace(":", "")
    base = write_base(home / "base")
    adapter = write_adapter(
        home / "adapter", LORA, {f"{MODULE}.lora_A.weight": (2, 4), f"{MODULE}.lora_B.weight": (4, 2)}
    )
    for report in (inspect([base, adapter]), merge(base, [adapter], home / "out")):
        drawn = io.StringIO()
        out = Console(file=drawn, force_terminal=True, width=200, highlight=False, markup=False, emoji=False)
        for page in pages(report, full=True):
            out.print(page, soft_wrap=isinstance(page, str))
        assert "[bold]" in drawn.getvalue()
        assert "\x1b]" not in drawn.getvalue()


def test_a_name_that_is_no_text_is_escaped(tmp_path: Path) -> None:
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    base, tuned = write_base(home / "base"), write_base(home / "\udcfd", value=2.0)
    out = shown(["extract", str(home / "\udcfd"), str(base), "-o", str(tmp_path / "out"), "--rank", "1"])
    assert is_plain(out) and tuned.is_dir()
    told = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == "\\udcfd"
