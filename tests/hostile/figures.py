"""The table of attacks: every case of the corpus through its verbs. `python -m tests.hostile.figures`."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from fixtures import hostile
from fixtures.campaign_figures import Figures
from fixtures.hostile_adapters import ADAPTERS, write_adapter
from fixtures.hostile_bombs import BOMBS
from fixtures.hostile_case import Hostile
from fixtures.hostile_configs import MEASURES, write_base
from fixtures.hostile_gguf import GGUF
from fixtures.hostile_meter import measured
from fixtures.hostile_records import RECORDS
from tests.hostile.test_verbs import ADAPTER_VERBS, CHECKPOINT_VERBS, SHOWING, Words, is_refused, run

KINDS = {
    "safetensors": "safetensors headers",
    "index": "shard indexes, links among shards",
    "torch": "torch zips and pickles",
    "folder": "folders, FIFOs, other programs' files",
    "file": "folders, FIFOs, other programs' files",
    "config": "config.json",
    "report": "config.json of `report --config`",
    "adapter": "adapters and adapter_config.json",
    "provenance": "provenance",
    "GGUF": "GGUF headers",
}
"""What the first word of a case's name says it attacks."""


def main() -> None:
    attacks: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    through: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        honest = {"BASE": str(write_base(home / "base")), "ADAPTER": str(write_adapter(home / "adapter"))}
        for number, (case, verbs) in enumerate(_cases()):
            kind = KINDS[case.name.split(":")[0]]
            made = home / f"{number:03}"
            made.mkdir()
            places = {**honest, "HOSTILE": str(case.make(made)), "OUT": str(home / "room" / "out")}
            attacks[kind] += 1
            for words in verbs.values():
                lines[kind] += 1
                through[kind] += _got_through(words, places, home / "room")
        rows = [(kind, attacks[kind], lines[kind], through[kind], "") for kind in attacks]
        rows.append(_bombs(home, honest))
    total = ("all", *(sum(int(row[column]) for row in rows) for column in (1, 2, 3)), rows[-1][-1])
    Figures(
        "python -m tests.hostile.figures",
        ("attacks on", "attacks", "command lines", "got through", "memory at most"),
        (*rows, total),
    ).write("hostile")


def _cases() -> Iterable[tuple[Hostile, Mapping[str, Words]]]:
    for case in (*hostile.CHECKPOINTS, *GGUF):
        yield case, CHECKPOINT_VERBS
    for case in ADAPTERS:
        yield case, {**ADAPTER_VERBS, **SHOWING}
    for case in RECORDS:
        yield case, {verb: words for verb, words in ADAPTER_VERBS.items() if "analyze" not in verb}
    for case in MEASURES:
        yield case, {"report": ("report", "--config", "HOSTILE", "--targets", "no_such_layer")}


def _got_through(words: Words, places: dict[str, str], room: Path) -> bool:
    """Whether it was more than a line: what only shows or cannot see the lie may answer, too."""
    result = run(words, places)
    if not result.exit_code:
        return "\x1b" in result.output or room.exists()
    try:
        is_refused(result, room)
    except AssertionError:
        return True
    return False


def _bombs(home: Path, honest: Mapping[str, str]) -> tuple[str, int, int, int, str]:
    memory, count, through = 0, 0, 0
    for number, bomb in enumerate(BOMBS):
        made = home / f"bomb-{number:03}"
        made.mkdir()
        places = {**honest, "BOMB": str(bomb.make(made)), "OUT": str(made / "room" / "out")}
        for verb in bomb.verbs:
            found = measured([places.get(word, word) for word in verb])
            count += 1
            through += "code" not in found or (bomb.refusal is not None and found["code"] != 1)
            memory = max(memory, int(str(found.get("memory", 0))))
    return ("memory and time", len(BOMBS), count, through, f"{memory / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
