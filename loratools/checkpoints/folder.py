"""Which of a folder's files are its weights: one set of them, or an error that says how to name one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from loratools.checkpoints.claims import inside
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import is_file, is_folder, listing
from loratools.checkpoints.foreign import refuse_framework
from loratools.checkpoints.weightfile import SUFFIXES
from loratools.errors import LoratoolsError

ADAPTER_CONFIG = "adapter_config.json"
MODEL_CONFIG = "config.json"
INDEX_SUFFIX = ".index.json"

_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_ADAPTER_HUB_FILES = ("adapter.safetensors", "pytorch_adapter.bin")
"""AdapterHub's names: they say so little that they count only beside an adapter_config.json."""

_ADAPTER_HUB_HEADS = ("model_head.safetensors", "pytorch_model_head.bin")

_MODEL_FILES = tuple(
    f"{stem}{suffix}{index}"
    for stem, suffix in (
        ("model", ".safetensors"),
        ("diffusion_pytorch_model", ".safetensors"),
        ("pytorch_model", ".bin"),
        ("diffusion_pytorch_model", ".bin"),
    )
    for index in ("", INDEX_SUFFIX)
)
"""Best first: safetensors before torch, one file before shards (as transformers chooses)."""

_SIDE_FILES = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state(_\d+)?)\.(pt|pth|bin)")
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.\w+")


@dataclass(frozen=True)
class Located:
    """The weight file or index of a reference, the config that belongs to it, and warnings about both."""

    root: Path
    weights: Path
    config: Path | None
    warnings: tuple[str, ...] = ()


def locate_in_folder(folder: Path) -> Located:
    """The weights in `folder`: an adapter's, a checkpoint's, the only weight file, or the only adapter below.

    Raises:
        LoratoolsError: the folder holds no weights, several between which only the user can choose, a
            framework's shards, or links that leave it.
    """
    files, subfolders = _listing(folder)
    adapter = [name for name in _adapter_files(files) if name in files]
    heads = [name for name in _ADAPTER_HUB_HEADS if name in files]
    model = [name for name in _MODEL_FILES if name in files]
    if adapter and model:
        raise LoratoolsError(
            f"the folder holds an adapter ({adapter[0]}) and a checkpoint ({model[0]})",
            file=folder,
            hint="name the file that is meant",
        )
    if adapter:
        config = ADAPTER_CONFIG if ADAPTER_CONFIG in files else None
        return _located(folder, [*adapter, *heads], config)
    config = MODEL_CONFIG if MODEL_CONFIG in files else None
    if model or (model := _only_weight_file(folder, files)):
        return _located(folder, model, config, _adapters_below(folder, subfolders))
    below = _adapters_below(folder, subfolders)
    if len(below) == 1:
        return locate_in_folder(folder / below[0])
    raise _no_weights(folder, files, subfolders, below)


def locate_file(path: Path) -> Located:
    """A weight file named by itself, with the config that belongs to it."""
    with disk_errors(path.parent, "open"):
        return _with_its_config(path)


def _with_its_config(path: Path) -> Located:
    beside = [ADAPTER_CONFIG] if is_file(path.parent / ADAPTER_CONFIG) else []
    config = path.parent / (ADAPTER_CONFIG if path.name in _adapter_files(beside) else MODEL_CONFIG)
    shard = (f"{path.name} is one shard of several",) if _SHARD.fullmatch(path.name) else ()
    return Located(path, path, config if is_file(config) else None, shard)


def _adapter_files(files: list[str]) -> tuple[str, ...]:
    """What an adapter's weights may be called in a folder of these files, best first."""
    return (*_ADAPTER_FILES, *(_ADAPTER_HUB_FILES if ADAPTER_CONFIG in files else ()))


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the files and of the subfolders, sorted."""
    try:
        entries = listing(folder)
        subfolders = [entry.name for entry in entries if is_folder(entry)]
    except OSError as error:
        raise LoratoolsError(f"cannot open: {error.strerror}", file=folder) from error
    return [entry.name for entry in entries if entry.name not in subfolders], subfolders


def _located(folder: Path, found: list[str], config: str | None, below: list[str] | None = None) -> Located:
    warnings = [f"{name} beside {found[0]} is not read" for name in found[1:]]
    warnings += [f"an adapter in the subfolder {name} is not read" for name in below or ()]
    return Located(
        folder,
        inside(folder / found[0], folder),
        None if config is None else inside(folder / config, folder),
        tuple(warnings),
    )


def _adapters_below(folder: Path, subfolders: list[str]) -> list[str]:
    with disk_errors(folder, "open"):
        return [
            name
            for name in subfolders
            if is_file(folder / name / ADAPTER_CONFIG)
            and any(is_file(folder / name / weights) for weights in _adapter_files([ADAPTER_CONFIG]))
        ]


def _only_weight_file(folder: Path, files: list[str]) -> list[str]:
    """The only file with a weight file's suffix, in a list, or an empty one."""
    loose = [name for name in files if Path(name).suffix in SUFFIXES and not _SIDE_FILES.fullmatch(name)]
    if len(loose) < 2:
        return loose
    refuse_framework(folder, loose)
    if any(_SHARD.fullmatch(name) for name in loose):
        raise LoratoolsError(
            f"shards ({loose[0]}, ...) without their index",
            file=folder,
            hint="copy or download the index, too",
        )
    raise LoratoolsError(
        f"several weight files ({', '.join(loose[:3])}{', ...' if loose[3:] else ''})",
        file=folder,
        hint="name the one that is meant",
    )


def _no_weights(folder: Path, files: list[str], subfolders: list[str], below: list[str]) -> LoratoolsError:
    """The error for a folder without weights: as much as its contents tell of what it is."""
    refuse_framework(folder, files + subfolders)
    if below:
        return LoratoolsError(
            f"several adapters in subfolders ({', '.join(below)})",
            file=folder,
            hint="name the one that is meant",
        )
    if "model_index.json" in files:
        return LoratoolsError("a diffusers pipeline of several models", file=folder, hint="name one")
    if ADAPTER_CONFIG in files:
        return LoratoolsError(f"{ADAPTER_CONFIG} without adapter weights", file=folder)
    if gguf := [name for name in files if name.endswith(".gguf")]:
        return LoratoolsError(
            "only GGUF weights, which can be inspected but not computed with",
            file=folder / gguf[0],
            hint="name the checkpoint it was made from",
        )
    return LoratoolsError(
        "no weights in this folder",
        file=folder,
        hint="name the one that holds model.safetensors or an adapter",
    )
