"""`Provenance`: what an output was made of, and how: hashes and base names, no clock, path or machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import has_name, is_folder, read_bytes, write_text
from loratools.checkpoints.folder import ADAPTER_CONFIG, MODEL_CONFIG
from loratools.checkpoints.hashing import file_root, fingerprint, root_of
from loratools.checkpoints.jsonfile import parse_object, read_json
from loratools.checkpoints.safetensors import looks_like_safetensors, read_header, read_start
from loratools.checkpoints.seal import BLANK, KEY, sealed
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError

FILE = "loratools.json"
"""The file beside the weights that holds an output's provenance."""

HEADER_KEY = "loratools"
"""The key of a safetensors header that holds it where the output is one file."""

SCHEMA = 1

SIZE_LIMIT = 64 * 2**20
"""The largest provenance that is read, in bytes: some 300,000 tensors."""

_ROOT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class InputRecord:
    """One input: its `role` (`base`, `tuned`, `adapter`, ...), base name or hub id, format, the fingerprint
    of its contents, and the BLAKE3 block root of each tensor that was read, and of its config, if it has
    one: an adapter's alpha stands there and nowhere else."""

    role: str
    name: str
    format: str
    fingerprint: str
    tensors: Mapping[str, str]
    config: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "name": self.name,
            "format": self.format,
            "fingerprint": self.fingerprint,
            "tensors": dict(self.tensors),
            "config": self.config,
        }


@dataclass(frozen=True)
class Provenance:
    """How an output came to be. Equal inputs and options give equal records, byte for byte.

    `options` are those that change the result, `tensors` the roots of the output's own tensors, `modules` the
    verb's rows (rank, residual, bytes of each module). Everything in `options` and `modules` is plain JSON:
    finite numbers, strings, booleans, None, lists and dicts with string keys. `headers` are the roots of what
    stands before the data in safetensors files, `files` those of other files whole, by their paths below the
    output's folder; together with `tensors` and the seal they cover every byte of an output. `seal` is that
    of a record that was read, where it has one; it is made anew whenever a record is written.
    """

    command: str
    version: str
    options: Mapping[str, Any]
    inputs: tuple[InputRecord, ...]
    tensors: Mapping[str, str]
    modules: tuple[Mapping[str, Any], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    seal: str | None = field(default=None, compare=False)

    def covering(self, folder: Path, *, weights: Iterable[str], files: Iterable[str]) -> Provenance:
        """The record with the hashes of what lies in `folder`: headers of safetensors files, other files.

        Raises:
            LoratoolsError: one of them cannot be read.
        """
        return replace(
            self,
            headers={name: root_of(read_start(folder / name)) for name in sorted(weights)},
            files={name: file_root(folder / name) for name in sorted(files)},
        )

    def to_json(self) -> dict[str, Any]:
        """The record as a plain object, with a `schema` number and a blank seal."""
        return {
            "schema": SCHEMA,
            "command": self.command,
            "version": self.version,
            "options": dict(self.options),
            "inputs": [record.to_json() for record in self.inputs],
            "tensors": dict(self.tensors),
            "modules": [dict(module) for module in self.modules],
            "headers": dict(self.headers),
            "files": dict(self.files),
            KEY: BLANK,
        }

    def to_text(self) -> str:
        """The record as it is written: keys sorted, two spaces, a line at the end; sealed."""
        text = json.dumps(self.to_json(), sort_keys=True, indent=2, allow_nan=False) + "\n"
        return sealed(text.encode()).decode()

    def to_header(self) -> dict[str, str]:
        """The record as a safetensors header's metadata: one key, in the shortest form.

        The seal is blank: whoever writes the header seals it, since it covers the whole of it.
        """
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return {HEADER_KEY: text}

    def write(self, folder: Path) -> None:
        """Writes `loratools.json` into `folder`."""
        path = folder / FILE
        with disk_errors(path):
            write_text(path, self.to_text())

    @classmethod
    def of_json(cls, record: object) -> Provenance:
        """Reads what `to_json` made. Keys that a later version added are passed over.

        Raises:
            LoratoolsError: something is missing, of the wrong type or not finite.
        """
        top = _dict(record, "it")
        if top.get("schema") != SCHEMA or isinstance(top.get("schema"), bool):
            raise LoratoolsError(
                f"the provenance has schema {top.get('schema')!r}, not {SCHEMA}", hint="use a newer loratools"
            )
        if "headers" in top and KEY not in top:  # whoever writes the one writes the other
            raise LoratoolsError("the provenance cannot be read: it has lost its seal")
        return cls(
            command=_str(top, "command"),
            version=_str(top, "version"),
            options=_finite(_dict(top.get("options"), "options")),
            inputs=tuple(_input(item) for item in _list(top, "inputs")),
            tensors=_roots(top),
            modules=tuple(_finite(_dict(item, "a module")) for item in _list(top, "modules")),
            headers=_roots(top, "headers") if "headers" in top else {},
            files=_roots(top, "files") if "files" in top else {},
            seal=None if top.get(KEY) is None else _root(top[KEY], "the seal"),
        )


def read_provenance(path: Path) -> Provenance | None:
    """The provenance of an output: a folder's `loratools.json`, or what a safetensors file's header holds.

    A file whose header holds none has that of its folder, if that speaks of every tensor in it. None where
    there is none.

    Raises:
        LoratoolsError: there is one, but it cannot be read; names the file.
    """
    with disk_errors(path, "open"):
        if is_folder(path):
            return _beside(path)
        if not looks_like_safetensors(read_bytes(path, 9)):
            return None
    header = read_header(path)
    if HEADER_KEY in header.metadata:
        text = header.metadata[HEADER_KEY].encode("utf-8", "surrogatepass")
        if len(text) > SIZE_LIMIT:
            raise LoratoolsError(f"a provenance of more than {SIZE_LIMIT:,} bytes", file=path)
        return _of_object(parse_object(text, path), path)
    beside = _beside(path.parent)
    return beside if beside is not None and header.tensors.keys() <= beside.tensors.keys() else None


def fingerprint_of(tensors: Iterable[TensorSpec], roots: Mapping[str, str]) -> str:
    """The fingerprint of a checkpoint's contents, from its specs and its tensors' roots by name."""
    return fingerprint((spec.name, spec.dtype, spec.shape, roots[spec.name]) for spec in tensors)


def config_root(checkpoint: Checkpoint) -> str | None:
    """The root of the config that belongs to an input; None where it has none.

    Raises:
        LoratoolsError: it cannot be read any more.
    """
    if not checkpoint.config:
        return None
    return file_root(
        checkpoint.folder / (ADAPTER_CONFIG if checkpoint.kind is Kind.ADAPTER else MODEL_CONFIG)
    )


def _beside(folder: Path) -> Provenance | None:
    path = folder / FILE
    return _of_object(read_json(path, SIZE_LIMIT), path) if has_name(path) else None


def _of_object(record: Mapping[str, Any], path: Path) -> Provenance:
    try:
        return Provenance.of_json(record)
    except LoratoolsError as error:
        raise LoratoolsError(error.message, file=path, hint=error.hint) from error


def _wrong(what: str, kind: str) -> LoratoolsError:
    return LoratoolsError(f"the provenance cannot be read: {what} is no {kind}")


def _dict(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(what, "object")
    return value


def _finite(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise LoratoolsError("the provenance cannot be read: it holds a number that is not finite") from error
    return value


def _list(record: dict[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list):
        raise _wrong(key, "list")
    return value


def _str(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise _wrong(key, "text")
    return value


def _root(value: object, what: str) -> str:
    if not isinstance(value, str) or not _ROOT.fullmatch(value):
        raise _wrong(what, "hash of 64 hexadecimal digits")
    return value


def _roots(record: dict[str, Any], key: str = "tensors") -> dict[str, str]:
    return {name: _root(value, f"the hash of {name}") for name, value in _dict(record.get(key), key).items()}


def _input(item: object) -> InputRecord:
    record = _dict(item, "an input")
    return InputRecord(
        role=_str(record, "role"),
        name=_str(record, "name"),
        format=_str(record, "format"),
        fingerprint=_root(record.get("fingerprint"), "a fingerprint"),
        tensors=_roots(record),
        config=None if record.get("config") is None else _root(record["config"], "the hash of a config"),
    )
