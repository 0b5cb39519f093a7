"""Whether an adapter was made for the base that it is merged into: refused by hash, warned about by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import has_name, read_bytes, real
from loratools.errors import LoratoolsError
from loratools.operations.base_name import base_name
from loratools.operations.merge_inputs import MergeInputs
from loratools.operations.rewrite_record import input_name

_CARD_BYTES = 16_384
_BASE_MODEL = re.compile(r"""^base_model:\s*["']?(?P<name>[^\s"']+)["']?\s*$""", re.MULTILINE)


class BaseCheck:
    """Holds the base's tensors, as their hashes come, against those that the adapters were made with."""

    def __init__(self, inputs: MergeInputs, *, allow: bool) -> None:
        self._allow = allow
        self._expected = [(one.name, one.base_roots) for one in inputs.adapters if one.base_roots]
        self._base = input_name(inputs.checkpoint)
        self._other: dict[str, list[str]] = {}

    def see(self, tensor: str, root: str | None) -> None:
        """Looks at one tensor of the base.

        Raises:
            LoratoolsError: an adapter was made with another one, and that is not allowed.
        """
        for adapter, roots in self._expected:
            if root is None or roots.get(tensor, root) == root:
                continue
            if not self._allow:
                raise LoratoolsError(
                    f"the adapter {adapter} was made for another base: {self._base} has another hash",
                    tensor=tensor,
                    hint="name the base that it was extracted from, or go on with --allow-other-base",
                )
            self._other.setdefault(adapter, []).append(tensor)

    def warnings(self) -> list[str]:
        """What was let pass."""
        return [
            f"{adapter} was made for another base: {len(tensors)} tensors differ, {min(tensors)} for one"
            for adapter, tensors in self._other.items()
        ]


def name_warnings(inputs: MergeInputs) -> list[str]:
    """A line for each adapter that calls its base by another name, and whose hashes do not tell better."""
    called = input_name(inputs.checkpoint)
    lines = []
    for one in inputs.adapters:
        said = one.adapter.base_name or _on_the_card(one.opened.folder)
        if said and not one.base_roots and not _is_called(inputs.checkpoint, said):
            lines.append(f"{one.name} says that its base is {said}, not {called}")
    return lines


def no_common_tensor(inputs: MergeInputs) -> list[str]:
    """A line for each adapter whose hashes name no tensor of the base, so that nothing is checked."""
    return [
        f"the provenance of {one.name} names no tensor of {input_name(inputs.checkpoint)}: "
        "whether it is the adapter's base was not checked"
        for one in inputs.adapters
        if one.base_roots and not one.base_roots.keys() & inputs.checkpoint.tensors.keys()
    ]


def _is_called(checkpoint: Checkpoint, name: str) -> bool:
    """Whether `name` can mean the checkpoint: its path, its hub id, or the last part of either."""
    with disk_errors(name, "open"):
        if has_name(name):
            return real(name) == real(checkpoint.root)
    return _last(name) in set(map(_last, _names(checkpoint)))


def _on_the_card(folder: Path) -> str | None:
    """The one `base_model` in the front matter of the adapter's card, where its config names none."""
    try:
        head = read_bytes(folder / "README.md", _CARD_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return None
    front = head.removeprefix("---\n").partition("\n---")[0] if head.startswith("---\n") else ""
    found = _BASE_MODEL.search(front)
    return found["name"] if found else None


def _names(checkpoint: Checkpoint) -> Iterator[str]:
    yield input_name(checkpoint)
    yield checkpoint.reference
    yield base_name(checkpoint, None)
    given = checkpoint.config.get("_name_or_path")
    if isinstance(given, str) and given:
        yield given


def _last(name: str) -> str:
    """The last part of a path or hub id, without its revision."""
    return Path(name.rstrip("/\\").replace("\\", "/")).name.partition("@")[0].casefold()
