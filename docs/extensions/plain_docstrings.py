"""A Sphinx extension: docstrings are prose first, whose sections, lists and `code` alone are meant as markup.

They are written to be read in a terminal. Without this, norms (`||A||_F`) and products would be taken for
substitutions, links and emphasis.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_OF_VALUES = frozenset({"attribute", "data", "property"})


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _plain, priority=100)  # before napoleon reads the sections
    app.connect("autodoc-process-docstring", _restore, priority=900)  # after it
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _plain(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    _escape(lines)
    if what in _OF_VALUES:
        _sentences[name] = list(lines)


def _restore(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Napoleon takes what stands before the first colon of a value's sentence for its type."""
    if what in _OF_VALUES:
        lines[:] = _sentences.pop(name, lines)


_sentences: dict[str, list[str]] = {}


def _escape(lines: list[str]) -> None:
    verbatim: int | None = None  # the indentation below which a block that follows `::` ends
    for number, line in enumerate(lines):
        depth = len(line) - len(line.lstrip())
        if verbatim is not None and line.strip() and depth <= verbatim:
            verbatim = None
        if verbatim is None:
            lines[number] = "".join(map(_escaped, re.split(r"(``?[^`]+``?)", line)))
            if line.rstrip().endswith("::"):
                verbatim = depth


def _escaped(piece: str) -> str:
    return piece if piece.startswith("`") else re.sub(r"([|*])|(?<=\w)(_)(?!\w)", r"\\\1\2", piece)
