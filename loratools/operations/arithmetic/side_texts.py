"""What stands beside an adapter's weights: config, card, provenance and a tokenizer, and what they weigh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from loratools.adapters.card import FILE as CARD
from loratools.adapters.card import Card
from loratools.adapters.peft_rewrite import config_text
from loratools.adapters.peft_write import CONFIG, WEIGHTS
from loratools.checkpoints.files import copy, size, write_text
from loratools.checkpoints.provenance import Provenance
from loratools.checkpoints.seal import BLANK

__all__ = ["SideTexts"]


@dataclass(frozen=True)
class SideTexts:
    """The files of an adapter's folder, but for its weights."""

    config: Mapping[str, object]
    card: Card
    provenance: Provenance
    tokenizer: Mapping[str, Path]

    @property
    def bytes(self) -> int:
        beside = dict.fromkeys((*self._texts(), *self.tokenizer), BLANK)
        provenance = replace(self.provenance, headers={WEIGHTS: BLANK}, files=beside)  # as long as it will be
        texts = sum(len(text.encode()) for text in (*self._texts().values(), provenance.to_text()))
        return texts + sum(size(path) for path in self.tokenizer.values())

    def write(self, folder: Path) -> None:
        """Writes them beside the weights, which are there already: the provenance has the hashes of all."""
        for name, text in self._texts().items():
            write_text(folder / name, text)
        for name, source in self.tokenizer.items():
            copy(source, folder / name)
        beside = [*self._texts(), *self.tokenizer]
        self.provenance.covering(folder, weights=[WEIGHTS], files=beside).write(folder)

    def _texts(self) -> dict[str, str]:
        return {CONFIG: config_text(self.config), CARD: self.card.text()}
