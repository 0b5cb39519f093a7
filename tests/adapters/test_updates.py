"""The kinds of updates one by one, against closed forms in float64, and what all of them promise."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loratools.adapters.bias import Bias
from loratools.adapters.dora import Dora
from loratools.adapters.lowrank import LowRank
from loratools.adapters.replace import Replace, Rows
from loratools.adapters.update import Update, foundation, rows_of_block
from loratools.adapters.values import Values
from loratools.checkpoints.reference import open_checkpoint
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError

OUT, INTO, RANK = 11, 7, 3
TENSORS = {
    "A": (RANK, INTO),
    "B": (OUT, RANK),
    "m_out": (OUT,),
    "m_in": (INTO,),
    "bias": (OUT,),
    "whole": (OUT, INTO),
    "grown": (OUT + 2, INTO),
    "rows": (3, INTO),
}
INDICES = (10, 0, 4)


@pytest.fixture
def values(tmp_path: Path) -> Callable[[str], Values]:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in TENSORS.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    opened = open_checkpoint(tmp_path / "x.safetensors")
    return lambda name: Values(opened[name])


def weight(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)


def low_rank(values: Callable[[str], Values], *, transposed: bool = False, scaling: float = 0.75) -> LowRank:
    return LowRank(values("A"), values("B"), scaling, transposed)


def product(values: Callable[[str], Values], scaling: float = 0.75) -> torch.Tensor:
    return scaling * values("B").tensor(torch.float64) @ values("A").tensor(torch.float64)


def apply(update: Update, before: torch.Tensor, block: int = 4) -> torch.Tensor:
    """The update in blocks, prepared on the tensor itself."""
    rows, size = len(before), before.numel() * 8
    spec = TensorSpec("w", "float64", tuple(before.shape), size, Path(), 0)
    update.prepare(lambda first, count: before[first : first + count].clone(), spec)
    after = torch.cat([update.apply(before[n : n + block].clone(), n) for n in range(0, rows, block)])
    update.prepare(lambda first, count: before[first : first + count].numpy().copy(), spec)
    arrays = [update.apply(before[n : n + block].numpy().copy(), n) for n in range(0, rows, block)]
    torch.testing.assert_close(torch.from_numpy(np.concatenate(arrays)), after)  # numpy's blocks do the same
    return after


@pytest.mark.parametrize("transposed", [False, True], ids=["out in", "in out"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_low_rank(values: Callable[[str], Values], transposed: bool, dtype: torch.dtype) -> None:
    update = low_rank(values, transposed=transposed)
    expected = product(values).T if transposed else product(values)
    before = weight(*expected.shape, dtype=dtype)
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        apply(update, before).double(), before.double() + expected, rtol=tolerance, atol=tolerance
    )
    added = update.apply(torch.zeros(3, expected.shape[1], dtype=dtype), 2)
    assert added.dtype == dtype
    torch.testing.assert_close(added.double(), expected[2:5], rtol=tolerance, atol=tolerance)
    assert update.norm() == pytest.approx(float(torch.linalg.norm(expected)), rel=1e-12)
    assert (update.rank, update.parameters, update.subtractable) == (RANK, RANK * (OUT + INTO), True)


def test_low_rank_is_weighted(values: Callable[[str], Values]) -> None:
    update = low_rank(values).weighted(-2.0)
    assert update.scaling == -1.5
    torch.testing.assert_close(apply(update, torch.zeros(OUT, INTO).double()), product(values, -1.5))
    assert update.norm() == pytest.approx(float(torch.linalg.norm(product(values, -1.5))))
    assert not apply(low_rank(values).weighted(0.0), torch.zeros(OUT, INTO)).any()


def test_low_rank_names_both_shapes_where_it_does_not_fit(values: Callable[[str], Values]) -> None:
    with pytest.raises(LoratoolsError, match=r"make an update of \(11, 7\).* weight of \(7, 11\)"):
        low_rank(values).shape((INTO, OUT))
    assert low_rank(values, transposed=True).shape((INTO, OUT)) == (INTO, OUT)


def test_unbound_low_rank_is_a_bug(values: Callable[[str], Values]) -> None:
    with pytest.raises(ValueError, match="not bound"):
        LowRank(values("A"), values("B"), 1.0).apply(weight(OUT, INTO), 0)


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "stacked"])
def test_dora(values: Callable[[str], Values], transposed: bool, stacked: bool) -> None:
    """Norms per output: rows of (out, in), columns of (in, out); stacked, those of the first weight."""
    update = Dora(low_rank(values, transposed=transposed), values("m_out"))
    delta = product(values).T if transposed else product(values)
    before, running = weight(*delta.shape), weight(*delta.shape)
    axis = 0 if transposed else 1
    if stacked:
        update, running = update.after_others(), before + 0.3
    magnitude = values("m_out").tensor(torch.float64)
    norms = torch.linalg.norm(before + delta, dim=axis)
    expected = (running + delta) * (magnitude / norms if transposed else (magnitude / norms)[:, None])
    spec = TensorSpec("w", "float64", tuple(before.shape), before.numel() * 8, Path(), 0)
    update.prepare(lambda first, count: before[first : first + count].clone(), spec)
    blocks = [update.apply(running[n : n + 4].clone(), n) for n in range(0, len(running), 4)]
    torch.testing.assert_close(torch.cat(blocks), expected, rtol=1e-14, atol=1e-14)
    assert update.norm() is None and not update.subtractable
    assert update.parameters == RANK * (OUT + INTO) + OUT
    assert update.shape(tuple(before.shape)) == tuple(before.shape)


def test_dora_norms_over_many_blocks(
    values: Callable[[str], Values], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loratools.adapters.update.BLOCK_BYTES", 3 * 4 * OUT)
    update = Dora(low_rank(values, transposed=True), values("m_out"))
    before = weight(INTO, OUT)
    assert rows_of_block(TensorSpec("w", "float32", (INTO, OUT), 4 * INTO * OUT, Path(), 0)) == 3
    norms = torch.linalg.norm(before + product(values).T, dim=0)
    expected = (before + product(values).T) * values("m_out").tensor(torch.float64) / norms
    torch.testing.assert_close(apply(update, before), expected, rtol=1e-14, atol=1e-14)


def test_dora_refuses_what_it_cannot_mean(values: Callable[[str], Values]) -> None:
    with pytest.raises(LoratoolsError, match=r"magnitudes of \(7,\) do not fit a weight of \(11, 7\)"):
        Dora(low_rank(values), values("m_in")).shape((OUT, INTO))
    update = Dora(low_rank(values), values("m_out"))
    with pytest.raises(LoratoolsError, match=r"weight of 0\.5 cannot be given to DoRA"):
        update.weighted(0.5)
    assert update.weighted(1.0) is update
    with pytest.raises(LoratoolsError, match="zero in 4 outputs"):
        update.apply(-product(values)[:4], 0)
    with pytest.raises(ValueError, match="not prepared"):
        update.oriented(True).apply(weight(INTO, OUT), 0)


def test_replace(values: Callable[[str], Values]) -> None:
    update = Replace(values("whole"))
    assert torch.equal(
        apply(update, torch.full((OUT, INTO), torch.nan)), values("whole").tensor(torch.float64)
    )
    assert update.shape((OUT, INTO)) == (OUT, INTO)
    assert update.norm() is None and update.memory(values("whole").spec) == 0
    with pytest.raises(LoratoolsError, match=r"of \(13, 7\) cannot replace the base's of \(11, 7\)"):
        Replace(values("grown")).shape((OUT, INTO))
    assert Replace(values("grown")).may_resize().shape((OUT, INTO)) == (OUT + 2, INTO)
    with pytest.raises(LoratoolsError, match="cannot replace"):
        Replace(values("grown")).may_resize().shape((OUT, INTO + 1))


def test_rows(values: Callable[[str], Values]) -> None:
    update = Rows(values("rows"), INDICES)
    before = weight(OUT, INTO)
    expected = before.clone()
    expected[list(INDICES)] = values("rows").tensor(torch.float64)
    assert torch.equal(apply(update, before), expected)
    assert torch.equal(apply(update, before, block=1), expected)
    with pytest.raises(LoratoolsError, match="token 10 lies outside of the base's vocabulary of 10"):
        update.shape((10, INTO))
    with pytest.raises(LoratoolsError, match="do not fit"):
        update.shape((OUT, INTO + 1))


@pytest.mark.parametrize("make", [lambda v: Replace(v("whole")), lambda v: Rows(v("rows"), INDICES)])
def test_replacements_take_no_weight(make: Callable[..., Update], values: Callable[[str], Values]) -> None:
    update = make(values)
    assert update.weighted(1.0) is update
    with pytest.raises(LoratoolsError, match=r"weight of 0\.5 cannot be given .* in full"):
        update.weighted(0.5)
    assert not update.subtractable


def test_bias(values: Callable[[str], Values]) -> None:
    update = Bias(values("bias"), 0.5).weighted(3.0)
    expected = 1.5 * values("bias").tensor(torch.float64)
    before = weight(OUT)
    torch.testing.assert_close(apply(update, before), before + expected)
    assert update.norm() == pytest.approx(float(torch.linalg.norm(expected)))
    with pytest.raises(LoratoolsError, match="does not fit"):
        update.shape((OUT + 1,))


def kinds(values: Callable[[str], Values]) -> list[Update]:
    low = low_rank(values)
    return [
        low,
        Dora(low, values("m_out")),
        Replace(values("whole")),
        Rows(values("rows"), INDICES),
        Bias(values("bias"), 0.5),
    ]


@pytest.mark.parametrize("place", range(5), ids=["lora", "dora", "replace", "rows", "bias"])
def test_updates_are_picklable_and_the_same_in_blocks_of_any_size(
    place: int, values: Callable[[str], Values]
) -> None:
    update = kinds(values)[place]
    before = weight(OUT) if update.kind == "bias" else weight(OUT, INTO)
    expected = apply(update, before)
    again = pickle.loads(pickle.dumps(update))
    assert again == update
    torch.testing.assert_close(apply(again, before, block=5), expected, rtol=1e-14, atol=1e-14)
    assert set(update.sources) <= TENSORS.keys() and update.parameters > 0


def test_only_what_belongs_to_the_trained_weight_is_a_foundation(values: Callable[[str], Values]) -> None:
    assert [update.kind for update in foundation(tuple(kinds(values)))] == ["replace", "rows"]
