"""What decides, beside inputs and options, which bytes a process computes: versions, and the processor."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from loratools.engine.blas import loaded

_PACKAGES = ("loratools", "numpy", "scipy", "torch")


@dataclass(frozen=True)
class Setup:
    """`versions` of Python and of what computes; `processor`: the kind that OpenBLAS has kernels for."""

    versions: tuple[tuple[str, str], ...]
    processor: str

    @classmethod
    def here(cls) -> Setup:
        """That of this process. Imports numpy, which brings its OpenBLAS."""
        import numpy as np  # noqa: F401

        python = ".".join(platform.python_version_tuple()[:2])
        found = [("Python", python), *((name, _version(name)) for name in _PACKAGES)]
        kinds = [library.kind for library in loaded()]
        return cls(tuple(found), next(filter(None, kinds), platform.machine()))

    def differences(self, other: Setup) -> Iterator[str]:
        """`numpy 2.1.0, and 2.0.0 here`, for each version of `other` that is not the one here."""
        theirs = dict(other.versions)
        for name, own in self.versions:
            if theirs.get(name) != own:
                yield f"{name} {theirs.get(name, 'none')}, and {own} here"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree on the path
        return "of unknown version"
