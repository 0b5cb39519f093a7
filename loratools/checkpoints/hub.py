"""Hub ids: `org/name[@revision]` through huggingface_hub (extra `[hub]`), cached or downloaded."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loratools.errors import LoratoolsError

_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)

_WEIGHTS: tuple[tuple[str, str], ...] = (
    ("safetensors", r"(adapter_model|model|diffusion_pytorch_model)(-\d+-of-\d+)?\.safetensors"),
    ("bin", r"(adapter_model|pytorch_model|diffusion_pytorch_model)(-\d+-of-\d+)?\.bin"),
    ("safetensors", r".*\.safetensors"),
    ("bin", r".*\.bin"),
    ("pt", r".*\.(pt|pth|ckpt)"),
)
"""Formats of weights, best first, with the names they go by; the first that a repository has is used."""

_BESIDE = re.compile(
    r"(?!optimizer|scheduler|trainer_state).*\.(json|txt|model|py|md|jinja|tiktoken)|LICENSE.*"
)
"""What lies beside weights and belongs to them: configs, indexes, tokenizers, code, cards."""

_ADAPTER = re.compile(r"[^/]+/adapter_(model\.(safetensors|bin)|config\.json)")
"""Adapters one folder down, where a repository has no weights at its top."""

_PATIENCE = 10.0
"""Seconds that the hub may take to tell which files a repository has."""


@dataclass(frozen=True)
class Snapshot:
    """A repository's files at one commit, in the local cache."""

    folder: Path
    revision: str


def is_hub_id(reference: str) -> bool:
    """Whether `reference` is written as a hub id: `org/name`, perhaps with `@revision`."""
    return _HUB_ID.fullmatch(reference) is not None


def fetch(reference: str) -> Snapshot:
    """The snapshot of a hub id: from the cache alone where HF_HUB_OFFLINE is set, else brought up to date.

    Only one format of the weights is downloaded (safetensors before torch's), with what lies beside them. A
    hub that cannot be reached is no failure as long as the cache has what is needed.

    Raises:
        LoratoolsError: the extra is not installed, or the repository is neither cached nor to be had.
    """
    match = _HUB_ID.fullmatch(reference)
    if match is None:
        raise ValueError(f"{reference} is no hub id")
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise LoratoolsError(
            "no such path, and a hub id needs huggingface_hub",
            file=reference,
            hint="pip install 'loratools[hub]'",
        ) from error
    repository = _Repository(match["name"], match["revision"])
    folder = repository.cached() if constants.HF_HUB_OFFLINE else repository.downloaded()
    if folder is None:
        unavailable = _unavailable(reference, constants.HF_HUB_OFFLINE, repository.failure)
        raise unavailable from repository.failure
    return Snapshot(folder, folder.name)


class _Repository:
    """A repository through huggingface_hub, whose errors (its own, and those of whichever HTTP library its
    release is built on) all mean the same here: it is not to be had that way. The first one is kept."""

    def __init__(self, name: str, revision: str | None) -> None:
        self._name = name
        self._revision = revision
        self.failure: Exception | None = None

    def cached(self) -> Path | None:
        """The snapshot in the cache, if it has all files of some format of the weights."""
        from huggingface_hub import snapshot_download

        for suffix in dict.fromkeys(suffix for suffix, _ in _WEIGHTS):
            try:
                folder = snapshot_download(
                    self._name,
                    revision=self._revision,
                    local_files_only=True,
                    allow_patterns=[f"*.{suffix}"],
                )
                return Path(folder)
            except Exception as error:
                self.failure = self.failure or error
        return None

    def downloaded(self) -> Path | None:
        """The snapshot of the revision's newest commit, downloaded as far as needed; else the cached one."""
        from huggingface_hub import HfApi, snapshot_download

        try:
            # not list_repo_files: without a network that one tries for half a minute, and says so on stderr
            siblings = HfApi().model_info(self._name, revision=self._revision, timeout=_PATIENCE).siblings
            files = [file.rfilename for file in siblings or ()]
            with _progress_only_on_a_terminal():
                folder = snapshot_download(self._name, revision=self._revision, allow_patterns=wanted(files))
            return Path(folder)
        except Exception as error:
            self.failure = error
            return self.cached()


def wanted(files: Sequence[str]) -> list[str]:
    """Which of a repository's files to download: one format of the weights, and what belongs to them.

    Names are returned as patterns that match nothing else.
    """
    top = [name for name in files if "/" not in name]
    for _, pattern in _WEIGHTS:
        weights = [name for name in top if re.fullmatch(pattern, name) and not _is_side_file(name)]
        if weights:
            break
    else:
        weights = [name for name in files if _ADAPTER.fullmatch(name)]
    beside = [name for name in top if _BESIDE.fullmatch(name)]
    return [re.sub(r"([*?\[])", r"[\1]", name) for name in sorted({*weights, *beside})]


def _is_side_file(name: str) -> bool:
    return name.startswith(("optimizer", "scheduler", "training_args", "rng_state", "scaler"))


@contextmanager
def _progress_only_on_a_terminal() -> Iterator[None]:
    """Keeps the library's progress bars out of redirected output, and leaves its setting as it was."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _unavailable(reference: str, offline: bool, failure: Exception | None) -> LoratoolsError:
    if offline:
        return LoratoolsError(
            "no such path, and the hub's cache does not have it",
            file=reference,
            hint="unset HF_HUB_OFFLINE to download it",
        )
    return LoratoolsError(
        f"no such path, and the hub does not give it ({type(failure).__name__})",
        file=reference,
        hint="check the name, the network and, for a private model, the token",
    )
