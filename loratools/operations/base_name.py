"""What an adapter's config calls its base, so that whoever loads the adapter finds it."""

from __future__ import annotations

import re
from pathlib import Path

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.files import has_name, real

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def base_name(base: Checkpoint, given: str | None) -> str:
    """The name given, else the hub id, else what the base's config says, else the name of its folder.

    A path in the config (`_name_or_path`) is no name: it is one machine's. The bundled sample has its own.
    What UTF-8 cannot hold of a folder's name stands there as escapes.
    """
    return _told(base, given).encode("utf-8", "backslashreplace").decode()


def _told(base: Checkpoint, given: str | None) -> str:
    if given is not None:
        return given
    if _is_sample(base.folder):
        from loratools import sample

        return sample.BASE_NAME
    if base.revision is not None or not has_name(base.reference):
        return base.reference.partition("@")[0]
    said = base.config.get("_name_or_path")
    if isinstance(said, str) and _NAME.fullmatch(said) and not said.startswith("."):
        return said
    return real(base.folder).name


def _is_sample(folder: Path) -> bool:
    from loratools import sample

    return real(folder) == real(sample.path("base"))
