"""loratools: offline operations on model checkpoints and LoRA adapters.

Each verb of the command line is a function here, with the same names and defaults:

>>> import loratools
>>> report = loratools.inspect(["adapter"])  # doctest: +SKIP
>>> report = loratools.extract("base", "tuned", "adapter", rank=16)  # doctest: +SKIP

Everything is imported on first use, so that `import loratools` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loratools.checkpoints.checkpoint import Checkpoint
    from loratools.checkpoints.reference import open_checkpoint
    from loratools.errors import LoratoolsError, UsageError
    from loratools.operations.analyze import analyze
    from loratools.operations.clean import clean
    from loratools.operations.combine import combine
    from loratools.operations.demo import demo
    from loratools.operations.extract import extract
    from loratools.operations.inspect import inspect
    from loratools.operations.merge import merge
    from loratools.operations.report import report
    from loratools.operations.resize import resize
    from loratools.operations.unmerge import unmerge
    from loratools.operations.verify import verify
    from loratools.reports.report import Report

__version__ = "0.1.0"
"""Read from here by the build, too: to ask for the installed metadata takes 30 ms."""

__all__ = [
    "Checkpoint",
    "LoratoolsError",
    "Report",
    "UsageError",
    "__version__",
    "analyze",
    "clean",
    "combine",
    "demo",
    "extract",
    "inspect",
    "merge",
    "open_checkpoint",
    "report",
    "resize",
    "unmerge",
    "verify",
]

_HOMES = {
    "Checkpoint": "loratools.checkpoints.checkpoint",
    "LoratoolsError": "loratools.errors",
    "Report": "loratools.reports.report",
    "UsageError": "loratools.errors",
    "analyze": "loratools.operations.analyze",
    "clean": "loratools.operations.clean",
    "combine": "loratools.operations.combine",
    "demo": "loratools.operations.demo",
    "extract": "loratools.operations.extract",
    "inspect": "loratools.operations.inspect",
    "merge": "loratools.operations.merge",
    "open_checkpoint": "loratools.checkpoints.reference",
    "report": "loratools.operations.report",
    "resize": "loratools.operations.resize",
    "unmerge": "loratools.operations.unmerge",
    "verify": "loratools.operations.verify",
}

if not TYPE_CHECKING:  # a type checker sees the imports above, and so still finds misspelt names

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
