"""What stands beside an adapter's weights: config, card, provenance and a tokenizer, and what they weigh."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loratools.adapters.card import FILE as CARD
from loratools.adapters.card import Card
from loratools.adapters.peft_rewrite import config_text
from loratools.adapters.peft_write import CONFIG
from loratools.checkpoints.provenance import FILE as PROVENANCE
from loratools.checkpoints.provenance import Provenance
from loratools.operations.sidefiles import TOKENIZER_FILES

__all__ = ["SideTexts", "tokenizer_of"]


@dataclass(frozen=True)
class SideTexts:
    """The files of an adapter's folder, but for its weights."""

    config: Mapping[str, object]
    card: Card
    provenance: Provenance
    tokenizer: Mapping[str, Path]

    @property
    def bytes(self) -> int:
        texts = sum(len(text.encode()) for text in self._texts().values())
        return texts + sum(path.stat().st_size for path in self.tokenizer.values())

    def write(self, folder: Path) -> None:
        for name, text in self._texts().items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
        for name, source in self.tokenizer.items():
            shutil.copyfile(source, folder / name)

    def _texts(self) -> dict[str, str]:
        return {
            CONFIG: config_text(self.config),
            CARD: self.card.text(),
            PROVENANCE: self.provenance.to_text(),
        }


def tokenizer_of(folder: Path) -> dict[str, Path]:
    """The files of the tokenizer that lies in an adapter's folder, by name; none where none does."""
    return {name: folder / name for name in sorted(TOKENIZER_FILES) if (folder / name).is_file()}
