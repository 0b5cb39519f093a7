"""Provenance: what is written is a function of its content, and what is read is believed in nothing."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from safetensors import safe_open

from fixtures.roots import root_of
from loratools.checkpoints import jsonfile, provenance
from loratools.checkpoints.hashing import fingerprint
from loratools.checkpoints.parts import write_safetensors
from loratools.checkpoints.provenance import (
    FILE,
    HEADER_KEY,
    InputRecord,
    Provenance,
    fingerprint_of,
    read_provenance,
)
from loratools.checkpoints.safetensors import read_header
from loratools.checkpoints.seal import holds
from loratools.errors import LoratoolsError

ROOT = root_of(b"weights")

RECORD = Provenance(
    command="merge",
    version="0.1.0",
    options={"weights": [1.0, 0.5], "tied": "auto", "dtype": None, "ünïcode": True},
    inputs=(
        InputRecord("base", "org/name", "safetensors", ROOT, {"b": ROOT, "a": ROOT}),
        InputRecord("adapter", "caf\udce9", "safetensors", ROOT, {}, root_of(b"config")),
    ),
    tensors={"w": ROOT},
    modules=({"name": "w", "rank": 4, "residual": 1e-3},),
    headers={"model.safetensors": ROOT},
    files={"config.json": ROOT, "one/caf\udce9": ROOT},
)


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    assert read_provenance(tmp_path) == RECORD
    assert Provenance.of_json(json.loads(RECORD.to_text())) == RECORD


def test_golden_text() -> None:
    small = Provenance(
        "extract", "0.1.0", {"rank": 4}, (InputRecord("base", "b", "torch", ROOT, {"w": ROOT}),), {}
    )
    blank = f"""{{
  "command": "extract",
  "files": {{}},
  "headers": {{}},
  "inputs": [
    {{
      "config": null,
      "fingerprint": "{ROOT}",
      "format": "torch",
      "name": "b",
      "role": "base",
      "tensors": {{
        "w": "{ROOT}"
      }}
    }}
  ],
  "modules": [],
  "options": {{
    "rank": 4
  }},
  "schema": 1,
  "seal": "{"0" * 64}",
  "tensors": {{}},
  "version": "0.1.0"
}}
"""
    assert small.to_text() == blank.replace("0" * 64, root_of(blank.encode()))


def test_the_order_of_keys_does_not_matter_nor_the_kind_of_mapping() -> None:
    turned = Provenance(
        RECORD.command,
        RECORD.version,
        MappingProxyType(dict(reversed(RECORD.options.items()))),
        (
            InputRecord("base", "org/name", "safetensors", ROOT, MappingProxyType({"a": ROOT, "b": ROOT})),
            RECORD.inputs[1],
        ),
        RECORD.tensors,
        RECORD.modules,
        RECORD.headers,
        dict(reversed(RECORD.files.items())),
    )
    assert turned.to_text() == RECORD.to_text()
    assert turned.to_header() == RECORD.to_header()


def test_numbers_that_json_lacks_are_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Provenance("extract", "0", {"rank": float("nan")}, (), {}).to_text()


def test_one_file_carries_it_in_its_header(tmp_path: Path) -> None:
    path = tmp_path / "merged.safetensors"
    write_safetensors(path, {"w": ("uint8", (7,), b"weights")}, RECORD.to_header())
    assert read_provenance(path) == RECORD
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()[HEADER_KEY]) == RECORD.to_json()


def test_a_file_of_a_folder_has_the_folder_s_if_that_speaks_of_it(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {"w": ("uint8", (7,), b"weights")})
    write_safetensors(tmp_path / "another.safetensors", {"x": ("uint8", (7,), b"weights")})
    assert read_provenance(tmp_path / "model.safetensors") == RECORD
    assert read_provenance(tmp_path / "another.safetensors") is None


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) is None
    (tmp_path / "weights.bin").write_bytes(b"PK\3\4 something else")
    assert read_provenance(tmp_path / "weights.bin") is None
    write_safetensors(tmp_path / "plain.safetensors", {})
    assert read_provenance(tmp_path / "plain.safetensors") is None


def spoiled(*path: str | int, value: Any) -> dict[str, Any]:
    """The record as JSON, with one value in it replaced (or removed, for `...`)."""
    record: Any = copy.deepcopy(RECORD.to_json())
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    whole: dict[str, Any] = record
    return whole


SPOILED = {
    "no schema": spoiled("schema", value=...),
    "later schema": spoiled("schema", value=2),
    "schema true": spoiled("schema", value=True),
    "command": spoiled("command", value=3),
    "no version": spoiled("version", value=...),
    "options": spoiled("options", value=[]),
    "inputs": spoiled("inputs", value={}),
    "input": spoiled("inputs", 0, value="base"),
    "input's role": spoiled("inputs", 0, "role", value=None),
    "input's fingerprint": spoiled("inputs", 0, "fingerprint", value=ROOT[:-1]),
    "input's tensors": spoiled("inputs", 0, "tensors", value=[ROOT]),
    "input's root": spoiled("inputs", 0, "tensors", "a", value=ROOT.upper()),
    "tensors": spoiled("tensors", value=None),
    "root": spoiled("tensors", "w", value=ROOT + "\n"),
    "root of another type": spoiled("tensors", "w", value=5),
    "modules": spoiled("modules", value="m"),
    "module": spoiled("modules", 0, value=[]),
    "nan": spoiled("modules", 0, "residual", value=float("nan")),
    "infinity": spoiled("options", "weights", value=[float("inf")]),
    "input's config": spoiled("inputs", 1, "config", value="a file"),
    "headers": spoiled("headers", value=[]),
    "file's root": spoiled("files", "config.json", value=None),
}


@pytest.mark.parametrize("record", SPOILED.values(), ids=SPOILED.keys())
@pytest.mark.parametrize("where", ["beside", "header"])
def test_what_is_missing_or_wrong_is_one_line_with_the_file(
    tmp_path: Path, record: dict[str, Any], where: str
) -> None:
    path = tmp_path / (FILE if where == "beside" else "x.safetensors")
    if where == "beside":
        path.write_text(json.dumps(record))
    else:
        write_safetensors(path, {}, {HEADER_KEY: json.dumps(record)})
    with pytest.raises(LoratoolsError, match="the provenance") as caught:
        read_provenance(tmp_path if where == "beside" else path)
    assert caught.value.file == str(path) and "\n" not in str(caught.value)


HOSTILE = {
    "nothing": "",
    "no JSON": "{",
    "not UTF-8": b"\xff\xfe{}",
    "a list": "[]",
    "a key twice": RECORD.to_text().replace('"schema": 1', '"schema": 1, "schema": 1'),
    "an inner key twice": RECORD.to_text().replace('"rank": 4', '"rank": 4, "rank": 5'),
    "too deep": '{"schema":' * 100_000,
    "a number of many digits": RECORD.to_text().replace('"rank": 4', '"rank": ' + "4" * 10_000),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_one_line_with_the_file(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LoratoolsError) as caught:
        read_provenance(tmp_path)
    assert caught.value.file == str(tmp_path / FILE) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "\\ud800", '{"schema": 1, "schema": 1}'])
def test_hostile_headers_are_one_line_with_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.safetensors"
    quoted = f'"{text}"' if text.startswith("\\") else json.dumps(text)
    header = f'{{"__metadata__":{{"{HEADER_KEY}":{quoted}}}}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(LoratoolsError) as caught:
        read_provenance(path)
    assert caught.value.file == str(path) and "\n" not in str(caught.value)


def test_more_than_the_cap_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "SIZE_LIMIT", 100)
    RECORD.write(tmp_path)
    write_safetensors(tmp_path / "x.safetensors", {}, RECORD.to_header())
    monkeypatch.setattr(jsonfile, "parse_object", lambda *_: pytest.fail("it was read"))
    monkeypatch.setattr(provenance, "parse_object", lambda *_: pytest.fail("it was read"))
    for place in (tmp_path, tmp_path / "x.safetensors"):
        with pytest.raises(LoratoolsError, match="more than"):
            read_provenance(place)


def test_a_device_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(LoratoolsError, match="not a regular file"):
        read_provenance(tmp_path)


def test_keys_that_a_later_version_added_are_passed_over(tmp_path: Path) -> None:
    assert Provenance.of_json({**RECORD.to_json(), "undo": {"blocks": 3}}) == RECORD


def test_what_an_earlier_version_did_not_write_is_empty() -> None:
    old = {key: value for key, value in RECORD.to_json().items() if key not in ("headers", "files", "seal")}
    old["inputs"] = [{**one, "config": None} for one in old["inputs"]]
    del old["inputs"][0]["config"]
    read = Provenance.of_json(old)
    assert (read.headers, read.files, read.inputs[0].config) == ({}, {}, None)


def test_it_covers_headers_and_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "notes").write_bytes(b"weights" * 500_000)
    write_safetensors(tmp_path / "w.safetensors", {"w": ("uint8", (7,), b"weights")})
    start = (tmp_path / "w.safetensors").read_bytes()[:-7]
    covering = RECORD.covering(tmp_path, weights=["w.safetensors"], files=["below/notes"])
    assert covering.headers == {"w.safetensors": root_of(start)}
    assert covering.files == {"below/notes": root_of(b"weights" * 500_000)}
    with pytest.raises(LoratoolsError, match="cannot open"):
        RECORD.covering(tmp_path, weights=[], files=["absent"])


def test_a_seal_breaks_with_any_bit() -> None:
    text = RECORD.to_text().encode()
    seal = json.loads(text)["seal"]
    assert holds(text, seal) and seal != "0" * 64
    for place in range(len(text)):
        for bit in range(8):
            flipped = bytearray(text)
            flipped[place] ^= 1 << bit
            try:
                read = Provenance.of_json(jsonfile.parse_object(bytes(flipped), Path(FILE)))
            except LoratoolsError:
                continue
            assert read.seal is not None
            assert not holds(bytes(flipped), read.seal), (place, bit)


def test_a_name_cannot_pass_for_the_seal() -> None:
    """The blank seal, as text in a name, is no seal: it is escaped once more."""
    name = f'\n  "seal": "{"0" * 64}"'
    text = Provenance("merge", "0", {name: name, f'"seal":"{"0" * 64}"': 1}, (), {}).to_text().encode()
    assert text.count(json.loads(text)["seal"].encode()) == 1


def test_a_fingerprint_is_over_specs_and_roots(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": ("uint8", (7,), b"weights"), "b": ("float32", (1, 1), bytes(4))})
    roots = {"a": ROOT, "b": root_of(bytes(4))}
    expected = fingerprint([("b", "float32", (1, 1), roots["b"]), ("a", "uint8", (7,), ROOT)])
    assert fingerprint_of(read_header(path).tensors.values(), roots) == expected
    with pytest.raises(KeyError):
        fingerprint_of(read_header(path).tensors.values(), {"a": ROOT})
