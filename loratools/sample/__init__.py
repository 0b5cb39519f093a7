"""A sample that was really trained: a small base, its full fine-tune, and LoRA adapters of the same task.

Every folder is one that transformers or PEFT saved, in bfloat16, so each verb can be tried offline on real
weights.  The card beside this file (``README.md``) tells the data, the steps and the held-out losses;
``fixtures/train_sample.py`` in the repository makes it all again.

>>> from loratools import sample
>>> sample.path("lora-r8").name
'lora-r8'
"""

from pathlib import Path

__all__ = ["BASE_NAME", "HELDOUT", "LOSSES", "adapters", "names", "path"]

BASE_NAME = "loratools-sample/base"
"""What the adapters' ``adapter_config.json`` gives as ``base_model_name_or_path``."""

_FOLDER = Path(__file__).parent

HELDOUT = _FOLDER / "heldout.txt"
"""The held-out topics that every loss is measured on: UTF-8, topics separated by a form feed."""

LOSSES = _FOLDER / "losses.json"
"""The card's numbers for machines: held-out losses in nats per token, and the base's training curve."""

_MODELS = ("base", "tuned")
_ADAPTERS = ("lora-r4", "lora-r8", "lora-r8-seed2", "lora-r16", "lora-r64")


def names() -> tuple[str, ...]:
    """Return the names of the sample's folders: the two checkpoints, then the adapters by rising rank."""
    return _MODELS + _ADAPTERS


def adapters() -> tuple[str, ...]:
    """Return the names of the folders that hold PEFT adapters of ``base``."""
    return _ADAPTERS


def path(name: str) -> Path:
    """Return the folder of one member of the sample.

    Raises
    ------
    KeyError
        if ``name`` is none of ``names()``; the message lists them.
    """
    if name not in names():
        raise KeyError(f"the sample has no {name!r}; it has {', '.join(names())}")
    return _FOLDER / name
