"""Where the processor time of an extraction goes, stage by stage, imports and the end of Python included.

    python tests/benchmarks/extract_profile.py --layers 2 --write

One extraction at rank 16 on one worker, in a process of its own whose functions look at the processor's clock
(`fixtures/stage_clock.py`); a stage's time is without that of the stages that it calls. Medians of some runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.campaign_figures import Cell, Figures
from fixtures.stage_clock import StageClock

COLUMNS = ("stage", "calls", "processor seconds", "share")
START, IMPORT, END, WHOLE = "start of Python", "importing torch and the verb", "end of Python", "all"

VERB, WORK, DELTA = (
    "loratools.operations.extract",
    "loratools.operations.extract_work",
    "loratools.operations.delta",
)
SEARCH, SVD = "loratools.linalg.search", "loratools.linalg.svd"
KRYLOV, LANCZOS = "loratools.linalg.krylov", "loratools.linalg.lanczos"

STAGES = {
    "opening and planning": [f"{VERB}:plan_extract"],
    "reading files": ["loratools.checkpoints.raw:TensorReader.read"],
    "BLAKE3": ["loratools.checkpoints.hashing:TensorHasher.update"],
    "comparing tensors that are not factored": [f"{WORK}:compare", f"{WORK}:hash_tensor"],
    "deltas: widening, subtracting": [f"{WORK}:difference"],
    "deltas: norms, finiteness": [f"{DELTA}:_Finite.look", f"{DELTA}:frobenius_squared"],
    "Krylov passes: products with the delta": [f"{KRYLOV}:both_ways"],
    "Krylov passes: orthogonalization": [f"{KRYLOV}:BlockKrylov.expand"],
    "certificate: products of its chain with the delta": [f"{LANCZOS}:both_ways"],
    "certificate: the rest of its chain": [
        f"{LANCZOS}:BlockLanczos.__init__", f"{LANCZOS}:BlockLanczos.expand", f"{SEARCH}:tail_bound",
    ],
    "certificate: bounds": [f"{SEARCH}:_Search._judge", f"{SEARCH}:leading_eigenvalue_bounds"],
    "triplets": [f"{SEARCH}:_Search._certified", f"{SVD}:krylov_svd", f"{WORK}:truncated_svd"],
    "factors: residuals as stored": [f"{WORK}:_residual"],
    "factors: rounding, writing": [f"{WORK}:_store"],
    "assembly": [f"{VERB}:assemble"],
    "publication": ["loratools.checkpoints.publication:Publication.publish"],
    "what is left of the run": [f"{VERB}:run_extract"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--pair", type=Path, metavar="FOLDER", help="with `base` and `tuned`, instead of new ones"
    )
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        once(*options.once)
        return
    with tempfile.TemporaryDirectory(prefix="extract-profile-") as work:
        folder = options.pair or _written(Path(work), options.layers)
        rows = table([one_run(folder, Path(work) / "out") for _ in range(options.rounds + 1)][1:])
    words = f"--layers {options.layers} --rounds {options.rounds} --write"
    figures = Figures(f"python tests/benchmarks/extract_profile.py {words}", COLUMNS, rows)
    print(figures.markdown())
    if options.write:
        figures.write(f"extract_profile-{options.layers}-layers")


def _written(folder: Path, layers: int) -> Path:
    from fixtures.pairs import llama_pair  # which imports torch: not where it is to be timed

    llama_pair(folder, layers=layers)
    return folder


Profile = dict[str, tuple[int, float]]
"""Calls and seconds, by stage."""


def one_run(folder: Path, output: Path) -> Profile:
    """Of the pair in the folder, `base` and `tuned`."""
    shutil.rmtree(output, ignore_errors=True)
    before = _children()
    words = [sys.executable, __file__, "--once", str(folder / "base"), str(folder / "tuned"), str(output)]
    told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: Profile = {stage: (calls, seconds) for stage, (calls, seconds) in json.loads(told).items()}
    whole = _children() - before
    found[END] = (1, whole - sum(seconds for _, seconds in found.values()))
    found[WHOLE] = (1, whole)
    return found


def once(base: str, tuned: str, output: str) -> None:
    """In a process of its own: the extraction, and its profile as JSON."""
    import gc

    started = time.process_time()
    gc.set_threshold(10_000, 20, 50)
    import loratools.operations.extract_work  # noqa: F401 (and torch with it)
    from loratools.operations.extract import extract

    imported = time.process_time()
    clock = StageClock(STAGES)
    begun = time.process_time()
    extract(base, tuned, output, rank=16, workers=1)
    ended = time.process_time()
    stages = {stage: (clock.calls[stage], seconds) for stage, seconds in clock.seconds.items()}
    left, watched = "what is left of the run", sum(seconds for _, seconds in stages.values())
    stages[left] = (1, stages[left][1] + ended - begun - watched)
    print(json.dumps({START: (1, started), IMPORT: (1, imported - started), **stages}), flush=True)
    gc.freeze()


def table(runs: Sequence[Profile]) -> list[tuple[Cell, ...]]:
    """Rows of `COLUMNS`, medians."""
    whole = statistics.median(run[WHOLE][1] for run in runs)
    rows: list[tuple[Cell, ...]] = []
    for stage, (calls, _) in runs[0].items():
        seconds = statistics.median(run[stage][1] for run in runs)
        rows.append((stage, calls, f"{seconds:.3f}", f"{100 * seconds / whole:.1f} %"))
    return rows


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
