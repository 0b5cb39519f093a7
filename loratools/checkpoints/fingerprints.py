"""The fingerprint of a run: all that its result depends on, so that the next may go on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.claims import regular_file

__all__ = ["InputMark", "RunFingerprint"]


@dataclass(frozen=True)
class InputMark:
    """An input as it was when a run began: size and time of each file by name, and a hash of its headers.

    What the tensors hold is not hashed here: jobs do that as they read them.
    """

    role: str
    path: str
    files: Mapping[str, tuple[int, int]]
    headers: str

    @classmethod
    def of(cls, role: str, checkpoint: Checkpoint, roots: Mapping[str, str] | None = None) -> InputMark:
        """The mark of an opened reference. `roots` are its tensors' hashes, where they are known already.

        Raises:
            LoratoolsError: a file is not there any more.
        """
        digest = blake3(json.dumps(checkpoint.config, sort_keys=True, default=str).encode())
        for name, spec in checkpoint.items():
            place = (name, spec.dtype, list(spec.shape), spec.file.name, spec.offset, spec.bytes)
            digest.update(json.dumps([*place, (roots or {}).get(name)]).encode())
        return cls(role, str(checkpoint.root), _files(checkpoint.shards), digest.hexdigest())

    @classmethod
    def of_file(cls, role: str, path: Path) -> InputMark:
        """The mark of one file, by size and time. Raises as `of`."""
        return cls(role, str(path), _files([path]), "")

    def to_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "path": self.path,
            "files": {name: list(facts) for name, facts in self.files.items()},
            "headers": self.headers,
        }


@dataclass(frozen=True)
class RunFingerprint:
    """What a run was asked to do: verb, version, versions of the libraries that compute, options, inputs."""

    command: str
    version: str
    libraries: Mapping[str, str]
    options: Mapping[str, Any]
    inputs: tuple[InputMark, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "version": self.version,
            "libraries": dict(self.libraries),
            "options": dict(self.options),
            "inputs": [mark.to_json() for mark in self.inputs],
        }

    def differs(self, header: Mapping[str, Any]) -> str | None:
        """What is different now from what a journal's first line says, in words; None where nothing is."""
        now: dict[str, Any] = json.loads(json.dumps(self.to_json()))
        if header.get("command") != self.command:
            return f"it was {_shown(header.get('command'))}, not {self.command}"
        if header.get("version") != self.version:
            return f"loratools was {_shown(header.get('version'))} then, and is {self.version}"
        for what, name in (("libraries", ""), ("options", "the option ")):
            changed = _changed(header.get(what), now[what])
            if changed is not None:
                key, before, after = changed
                return f"{name}{key} was {_shown(before)} then, and is {_shown(after)}"
        return self._other_input(header.get("inputs"), now["inputs"])

    def _other_input(self, before: Any, now: list[dict[str, Any]]) -> str | None:
        if not isinstance(before, list) or len(before) != len(now):
            return "it had other inputs"
        for earlier, mark in zip(before, now, strict=True):
            if not isinstance(earlier, dict) or earlier.get("role") != mark["role"]:
                return "it had other inputs"
            if any(earlier.get(key) != mark[key] for key in ("files", "headers")):
                return f"the {mark['role']} changed since then, {mark['path']}"
        return None


def _files(paths: Iterable[Path]) -> dict[str, tuple[int, int]]:
    found = {path.name: regular_file(path) for path in paths}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in sorted(found.items())}


def _changed(before: Any, now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first key whose value is not what it was, with both values."""
    earlier = before if isinstance(before, dict) else {}
    for key in sorted({*earlier, *now}):
        if earlier.get(key) != now.get(key):
            return str(key), earlier.get(key), now.get(key)
    return None


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
