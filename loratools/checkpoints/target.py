"""What may be written where: the refusals that come before any work, and that create nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from loratools.checkpoints import files, system
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import again
from loratools.errors import LoratoolsError, UsageError

WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf"})
"""Files that weights come in."""

_MODEL_FILES = frozenset({"loratools.json", "config.json", "adapter_config.json", "model_index.json"})
"""Files that mark a folder as a checkpoint, an adapter, or one of our outputs."""


def named_target(output: str | os.PathLike[str] | None, *, dry_run: bool) -> Path | None:
    """The output that was named; None where none was and, in a dry run, none need be.

    Raises:
        UsageError: something is to be written, and nobody said where.
    """
    if output is not None:
        return Path(output)
    if not dry_run:
        raise UsageError("no output was named", hint="say where to write it, with -o OUT")
    return None


def check_target(
    target: Path | None,
    *,
    force: bool,
    inputs: Sequence[Path],
    suffixes: frozenset[str] = WEIGHT_SUFFIXES,
) -> None:
    """Refuses an output that must not be written, from a look at the names alone.

    Always refused: an output that is an input, lies inside or above one; a symbolic link; the current folder,
    the home folder or one above them; something that exists and is no model (a folder of other files, a
    repository, a device). Refused unless `force`: an output that exists. Real paths are compared; beside an
    input *file* an output may lie. None, a dry run's, is nowhere and so never refused. `suffixes` are those
    of the files that `force` may replace.

    Raises:
        LoratoolsError: one of these; the hint says what can be done.
    """
    if target is None:
        return
    with disk_errors(target, "look at the output"):
        real = real_target(target)
        _refuse_overlap(target, real, inputs)
        _refuse_places(target, real)
        if not files.has_name(real):
            return
        if not force:
            raise LoratoolsError("the output exists already", file=target, hint="--force replaces it")
        _refuse_foreign(target, real, suffixes)


def real_target(target: Path) -> Path:
    """The target's absolute path with the links of its parents resolved; the last name is taken as it is."""
    absolute = files.real(target) if target.name in ("", "..") else target
    for parent in absolute.parents:
        if files.is_link(parent) and not files.exists(parent):
            raise LoratoolsError("the output's folder is a broken link", file=parent)
        if files.exists(parent) and not files.is_folder(parent):
            raise LoratoolsError("the output's folder is a file", file=parent, hint="choose another output")
    return files.real(absolute.parent) / absolute.name


def _refuse_overlap(target: Path, real: Path, inputs: Sequence[Path]) -> None:
    for given in inputs:
        for source in _places(given):
            if _same(real, source):
                how = "is"
            elif _inside(real, source):
                how = "lies inside"
            elif _inside(source, real):
                how = "lies above"
            else:
                continue
            raise LoratoolsError(
                f"the output {how} an input, {given}", file=target, hint="choose an output elsewhere"
            )


def _places(source: Path) -> Iterator[Path]:
    """Where an input lies: its name, and where that, or a link in its folder, leads (the hub's cache)."""
    yield files.real(source.parent) / source.name
    yield files.real(source)
    if files.is_folder(source):
        for entry in files.listing(source):
            if files.is_link(entry):
                yield files.real(entry)


def _inside(path: Path, folder: Path) -> bool:
    return any(_same(parent, folder) for parent in path.parents)


def _same(one: Path, other: Path) -> bool:
    """Whether two real paths are one place, also where names differ (case, bind mounts, hard links)."""
    if one == other:
        return True
    here, there = files.status(one), files.status(other)
    return here is not None and there is not None and os.path.samestat(here, there)


def _refuse_places(target: Path, real: Path) -> None:
    if files.is_link(real):
        raise LoratoolsError("the output is a symbolic link", file=target, hint="name the place it leads to")
    for what, place in (("current", Path.cwd()), ("home", Path("~").expanduser())):
        place = files.real(place)
        if _same(real, place) or _inside(place, real):
            raise LoratoolsError(
                f"the output is the {what} folder or above it", file=target, hint="name a folder in it"
            )


def _refuse_foreign(target: Path, real: Path, suffixes: frozenset[str]) -> None:
    """Refuses to replace what is neither a model nor an adapter: `--force` is for outputs."""
    found = again(system.calls.lstat, real)
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        names = {entry.name for entry in files.listing(real)}
        if again(system.calls.lstat, real.parent).st_dev != found.st_dev:
            reason = "a mount point"
        elif ".git" in names:
            reason = "a repository"
        elif names and not any(map(_of_a_model, names)):
            reason = "a folder of other files than a model's"
        else:
            return
    elif stat.S_ISREG(mode) and (real.suffix in suffixes or not found.st_size):
        return
    else:
        reason = "a file of another kind than weights" if stat.S_ISREG(mode) else "no ordinary file or folder"
    raise LoratoolsError(
        f"the output exists and is {reason}, which --force does not replace",
        file=target,
        hint="choose another output or remove it yourself",
    )


def _of_a_model(name: str) -> bool:
    return name in _MODEL_FILES or name.endswith(".index.json") or Path(name).suffix in WEIGHT_SUFFIXES
