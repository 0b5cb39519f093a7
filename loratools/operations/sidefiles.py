"""What lies beside the weights: which files come along to an output, and which stay behind, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from loratools.checkpoints import provenance
from loratools.checkpoints.claims import is_inside
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import is_file, is_folder, is_link, real, size
from loratools.checkpoints.jsonfile import read_value
from loratools.checkpoints.trees import walk
from loratools.errors import LoratoolsError

_NAMED = 20
"""Files that a line names; `--json` has all."""


@dataclass(frozen=True)
class LeftBehind:
    """A file that does not come along, by its path below the folder, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class SideFiles:
    """Files to copy, by their path in the output (with forward slashes), and those that stay behind."""

    copied: dict[str, Path]
    left_behind: tuple[LeftBehind, ...]

    @property
    def bytes(self) -> int:
        return sum(size(file) for file in self.copied.values())

    def without(self, path: str) -> SideFiles:
        """The same, with nothing said of a path that was left behind."""
        return SideFiles(self.copied, tuple(one for one in self.left_behind if one.path != path))

    def notes(self) -> list[str]:
        """A line for each reason why files stay behind, but for what the output has anew."""
        reasons: dict[str, list[str]] = {}
        for one in self.left_behind:
            if one.reason != RENEWED:
                reasons.setdefault(one.reason, []).append(one.path)
        return [f"left behind ({reason}): {_some(paths)}" for reason, paths in sorted(reasons.items())]


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more


@dataclass(frozen=True)
class _Rule:
    """File names of one kind that stays behind."""

    reason: str
    names: re.Pattern[str]


def _rule(reason: str, *patterns: str) -> _Rule:
    return _Rule(reason, re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE))


RENEWED = "the output has its own"

_RULES = (
    _rule(RENEWED, re.escape(provenance.FILE), r".*\.index\.json", r".*\.index\.[\w-]+\.json"),
    _rule("an adapter", r"adapter_config\.json", r"adapter_model.*"),
    _rule(
        "training state",
        r"optimizer.*\.(?:pt|pth|bin|safetensors)",
        r"scheduler.*\.(?:pt|pth|bin)",
        r"scaler.*\.(?:pt|pth)",
        r"rng_state.*",
        r"random_states.*",
        r"training_args\.bin",
        r"trainer_state\.json",
        r"zero_to_fp32\.py",
        r"latest",
    ),
    _rule(
        "other weights",
        r".*\.(?:safetensors|bin|pt|pth|ckpt|gguf|ggml|h5|hdf5|msgpack|onnx|onnx_data|ot|tflite|mlmodel)",
        r".*\.(?:nemo|pdparams|pte|engine|distcp)",
        r"consolidated\..*",
    ),
)
_SKIPPED_FOLDERS = {
    ".git": "version control",
    ".cache": "a download cache",
    "__pycache__": "compiled code",
    "loratools-undo": "an undo record of another merge",
}
_SKIPPED_FOLDER_NAMES = _rule("a training checkpoint", r"checkpoint-\d+", r"global_step\d+", r".*\.distcp")
_PARTIAL = re.compile(r".*\.partial-[^/]*")

TOKENIZER_FILES = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
"""What transformers calls the files of a tokenizer."""

_TOKENIZER_MARKS = ("tokenizer.json", "tokenizer_config.json")
_STALE_BESIDE_ANOTHER = frozenset(
    {"added_tokens.json", "chat_template.jinja", "chat_template.json", "special_tokens_map.json"}
)
"""Files of the base's tokenizer that would overrule another one's; plain vocabularies do not."""


def side_files(folder: Path, weights: frozenset[Path], *, skip: Path | None = None) -> SideFiles:
    """Sorts everything below `folder`, but the weights themselves, into what comes along and what does not.

    Args:
        folder: the checkpoint's folder. Links to files in it, and in the hub cache around it, are read
            through; links to folders are not followed.
        weights: the weight files of the checkpoint, which the output replaces, as the checkpoint names them.
        skip: an output inside of the folder would be copied into itself; it is left out in silence.
    """
    copied: dict[str, Path] = {}
    left: list[LeftBehind] = []
    modules = _sentence_modules(folder)
    with disk_errors(folder, "open"):
        for relative, file in _walk(folder, left, skip):
            if file in weights:
                continue
            reason = _reason(folder, relative, file, modules)
            if reason is None:
                copied[str(relative)] = file
            else:
                left.append(LeftBehind(str(relative), reason))
    return SideFiles(copied, tuple(sorted(left, key=lambda one: one.path)))


def with_tokenizer(files: SideFiles, adapter: Path) -> tuple[SideFiles, bool]:
    """The side files with the tokenizer of the folder `adapter` in place of the base's, if it carries one.

    Returns the files and whether the adapter's tokenizer is in them. Vocabulary files that only the base has
    stay; what would overrule the adapter's files (`added_tokens.json`, a chat template) does not.
    """
    with disk_errors(adapter, "open"):
        if not is_folder(adapter) or not any(is_file(adapter / mark) for mark in _TOKENIZER_MARKS):
            return files, False
        own = tokenizer_files(adapter)
    kept = {path: file for path, file in files.copied.items() if path not in _STALE_BESIDE_ANOTHER}
    return SideFiles({**kept, **own}, files.left_behind), True


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """The files of the tokenizer in a folder, by name; links that lead out of it are none of them.

    Raises:
        OSError: the system does not tell.
    """
    return {
        name: folder / name
        for name in sorted(TOKENIZER_FILES)
        if is_file(folder / name) and is_inside(folder / name, folder)
    }


def _walk(folder: Path, left: list[LeftBehind], skip: Path | None) -> Iterator[tuple[PurePosixPath, Path]]:
    for here, names, files in walk(folder):
        below = PurePosixPath(here.relative_to(folder).as_posix())
        kept = []
        for name in sorted(names):
            if _is(here / name, skip):
                continue
            reason = _folder_reason(here / name)
            if reason is None:
                kept.append(name)
            else:
                left.append(LeftBehind(f"{below / name}/", reason))
        names[:] = kept
        for name in sorted(files):
            if not _is(here / name, skip):
                yield below / name, here / name


def _is(path: Path, other: Path | None) -> bool:
    if other is None or path.name != other.name:
        return False
    return real(path) == real(other)


def _folder_reason(folder: Path) -> str | None:
    if is_link(folder):
        return "a link to a folder"
    if _PARTIAL.fullmatch(folder.name):
        return "a leftover of an interrupted run"
    if is_file(folder / "adapter_config.json"):
        return "an adapter"
    if _SKIPPED_FOLDER_NAMES.names.fullmatch(folder.name):
        return _SKIPPED_FOLDER_NAMES.reason
    return _SKIPPED_FOLDERS.get(folder.name)


def _reason(folder: Path, relative: PurePosixPath, file: Path, modules: frozenset[str]) -> str | None:
    """Why a file stays behind; None if it comes along."""
    if not is_file(file):
        return "a broken link" if is_link(file) else "not a file"
    if is_link(file) and not is_inside(file, folder):
        return "a link that leads out of the folder"
    if _PARTIAL.fullmatch(file.name):
        return "a leftover of an interrupted run"
    if len(relative.parts) > 1 and relative.parts[0] in modules:
        return None
    return next((rule.reason for rule in _RULES if rule.names.fullmatch(file.name)), None)


def _sentence_modules(folder: Path) -> frozenset[str]:
    """The subfolders with further layers of the model, which sentence-transformers' `modules.json` lists."""
    try:
        entries = read_value(folder / "modules.json")
    except LoratoolsError:
        return frozenset()
    listed = entries if isinstance(entries, list) else []
    paths = [entry.get("path") for entry in listed if isinstance(entry, dict)]
    return frozenset(
        part for path in paths if isinstance(path, str) for part in PurePosixPath(path).parts[:1]
    )
